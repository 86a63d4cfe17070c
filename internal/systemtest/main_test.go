package systemtest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/shoal-llm/shoal/internal/golden"
)

// binary is the program under test: set by TestMain, then only read.
var binary string

func TestMain(m *testing.M) { os.Exit(build(m)) }

// build makes the program as releases do, runs the tests and removes it.
func build(m *testing.M) int {
	dir, err := os.MkdirTemp("", "shoal-system-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "shoal")
	if runtime.GOOS == "windows" {
		binary += ".exe"
	}
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", binary, "./cmd/shoal")
	c.Dir, c.Env = golden.Root(), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build shoal: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// within returns a context that ends with the test or after d: a test that
// hangs fails by it.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// eventually asks until check returns nil; the end of ctx fails the test with
// the last error.
func eventually(ctx context.Context, t *testing.T, what string, check func() error) {
	t.Helper()
	const pause = 20 * time.Millisecond
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, err)
		case <-time.After(pause):
		}
	}
}
