// Package synthetic makes models of any shape and weight format out of nothing:
// random weights of sound sizes, the same on every machine. What an engine takes
// for them is what it takes for trained ones; what they say means nothing.
package synthetic

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/model"
	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/quant/f32"
	"github.com/shoal-llm/shoal/pkg/quant/formats"
)

// Shape is the shape of a model.
type Shape struct {
	Name    string
	Arch    string // empty is Llama's
	Layers  int
	Hidden  int
	FF      int // width of the feed-forward network, or of each expert
	Heads   int
	KVHeads int
	Vocab   int
	Context int
	Tied    bool // the head is the embedding
	Experts int  // networks of a mixture; 0 is none
	Used    int  // of them that a row goes through
}

// Shapes are the shapes that have names.
func Shapes() []Shape {
	return []Shape{
		{Name: "8b", Layers: 32, Hidden: 4096, FF: 14336, Heads: 32, KVHeads: 8, Vocab: 128256, Context: 8192},
		{Name: "1b", Layers: 16, Hidden: 2048, FF: 8192, Heads: 32, KVHeads: 8, Vocab: 128256, Context: 8192, Tied: true},
		{Name: "nano", Layers: 4, Hidden: 256, FF: 512, Heads: 4, KVHeads: 2, Vocab: 512, Context: 512, Tied: true},
	}
}

// Prefix begins the names of synthetic models wherever other models have names
// too.
const Prefix = "synthetic-"

// DefaultFormat is the weight format of a name that does not say one.
const DefaultFormat = "Q4_0"

// Open makes the model of a name: a shape, 8b, 1b (as Llama 3) or nano, and after
// a colon the format of its matrices, for example "8b" or "1b:Q4_K". The name may
// begin with Prefix.
func Open(name string) (*Model, error) {
	shapeName, formatName, ok := strings.Cut(strings.TrimPrefix(name, Prefix), ":")
	if !ok {
		formatName = DefaultFormat
	}
	format, ok := formats.ByName(formatName)
	if !ok {
		return nil, fmt.Errorf("synthetic model %q: no weight format %q", name, formatName)
	}
	var known []string
	for _, s := range Shapes() {
		if s.Name == shapeName {
			return New(s, format)
		}
		known = append(known, s.Name)
	}
	return nil, fmt.Errorf("synthetic model %q: no shape %q, want %s", name, shapeName, strings.Join(known, ", "))
}

// Model is a model of random weights. It is safe for concurrent use.
type Model struct {
	Name   string // begins with Prefix
	Arch   model.Arch
	Spec   model.Spec
	Source model.Source
	Digest [32]byte // SHA-256 of everything that the weights follow from
	weights
}

// New makes a model whose matrices have a format. It takes the memory of its
// largest matrix; the tensors share it.
func New(s Shape, f quant.Format) (*Model, error) {
	arch, err := s.arch()
	if err != nil {
		return nil, fmt.Errorf("synthetic model %s: %w", s.Name, err)
	}
	w := weights{shape: s, tensors: map[string]tensor{}}
	if err := w.list(arch, f); err != nil {
		return nil, fmt.Errorf("synthetic model %s: %w", s.Name, err)
	}
	w.fill(f)
	m := &Model{
		Name: Prefix + s.Name + ":" + f.Name, Arch: arch, Source: source{&w}, weights: w,
		Digest: sha256.Sum256(fmt.Appendf(nil, "synthetic 1 %+v %s", s, f.Name)),
	}
	if m.Spec, err = m.Arch.Parse(m.Source); err != nil {
		return nil, fmt.Errorf("synthetic model %s: %w", s.Name, err)
	}
	return m, nil
}

// Bytes returns the bytes of the tensors that a part needs.
func (m *Model) Bytes(p model.Part) uint64 {
	var n uint64
	for _, name := range m.Arch.Tensors(m.Spec, p) {
		n += uint64(m.tensors[name].bytes)
	}
	return n
}

// weights are the tensors of a model: pieces of a tape of random blocks.
type weights struct {
	shape   Shape
	tensors map[string]tensor
	tape    []byte // blocks of the matrices' format
	gains   []byte // float32 near 1, for vectors
}

// tensor is where a tensor lies.
type tensor struct {
	format     quant.Format
	rows, cols int
	bytes      int
	at         int // in tape, or in gains
}

// list lays out all tensors.
func (w *weights) list(arch model.Arch, f quant.Format) error {
	for _, name := range w.shape.names(arch) {
		rows, cols, err := w.shape.tensor(name)
		if err != nil {
			return err
		}
		if rows == 1 {
			w.tensors[name] = tensor{format: f32.Format, rows: 1, cols: cols, bytes: 4 * cols}
			continue
		}
		row, err := f.RowBytes(cols)
		if err != nil {
			return err
		}
		w.tensors[name] = tensor{format: f, rows: rows, cols: cols, bytes: row * rows}
	}
	return nil
}

// places is how many tensors lie apart before their places repeat.
const places = 1 << 12

// fill makes the tape, long enough for the largest matrix at any place, and
// gives every tensor its place.
func (w *weights) fill(f quant.Format) {
	largest := 0
	names := make([]string, 0, len(w.tensors))
	for name, t := range w.tensors {
		largest = max(largest, t.bytes)
		names = append(names, name)
	}
	slices.Sort(names)
	w.tape = tape(f, largest/f.BlockBytes+places, w.shape.Hidden)
	w.gains = gains(w.shape.Hidden + places)
	random := splitMix(1)
	for _, name := range names {
		t := w.tensors[name]
		block := f.BlockBytes
		if t.format.GGML == f32.Format.GGML && t.rows == 1 {
			block = 4
		}
		t.at = int(random.next()%places) * block
		w.tensors[name] = t
	}
}

// source gives the weights to an architecture.
type source struct{ *weights }

// Meta returns the hyperparameters.
func (s source) Meta() model.Meta { return meta(s.shape) }

// Tensor returns a piece of the tape.
func (s source) Tensor(name string) (compute.Matrix, bool) {
	t, ok := s.tensors[name]
	if !ok {
		return compute.Matrix{}, false
	}
	data := s.tape
	if t.rows == 1 {
		data = s.gains
	}
	return compute.Matrix{Name: name, Format: t.format, Rows: t.rows, Cols: t.cols, Data: data[t.at : t.at+t.bytes]}, true
}
