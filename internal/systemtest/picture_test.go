package systemtest

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/models/tiny"
	"github.com/shoal-llm/shoal/pkg/vision/visiontest"
)

// TestPictures: a cluster says of a picture what one process says, by the OpenAI API and
// by the socket of the guide.
func TestPictures(t *testing.T) {
	dir := t.TempDir()
	m, err := library.Library{}.Open(library.Default)
	if err != nil {
		t.Fatal(err)
	}
	hidden := m.Spec.Hidden
	m.Close()
	picture := filepath.Join(dir, "picture.png")
	for name, data := range map[string][]byte{
		"seeing.gguf": tiny.Files()[0].Data, "mmproj-seeing.gguf": visiontest.File(hidden, 1, 1, nil), "picture.png": visiontest.Picture(1),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ctx := within(t, time.Minute)
	const question = "Look: what do you see?"
	run := func(more ...string) string { // at a temperature at which small differences show
		out, stderr, code := shoal(ctx, t, nil, append([]string{
			"run", "seeing", question, "--models", dir, "--temperature", "1.5", "--seed", "2", "--max-tokens", "30"}, more...)...)
		if code != 0 {
			t.Fatalf("shoal run: code %d, %s", code, stderr)
		}
		return strings.TrimSuffix(out, "\n")
	}
	want := run("--image", picture)
	if want == run() {
		t.Fatal("the picture makes no difference, which proves nothing")
	}
	u := startUp(ctx, t, nil, "--listen=127.0.0.1:0", "--models", dir, "seeing")
	url := "data:image/png;base64," + base64.StdEncoding.EncodeToString(visiontest.Picture(1))
	content := []object{{"type": "image_url", "image_url": object{"url": url}}, {"type": "text", "text": question}}
	s := u.dial(ctx, t)
	eventually(ctx, t, "no answer", func() error { // the model may be loading
		done, err := u.complete(ctx, object{"messages": []object{{"role": "user", "content": content}}, "temperature": 1.5, "seed": 2, "max_tokens": 30})
		if err != nil {
			return err
		}
		if got := done.Choices[0].Message.Content; got != want {
			t.Errorf("the OpenAI API answers %q, want %q", got, want)
		}
		return nil
	})
	if err := s.send(ctx, object{"prompt": question, "images": []string{url}, "temperature": 1.5, "seed": 2, "maxTokens": 30}); err != nil {
		t.Fatal(err)
	}
	if got, end, err := s.answer(ctx, func(message) error { return nil }); err != nil || end.Type != "complete" || got != want {
		t.Errorf("the socket answers %q, %+v, %v, want %q", got, end, err, want)
	}
}
