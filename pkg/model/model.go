// Package model says what a model architecture is: how it reads its
// hyperparameters, which tensors a part of it needs, and how it computes a
// batch by the operations of compute.
//
// An architecture is one folder below this one plus one line in archs.
package model

import (
	"errors"
	"fmt"

	"github.com/shoal-llm/shoal/pkg/compute"
)

// ErrHParams says that a file's hyperparameters make no sense.
var ErrHParams = errors.New("hyperparameters")

// ErrArch says that a file's architecture is not one this build can run.
var ErrArch = errors.New("architecture")

// Meta gives the metadata of a model file. A false says that the key is absent
// or of another type.
type Meta interface {
	String(key string) (string, bool)
	Uint64(key string) (uint64, bool)
	Float64(key string) (float64, bool)
	Bool(key string) (bool, bool)
	Uint64s(key string) ([]uint64, bool)
	Float64s(key string) ([]float64, bool)
}

// Source gives a model file's metadata and tensors.
type Source interface {
	Meta() Meta
	// Tensor returns a weight. Its Data is valid until the source is closed.
	Tensor(name string) (compute.Matrix, bool)
}

// Outline returns a source that describes the same tensors, for those who look at
// shapes alone: where reading bytes costs something, a source has a method of that
// name whose tensors have none.
func Outline(src Source) Source {
	if o, ok := src.(interface{ Outline() Source }); ok {
		return o.Outline()
	}
	return src
}

// Spec is what the rest of the system needs to know of a model.
type Spec struct {
	Arch     string
	Name     string
	Layers   int
	Hidden   int // width of the residual stream
	Vocab    int
	Context  int // positions the model was made for
	Heads    int
	KVHeads  int
	HeadDim  int
	TiedHead bool // the head multiplies the embedding table

	Window int // positions that a row sees in some layer; 0 is all in every layer

	Experts     int // networks of a mixture; 0 is none
	ExpertsUsed int // of them that a row goes through

	Needs compute.Features // operations beyond those of every device
}

// KVBytes returns the bytes of one KV page of layers layers in float32.
func (s Spec) KVBytes(layers int) uint64 {
	return uint64(layers) * 2 * uint64(s.KVHeads) * uint64(s.HeadDim) * compute.PageTokens * 4
}

// CheckKV reports whether keys and values can be stored so. A bias of keys is far
// larger than they differ, and ruins codes of few bits.
func (s Spec) CheckKV(class compute.KVClass) error {
	if err := class.CheckHead(s.HeadDim); err != nil {
		return err
	}
	if class.Ratio != 0 && s.Window != 0 {
		return fmt.Errorf("%w %s: %s sees a window of %d positions, of which none can be left out; take the class without +%d:1", compute.ErrKVClass, class, s.Arch, s.Window, class.Ratio)
	}
	if class.Ratio != 0 && s.Context <= class.Older+compute.KVBlock {
		return fmt.Errorf("%w %s: contexts of %d positions never thin out; take the class without +%d:1", compute.ErrKVClass, class, s.Context, class.Ratio)
	}
	if class.Steps() && s.Needs&compute.FeatureBias != 0 {
		return fmt.Errorf("%w %s: keys of %s have biases, which codes of fewer than 8 bits do not hold; take 8 or 16", compute.ErrKVClass, class, s.Arch)
	}
	return nil
}

// Part is a contiguous part of a model: what one stage holds.
type Part struct {
	First, End int  // layers [First, End)
	Embed      bool // the part looks up token embeddings
	Head       bool // the part makes logits
}

// Whole is the part that holds everything of s.
func Whole(s Spec) Part { return Part{First: 0, End: s.Layers, Embed: true, Head: true} }

// Check reports whether p is a part of a model of layers layers.
func (p Part) Check(layers int) error {
	if p.First < 0 || p.End > layers || p.First >= p.End {
		return fmt.Errorf("layers [%d, %d) of %d", p.First, p.End, layers)
	}
	if p.Embed != (p.First == 0) || p.Head != (p.End == layers) {
		return fmt.Errorf("embedding and head do not belong to layers [%d, %d) of %d", p.First, p.End, layers)
	}
	return nil
}

// Adapter is low-rank changes of a model's matrices, which sessions ask for by its ID.
type Adapter struct {
	ID string
	// Change returns what a matrix gets, by the name of its tensor; false: nothing. Its
	// factors are of float32 and their data is read while a part is loaded.
	Change func(tensor string) (Change, bool, error)
}

// Change is two factors of a low-rank change, scale·b·a.
type Change struct {
	A, B  compute.Matrix // rank × columns of the matrix, rows of the matrix × rank
	Scale float32
}

// Arch is an architecture.
type Arch struct {
	Name string // as general.architecture spells it
	// Parse reads and checks the hyperparameters.
	Parse func(src Source) (Spec, error)
	// Tensors names the tensors that a part needs.
	Tensors func(s Spec, p Part) []string
	// Adaptable names those of them that an adapter may change.
	Adaptable func(s Spec, p Part) []string
	// Load loads a part onto a device. What it makes belongs to the arena.
	Load func(arena compute.Arena, src Source, s Spec, p Part, limits Limits) (Stage, error)
}

// Limits bound the buffers of a stage and say what there is besides the model.
type Limits struct {
	Rows      int // rows of a batch
	Logits    int // rows of a batch that may ask for logits
	Pages     int // KV pages
	Slots     int // sessions
	Positions int // the largest context of a session
	KV        compute.KVClass
	Adapters  []Adapter // that rows may go through: number i+1 of compute.Span.Adapter is Adapters[i]
}

// Input is what a batch begins with, one row after the other.
type Input struct {
	IDs []int32 // of every row
	// Rows are little-endian float32. On the first part they stand in place of the
	// embeddings of rows At; on others they are those of the part before.
	Rows []byte
	At   []int32
}

// Stage computes a part of a model. It is used by the goroutine that owns the
// device.
type Stage interface {
	// Forward records the operations of one batch on p. A part with the head makes
	// logits for the rows in logits. It returns the buffer to read: logits, or else
	// the rows for the next part.
	Forward(p compute.Pass, in Input, logits []int32) compute.Buffer
	// Hidden is the buffer in which Forward leaves the rows of the residual
	// stream, one per row of the batch, until the next pass.
	Hidden() compute.Buffer
	// FinalNorm writes the norm that comes before the head of one row of Hidden
	// to dst. Only a part with the head has one.
	FinalNorm(dst []float64, row []float32)
	// Cache is the stage's KV cache.
	Cache() compute.Cache
}
