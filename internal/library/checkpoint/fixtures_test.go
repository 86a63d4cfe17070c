package checkpoint_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/internal/library/checkpoint"
	"github.com/shoal-llm/shoal/pkg/model/modeltest"
	"github.com/shoal-llm/shoal/pkg/quant/formats"
	"github.com/shoal-llm/shoal/pkg/safetensors"
)

// TestFixtureLogits: every architecture gives the framework's logits from
// safetensors, within the bounds of its GGUF twin.
func TestFixtureLogits(t *testing.T) {
	for _, c := range modeltest.Checkpoints(t) {
		t.Run(c.Name, func(t *testing.T) { modeltest.Goldens(t, c) })
	}
}

// TestFixtureTwins: a folder and its GGUF twin are the same model to everything
// else: shape, vocabulary, and the ids of a text.
func TestFixtureTwins(t *testing.T) {
	const text = "Hello, wörld  of 12 cafés!\n\tIt's   1234 — naïve 😀 été"
	for _, c := range modeltest.Checkpoints(t) {
		t.Run(c.Name, func(t *testing.T) {
			m := c.Open(t)
			twin, err := library.Library{}.Open(filepath.Join(c.Model, "model-f16.gguf"))
			if err != nil {
				t.Fatal(err)
			}
			defer twin.Close()
			want := twin.Spec
			want.Name = m.Spec.Name
			if want.Window == 0 { // GGUF files of the first architecture have no key for it
				want.Window = m.Spec.Window
			}
			if m.Spec != want {
				t.Errorf("%+v, want %+v", m.Spec, want)
			}
			if m.Parameters != twin.Parameters {
				t.Errorf("%d values, want %d", m.Parameters, twin.Parameters)
			}
			v, err := m.Vocab()
			if err != nil {
				t.Fatal(err)
			}
			w, err := twin.Vocab()
			if err != nil {
				t.Fatal(err)
			}
			for id := range int32(w.Len()) {
				if v.Text(id) != w.Text(id) || v.Type(id) != w.Type(id) {
					t.Errorf("token %d is %q of type %d, want %q of type %d", id, v.Text(id), v.Type(id), w.Text(id), w.Type(id))
				}
			}
			if v.BOS() != w.BOS() || v.EOS() != w.EOS() || v.AddBOS() != w.AddBOS() || !slices.Equal(v.End(), w.End()) {
				t.Errorf("begin %d, end %d %v, begins %v; want %d, %d %v, %v", v.BOS(), v.EOS(), v.End(), v.AddBOS(), w.BOS(), w.EOS(), w.End(), w.AddBOS())
			}
			if got, want := v.Encode(text), w.Encode(text); !slices.Equal(got, want) {
				t.Errorf("ids %v, want %v", got, want)
			}
		})
	}
}

// TestFixtureShardedIsSingle joins the files of a sharded model to one: every tensor
// has the same bytes.
func TestFixtureShardedIsSingle(t *testing.T) {
	var sharded string
	for _, c := range modeltest.Checkpoints(t) {
		if _, err := os.Stat(filepath.Join(c.Model, safetensors.IndexName)); err == nil {
			sharded = c.Model
		}
	}
	single := t.TempDir()
	config, err := os.ReadFile(filepath.Join(sharded, checkpoint.ConfigName))
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{checkpoint.ConfigName: config, safetensors.SingleName: join(t, sharded)} {
		if err := os.WriteFile(filepath.Join(single, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	a, b := open(t, sharded), open(t, single)
	if len(a.Tensors()) < 20 || len(a.Tensors()) != len(b.Tensors()) {
		t.Fatalf("%d and %d tensors", len(a.Tensors()), len(b.Tensors()))
	}
	for _, x := range a.Tensors() {
		y, ok := b.Tensor(x.Name)
		if !ok || x.Rows != y.Rows || x.Cols != y.Cols || !bytes.Equal(data(t, x), data(t, y)) {
			t.Errorf("%s differs", x.Name)
		}
	}
}

func open(t *testing.T, dir string) *checkpoint.Checkpoint {
	t.Helper()
	c, err := checkpoint.Open(dir, formats.All())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// join writes the tensors of all files of a folder as one file.
func join(t *testing.T, dir string) []byte {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	set, err := safetensors.Open(root, ".")
	if err != nil {
		t.Fatal(err)
	}
	defer set.Close()
	type info struct {
		DType   safetensors.DType `json:"dtype"`
		Shape   []uint64          `json:"shape"`
		Offsets [2]int            `json:"data_offsets"`
	}
	header, data := map[string]info{}, []byte(nil)
	all := map[string]safetensors.Tensor{}
	for _, f := range set.Files() {
		for _, tensor := range f.Tensors() {
			all[tensor.Name] = tensor
		}
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		x := all[name]
		header[name] = info{x.DType, x.Shape, [2]int{len(data), len(data) + len(x.Data)}}
		data = append(data, x.Data...)
	}
	text, err := json.Marshal(header)
	if err != nil {
		t.Fatal(err)
	}
	return slices.Concat(binary.LittleEndian.AppendUint64(nil, uint64(len(text))), text, data)
}

func data(t *testing.T, x checkpoint.Tensor) []byte {
	t.Helper()
	b, err := x.Data()
	if err != nil {
		t.Fatal(err)
	}
	return b
}
