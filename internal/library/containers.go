package library

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/shoal-llm/shoal/internal/library/checkpoint"
	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/gguf"
	"github.com/shoal-llm/shoal/pkg/model"
	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/token"
)

// Range is bytes of a file of a model.
type Range struct {
	File         string
	Offset, Size uint64
}

// container is what a model is stored in, under the names and keys of GGUF.
type container interface {
	Metadata() metadata
	// Tensors describes all tensors; a vector is one row, and matrices of a third
	// dimension follow one another.
	Tensors() []description
	Describe(name string) (description, bool)
	// Data returns the bytes of a tensor, valid until Close. Where they are read from
	// elsewhere, that may fail.
	Data(name string) ([]byte, error)
	// Ranges returns where the bytes of a tensor lie.
	Ranges(name string) []Range
	// Heads returns what lies before the tensors, of each file that has any.
	Heads() []Range
	Size() int64
	// Digest is the SHA-256 of metadata and tensor table.
	Digest() [32]byte
	Close() error
}

// metadata are typed values.
type metadata interface {
	token.Metadata
	Uint64(key string) (uint64, error)
	Float32(key string) (float32, error)
}

// description is a tensor without its data.
type description struct {
	name       string
	format     quant.Format
	rows, cols uint64
	size       uint64
}

// ggufFile is a GGUF file, or the heads of files that are elsewhere.
type ggufFile struct {
	*gguf.File
	names []string // of the files
	read  func(r Range) ([]byte, error)
}

// mapped is a GGUF file on this machine.
func mapped(f *gguf.File, name string) ggufFile { return ggufFile{File: f, names: partNames(name, f)} }

// partNames returns the names of the files of a model, by that of the first.
func partNames(first string, f *gguf.File) []string {
	names := []string{first}
	files := 1
	for _, t := range f.Tensors() {
		files = max(files, t.File+1)
	}
	if n, err := f.Meta().Uint64("split.count"); err == nil && n < 1<<17 {
		files = max(files, int(n))
	}
	prefix, ok := strings.CutSuffix(first, gguf.PartName("", 0, files))
	for i := 1; i < files && ok; i++ {
		names = append(names, gguf.PartName(prefix, i, files))
	}
	return names
}

func (f ggufFile) rangeOf(t gguf.Tensor) Range { return Range{f.names[t.File], t.Offset, t.Size} }

func (f ggufFile) Ranges(name string) []Range {
	t, ok := f.Tensor(name)
	if !ok || t.File >= len(f.names) {
		return nil
	}
	return []Range{f.rangeOf(t)}
}

func (f ggufFile) Heads() []Range {
	first := make([]uint64, len(f.names))
	for _, t := range f.File.Tensors() {
		if t.File < len(first) && (first[t.File] == 0 || t.Offset < first[t.File]) {
			first[t.File] = t.Offset
		}
	}
	out := make([]Range, len(f.names))
	for i, name := range f.names {
		out[i] = Range{File: name, Size: first[i]}
	}
	return out
}

func (f ggufFile) Metadata() metadata { return f.Meta() }
func (f ggufFile) Digest() [32]byte   { return sha256.Sum256(f.Header()) }

func (f ggufFile) Tensors() []description {
	var out []description
	for _, t := range f.File.Tensors() {
		out = append(out, ggufTensor(t))
	}
	return out
}

func (f ggufFile) Describe(name string) (description, bool) {
	t, ok := f.Tensor(name)
	if !ok {
		return description{}, false
	}
	return ggufTensor(t), true
}

func (f ggufFile) Data(name string) ([]byte, error) {
	t, ok := f.Tensor(name)
	if ok && t.Data == nil && f.read != nil {
		return f.read(f.rangeOf(t))
	}
	return t.Data, nil
}

func ggufTensor(t gguf.Tensor) description {
	return description{name: t.Name, format: t.Format, rows: t.Rows(), cols: t.Dims[0], size: t.Size}
}

// folder is a checkpoint.
type folder struct {
	*checkpoint.Checkpoint
	names []string // of the weight files
	small []Range  // the other files
}

func (f folder) Ranges(name string) (out []Range) {
	t, _ := f.Tensor(name)
	for _, p := range t.Places() {
		if p.File < len(f.names) {
			out = append(out, Range{f.names[p.File], p.Offset, p.Size})
		}
	}
	return out
}

func (f folder) Heads() []Range {
	out := slices.Clone(f.small)
	for i, file := range f.Files() {
		if i < len(f.names) {
			out = append(out, Range{File: f.names[i], Size: uint64(len(file.Header()))})
		}
	}
	return out
}

