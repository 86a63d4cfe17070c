// Command composecheck checks a compose file against the JSON schema of the
// compose specification and loads it as Docker Compose does, without an engine.
// It is a module of its own, so that the product does not depend on the loader.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/compose-spec/compose-go/v2/cli"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: composecheck FILE")
		os.Exit(2)
	}
	if err := check(context.Background(), os.Args[1]); err != nil {
		fmt.Fprintf(os.Stderr, "composecheck: %v\n", err)
		os.Exit(1)
	}
}

// check loads the file: the loader replaces variables, resolves anchors,
// validates against the schema, and then checks what a schema cannot say, such
// as services, secrets and volumes that are named and not defined.
func check(ctx context.Context, path string) error {
	abs, err := filepath.Abs(path)
	if err != nil {
		return fmt.Errorf("find %s: %w", path, err)
	}
	options, err := cli.NewProjectOptions([]string{abs}, cli.WithWorkingDirectory(filepath.Dir(abs)))
	if err != nil {
		return fmt.Errorf("prepare to load %s: %w", path, err)
	}
	project, err := options.LoadProject(ctx)
	if err != nil {
		return fmt.Errorf("load %s: %w", path, err)
	}
	for _, name := range project.ServiceNames() {
		fmt.Println(name, project.Services[name].Command)
	}
	fmt.Printf("%s meets the compose specification: %d services\n", path, len(project.Services))
	return nil
}
