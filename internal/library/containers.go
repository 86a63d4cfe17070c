package library

import (
	"crypto/sha256"

	"github.com/shoal-llm/shoal/internal/library/checkpoint"
	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/gguf"
	"github.com/shoal-llm/shoal/pkg/model"
	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/token"
)

// container is what a model is stored in, under the names and keys of GGUF.
type container interface {
	Metadata() metadata
	// Tensors describes all tensors; a vector is one row, and matrices of a third
	// dimension follow one another.
	Tensors() []description
	Describe(name string) (description, bool)
	// Data returns the bytes of a tensor, valid until Close.
	Data(name string) []byte
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

// ggufFile is a GGUF file.
type ggufFile struct{ *gguf.File }

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

func (f ggufFile) Data(name string) []byte {
	t, _ := f.Tensor(name)
	return t.Data
}

func ggufTensor(t gguf.Tensor) description {
	return description{name: t.Name, format: t.Format, rows: t.Rows(), cols: t.Dims[0], size: t.Size}
}

// folder is a checkpoint.
type folder struct{ *checkpoint.Checkpoint }

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

func (f folder) Data(name string) []byte {
	t, ok := f.Tensor(name)
	if !ok {
		return nil
	}
	return t.Data()
}

func folderTensor(t checkpoint.Tensor) description {
	return description{name: t.Name, format: t.Format, rows: uint64(t.Rows), cols: uint64(t.Cols), size: t.Size()}
}

// source is a container as models see it.
type source struct{ container }

func (s source) Meta() model.Meta { return meta{s.Metadata()} }

// Tensor returns a tensor.
func (s source) Tensor(name string) (compute.Matrix, bool) {
	t, ok := s.Describe(name)
	const most = 1 << 30
	if !ok || t.cols > most || t.rows > most {
		return compute.Matrix{}, false
	}
	return compute.Matrix{Name: name, Format: t.format, Rows: int(t.rows), Cols: int(t.cols), Data: s.Data(name)}, true
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