func (f folder) Metadata() metadata { return f.Meta() }

func (f folder) Tensors() []description {
	var out []description
	for _, t := range f.Checkpoint.Tensors() {
		out = append(out, folderTensor(t))
	}
	return out
}

func (f folder) Describe(name string) (description, bool) {
	t, ok := f.Tensor(name)
	if !ok {
		return description{}, false
	}
	return folderTensor(t), true
}

func (f folder) Data(name string) ([]byte, error) {
	t, ok := f.Tensor(name)
	if !ok {
		return nil, nil
	}
	return t.Data()
}

func folderTensor(t checkpoint.Tensor) description {
	return description{name: t.Name, format: t.Format, rows: uint64(t.Rows), cols: uint64(t.Cols), size: t.Size()}
}

// source is a container as models see it.
type source struct {
	container
	failed *failure
}

// failure keeps the first error of reading weights: who asks for a tensor cannot be
// told otherwise than by bytes that are missing.
type failure struct {
	mu  sync.Mutex
	err error // guarded by mu
}

func (f *failure) note(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = err
	}
}

func (s source) Meta() model.Meta { return meta{s.Metadata()} }

// Outline describes tensors without reading them.
func (s source) Outline() model.Source { return outline{s.container} }

// Tensor returns a tensor. Where its bytes cannot be read it has none, which no
// device takes.
func (s source) Tensor(name string) (compute.Matrix, bool) {
	m, _, ok := shapeOf(s.container, name)
	if !ok {
		return m, false
	}
	var err error
	if m.Data, err = s.Data(name); err != nil {
		s.failed.note(fmt.Errorf("read %s: %w", name, err))
		m.Data, m.Rows = nil, 0
	}
	return m, true
}

// shapeOf describes a tensor, without its bytes but with their number.
func shapeOf(c container, name string) (m compute.Matrix, size uint64, ok bool) {
	t, ok := c.Describe(name)
	const most = 1 << 30
	if !ok || t.cols > most || t.rows > most {
		return compute.Matrix{}, 0, false
	}
	return compute.Matrix{Name: name, Format: t.format, Rows: int(t.rows), Cols: int(t.cols)}, t.size, true
}

// outline is a container whose weights nobody looks at: it is weighed, not loaded.
type outline struct{ container }

func (o outline) Meta() model.Meta { return meta{o.Metadata()} }

// Tensor returns a tensor without its bytes. A vector, which may be decoded, has
// others in their place.
func (o outline) Tensor(name string) (compute.Matrix, bool) {
	m, size, ok := shapeOf(o.container, name)
	if ok && m.Rows == 1 {
		m.Data = standIn(size)
	}
	return m, ok
}

// standIns is a container with other bytes in the place of its weights: what is
// timed and not asked for answers needs none of them.
type standIns struct{ outline }

// Tensor returns a tensor of made-up bytes.
func (o standIns) Tensor(name string) (compute.Matrix, bool) {
	m, size, ok := shapeOf(o.container, name)
	if ok {
		m.Data = standIn(size)
	}
	return m, ok
}

// standIn makes bytes that are small positive numbers in every format: as float32,
// float16 and bfloat16, and so as scales of blocks too.
func standIn(size uint64) []byte {
	b := make([]byte, size)
	for i := range b {
		b[i] = 0x3C
	}
	return b
}

// meta is metadata as models see it.
type meta struct{ metadata }

func (m meta) String(key string) (string, bool) {
	v, err := m.metadata.String(key)
	return v, err == nil
}
func (m meta) Uint64(key string) (uint64, bool) {
	v, err := m.metadata.Uint64(key)
	return v, err == nil
}
func (m meta) Bool(key string) (bool, bool) { v, err := m.metadata.Bool(key); return v, err == nil }
func (m meta) Float64(key string) (float64, bool) {
	v, err := m.metadata.Float32(key)
	return float64(v), err == nil
}
func (m meta) Float64s(key string) ([]float64, bool) {
	v, err := m.Float32s(key)
	if err != nil {
		return nil, false
	}
	out := make([]float64, len(v))
	for i, x := range v {
		out[i] = float64(x)
	}
	return out, true
}

func (m meta) Uint64s(key string) ([]uint64, bool) {
	v, err := m.Int32s(key)
	if err != nil {
		return nil, false
	}
	out := make([]uint64, len(v))
	for i, n := range v {
		if n < 0 {
			return nil, false
		}
		out[i] = uint64(n)
	}
	return out, true
}
