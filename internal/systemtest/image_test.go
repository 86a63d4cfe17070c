package systemtest

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shoal-llm/shoal/internal/golden"
)

// buildContext are the rules of .dockerignore, in order: the last that matches a
// path or one of its folders decides.
type buildContext []string

func readContext(t *testing.T) buildContext {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(golden.Root(), ".dockerignore"))
	if err != nil {
		t.Fatal(err)
	}
	var rules buildContext
	for line := range strings.Lines(string(b)) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			rules = append(rules, line)
		}
	}
	return rules
}

// has reports whether a file comes along when the image is built.
func (rules buildContext) has(file string) bool {
	in := true
	for _, rule := range rules {
		pattern, keep := strings.CutPrefix(rule, "!")
		if covers(pattern, file) {
			in = keep
		}
	}
	return in
}

// covers reports whether a pattern matches a path or one of its folders; **/ is
// any depth.
func covers(pattern, file string) bool {
	deep, anywhere := strings.CutPrefix(pattern, "**/")
	for p := file; p != "."; p = path.Dir(p) {
		name := p
		if anywhere {
			name = path.Base(p)
		}
		if ok, err := path.Match(deep, name); ok && err == nil {
			return true
		}
	}
	return false
}

// TestImageHasWhatItNeeds: every file that the program is built of is in the
// build's context, and nothing that is secret.
func TestImageHasWhatItNeeds(t *testing.T) {
	ctx := within(t, time.Minute)
	list := exec.CommandContext(ctx, "go", "list", "-deps", "-json=Dir,Module,GoFiles,SFiles,EmbedFiles", "./cmd/shoal")
	list.Dir, list.Env = golden.Root(), append(os.Environ(), "CGO_ENABLED=0")
	out, err := list.Output()
	if err != nil {
		t.Fatalf("list packages: %v", err)
	}
	rules, files := readContext(t), []string{"go.mod", "go.sum"}
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p struct {
			Dir                         string
			Module                      *struct{ Main bool }
			GoFiles, SFiles, EmbedFiles []string
		}
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if p.Module == nil || !p.Module.Main {
			continue
		}
		dir, err := filepath.Rel(golden.Root(), p.Dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range append(append(p.GoFiles, p.SFiles...), p.EmbedFiles...) {
			files = append(files, path.Join(filepath.ToSlash(dir), f))
		}
	}
	if len(files) < 50 {
		t.Fatalf("the program is built of %v alone?", files)
	}
	for _, f := range files {
		if !rules.has(f) {
			t.Errorf("%s is missing when the image is built", f)
		}
	}
	for _, f := range []string{"secrets/cluster.key", "secrets/api.key", ".git/config", ".env", ".cache/models/a.gguf", "bin/shoal"} {
		if rules.has(f) {
			t.Errorf("%s gets into the image's build", f)
		}
	}
}

// TestImageRunsWithoutRights: the last stage is empty but for the program, and
// it is nobody who runs it.
func TestImageRunsWithoutRights(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(golden.Root(), "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	last := text[strings.LastIndex(text, "\nFROM "):]
	for _, line := range []string{"FROM scratch", "USER 65532:65532", `ENTRYPOINT ["/shoal"]`, "STOPSIGNAL SIGTERM"} {
		if !strings.Contains(last, "\n"+line+"\n") {
			t.Errorf("the last stage of the Dockerfile does not say %s", line)
		}
	}
	if !strings.Contains(last, `CMD ["/shoal", "health"]`) || !strings.Contains(last, "HEALTHCHECK ") {
		t.Error("the image has no health check")
	}
}
