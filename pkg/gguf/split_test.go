package gguf

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/shoal-llm/shoal/pkg/gguf/gguftest"
	"github.com/shoal-llm/shoal/pkg/quant/formats"
)

// part makes file i of n, which holds tensors of two values of f16.
func part(i, n, total int, names ...string) []byte {
	b := gguftest.New().KV("split.no", uint16(i)).KV("split.count", uint16(n)).KV("split.tensors.count", int32(total))
	for _, name := range names {
		b.Tensor(name, []uint64{2}, f16, []byte(fmt.Sprintf("%-4.4s", name)))
	}
	return b.Bytes()
}

// openParts writes files m-0000i-of-0000n.gguf and opens the first.
func openParts(t *testing.T, n int, parts ...[]byte) (*File, error) {
	t.Helper()
	dir := t.TempDir()
	for i, p := range parts {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("m-%05d-of-%05d.gguf", i+1, n)), p, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return Open(filepath.Join(dir, fmt.Sprintf("m-00001-of-%05d.gguf", n)), Options{Formats: formats.All()})
}

func TestSplitFilesAreOneModel(t *testing.T) {
	parts := [][]byte{part(0, 3, 3), part(1, 3, 3, "a", "b"), part(2, 3, 3, "c")}
	f, err := openParts(t, 3, parts...)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	size := 0
	for _, p := range parts {
		size += len(p)
	}
	if len(f.Tensors()) != 3 || f.Size() != int64(size) {
		t.Errorf("%d tensors in %d bytes, want 3 in %d", len(f.Tensors()), f.Size(), size)
	}
	for _, name := range []string{"a", "b", "c"} {
		if got, ok := f.Tensor(name); !ok || string(got.Data) != fmt.Sprintf("%-4.4s", name) {
			t.Errorf("%s is %q", name, got.Data)
		}
		if !bytes.Contains(f.Header(), []byte(name)) {
			t.Errorf("the header does not describe %s", name)
		}
	}
}

// TestHeadsOfSplitFiles: the heads of all files are one model, in order only.
func TestHeadsOfSplitFiles(t *testing.T) {
	parts := [][]byte{part(0, 2, 3, "a"), part(1, 2, 3, "b", "c")}
	heads := make([]Head, 2)
	for i, p := range parts {
		heads[i] = Head{p[:len(p)-1], uint64(len(p))}
	}
	opts := Options{Formats: formats.All()}
	f, err := ParseHeads(heads, opts)
	if err != nil {
		t.Fatal(err)
	}
	c, ok := f.Tensor("c")
	if !ok || c.File != 1 || string(parts[1][c.Offset:][:c.Size]) != "c   " {
		t.Errorf("c is at %+v", c)
	}
	if n, err := SplitCount(heads[0], opts); n != 2 || err != nil {
		t.Error(n, err)
	}
	for name, bad := range map[string][]Head{"one is missing": heads[:1], "turned": {heads[1], heads[0]}, "the first alone": heads[1:], "one twice": {heads[0], heads[0]}} {
		if _, err := ParseHeads(bad, opts); !errors.Is(err, ErrSplit) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestBadSplits is row MF21.
func TestBadSplits(t *testing.T) {
	first, second := part(0, 2, 2, "a"), part(1, 2, 2, "b")
	for name, c := range map[string]struct {
		n     int
		parts [][]byte
	}{
		"a file is missing":     {2, [][]byte{first}},
		"wrong number":          {2, [][]byte{first, part(0, 2, 2, "b")}},
		"opened at the second":  {2, [][]byte{second, second}},
		"of another model":      {2, [][]byte{first, part(1, 3, 2, "b")}},
		"not part of any":       {2, [][]byte{first, good().Bytes()}},
		"more tensors":          {2, [][]byte{first, part(1, 2, 2, "b", "c")}},
		"a tensor twice":        {2, [][]byte{first, part(1, 2, 2, "a")}},
		"named otherwise":       {3, [][]byte{first, second, second}},
		"a million files":       {1, [][]byte{gguftest.New().KV("split.no", uint16(0)).KV("split.count", uint32(1_000_000)).Bytes()}},
		"the second is damaged": {2, [][]byte{first, second[:len(second)-1]}},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := openParts(t, c.n, c.parts...); !errors.Is(err, ErrSplit) {
				t.Errorf("%v, want %v", err, ErrSplit)
			}
		})
	}
}
