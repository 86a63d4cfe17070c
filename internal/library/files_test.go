package library

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/shoal-llm/shoal/internal/golden"
	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/model"
)

// remote are files of which it is noted what was read.
type remote struct {
	files map[string][]byte
	heads map[string]int
	read  map[string][]Range
	fail  error
}

func (f *remote) Names() (out []string) {
	for name := range f.files {
		out = append(out, name)
	}
	return out
}
func (f *remote) Size(name string) uint64 { return uint64(len(f.files[name])) }
func (f *remote) Head(name string, n uint64) ([]byte, error) {
	n = min(n, f.Size(name))
	f.heads[name] = max(f.heads[name], int(n))
	return slices.Clone(f.files[name][:n]), nil
}
func (f *remote) Read(r Range) ([]byte, error) {
	f.read[r.File] = append(f.read[r.File], r)
	return bytes.Clone(f.files[r.File][r.Offset:][:r.Size]), f.fail
}

func remoteOf(t *testing.T, paths ...string) *remote {
	t.Helper()
	f := &remote{files: map[string][]byte{}, heads: map[string]int{}, read: map[string][]Range{}}
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		f.files[filepath.Base(p)] = b
	}
	return f
}

// TestModelsFromElsewhere: a model of which only the heads are here is the model that
// it is as a local file: facts, footprint, and every tensor when it is asked for.
func TestModelsFromElsewhere(t *testing.T) {
	folders, err := filepath.Glob(filepath.Join(golden.Dir(t), "models", "*"))
	if err != nil || len(folders) < 8 {
		t.Fatal(folders, err)
	}
	for _, dir := range folders {
		gguf := filepath.Join(dir, "model-f16.gguf")
		compareElsewhere(t, gguf, remoteOf(t, gguf))
		weights, _ := filepath.Glob(filepath.Join(dir, "*.safetensors*"))
		if len(weights) == 0 {
			continue
		}
		texts, _ := filepath.Glob(filepath.Join(dir, "*.json"))
		compareElsewhere(t, dir, remoteOf(t, slices.Compact(slices.Sorted(slices.Values(append(weights, texts...))))...))
	}
}

func compareElsewhere(t *testing.T, path string, files *remote) {
	t.Helper()
	local, err := Library{}.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	m, err := OpenFiles(local.Name, files)
	if err != nil {
		t.Errorf("%s: %v", path, err)
		return
	}
	if m.Digest != local.Digest || m.Size != local.Size || m.Precision != local.Precision || m.Parameters != local.Parameters {
		t.Errorf("%s: %+v is not %+v", path, m, local)
	}
	a, err := m.Footprint(compute.KVClass{})
	b, err2 := local.Footprint(compute.KVClass{})
	if err != nil || err2 != nil || len(a.Layers) != len(b.Layers) || a.Head != b.Head || a.KVPage != b.KVPage || !slices.Equal(a.Shapes, b.Shapes) {
		t.Errorf("%s: %+v, %v; %+v, %v", path, a, err, b, err2)
	}
	if len(files.read) > 0 {
		t.Errorf("%s: weights were read before they were needed: %v", path, files.read)
	}
	heads := map[string]uint64{}
	for _, r := range m.Heads() {
		heads[r.File] = r.Size
	}
	for _, p := range []model.Part{{First: 0, End: 1, Embed: true}, {First: 1, End: m.Spec.Layers, Head: true}} {
		clear(files.read)
		needs := m.Needs(p)
		for _, name := range m.Arch.Tensors(m.Spec, p) {
			got, ok := m.Source.Tensor(name)
			want, ok2 := local.Source.Tensor(name)
			if ok != ok2 || !bytes.Equal(got.Data, want.Data) || got.Rows != want.Rows || got.Format.Name != want.Format.Name {
				t.Errorf("%s: %s is another", path, name)
			}
		}
		if _, err := m.Arch.Load(&scale{vocab: m.Spec.Vocab}, m.Source, m.Spec, p, model.Limits{Rows: 4, Logits: 4, Pages: 1, Positions: 1}); err != nil {
			t.Errorf("%s %v: %v", path, p, err)
		}
		for file, read := range files.read {
			for _, r := range read {
				if !slices.Contains(needs, r) || r.Offset < heads[file] {
					t.Errorf("%s %v: %v was read, which is not needed", path, p, r)
				}
			}
		}
	}
	if err := m.Err(); err != nil {
		t.Error(err)
	}
	files.fail = errors.New("gone")
	if got, _ := m.Source.Tensor("token_embd.weight"); got.Data != nil || !errors.Is(m.Err(), files.fail) {
		t.Errorf("%s: bytes that could not be read are %d bytes, %v", path, len(got.Data), m.Err())
	}
}

// TestFilesElsewhereAreChecked: heads that are none are refused, and little is read
// of them.
func TestFilesElsewhereAreChecked(t *testing.T) {
	for name, files := range map[string]map[string][]byte{
		"nothing":         {},
		"another format":  {"model.bin": make([]byte, 100)},
		"no magic":        {"model.gguf": make([]byte, 10<<20)},
		"a lone part":     {"config.json": []byte("{}")},
		"no weights":      {"config.json": []byte(`{"model_type":"llama"}`), "model.safetensors.index.json": []byte(`{"weight_map":{"x":"a.safetensors"}}`)},
		"a path in index": {"config.json": []byte(`{"model_type":"llama"}`), "model.safetensors.index.json": []byte(`{"weight_map":{"x":"../a.safetensors"}}`)},
	} {
		f := &remote{files: files, heads: map[string]int{}, read: map[string][]Range{}}
		if _, err := OpenFiles("m", f); err == nil {
			t.Errorf("%s: no error", name)
		}
		if f.heads["model.gguf"] > firstHead {
			t.Errorf("%s: %d bytes were read", name, f.heads["model.gguf"])
		}
	}
}
