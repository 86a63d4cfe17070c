package gguf

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/shoal-llm/shoal/internal/golden"
	"github.com/shoal-llm/shoal/pkg/quant/formats"
)

// TestHeadsDescribeTheWhole: the head of a file says the same as all of it, and one
// that is too short is refused, wherever it ends.
func TestHeadsDescribeTheWhole(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(golden.Dir(t), "models", "llama", "model-f16.gguf"))
	if err != nil {
		t.Skip(err)
	}
	opts := Options{Formats: formats.All()}
	whole, err := Parse(data, opts)
	if err != nil {
		t.Fatal(err)
	}
	n := len(whole.Header())
	for _, have := range []int{n, n + 1, n + 1000, len(data) - 1, len(data)} {
		f, err := ParseHeads([]Head{{data[:have], uint64(len(data))}}, opts)
		if err != nil {
			t.Fatalf("%d bytes: %v", have, err)
		}
		if !bytes.Equal(f.Header(), whole.Header()) || f.Size() != whole.Size() || len(f.Tensors()) != len(whole.Tensors()) {
			t.Fatalf("%d bytes say something else than all", have)
		}
		for i, tensor := range f.Tensors() {
			want := whole.Tensors()[i]
			if tensor.Offset != want.Offset || tensor.Size != want.Size || tensor.Name != want.Name || tensor.Data != nil {
				t.Fatalf("tensor %+v, want %+v", tensor, want)
			}
		}
	}
	for have := 0; have < n; have += 1 + have/50 {
		if _, err := ParseHeads([]Head{{data[:have], uint64(len(data))}}, opts); err == nil {
			t.Fatalf("a head of %d bytes passes", have)
		}
	}
	if _, err := ParseHeads([]Head{{data[:n], uint64(n)}}, opts); !errors.Is(err, ErrShape) && !errors.Is(err, ErrOffset) {
		t.Errorf("tensors beyond the file: %v", err)
	}
	if _, err := ParseHeads(nil, opts); !errors.Is(err, ErrSplit) {
		t.Error(err)
	}
}
