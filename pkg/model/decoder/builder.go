package decoder

import (
	"fmt"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/model"
)

// Names of the tensors outside the layers.
const (
	embedName    = "token_embd.weight"
	headName     = "output.weight"
	headNormName = "output_norm.weight"
)

// Builder makes the objects of a part. It keeps the first error, after which what
// it returns is nil. Without a file it only notes the names of tensors, and
// without a device it only checks their shapes.
type Builder struct {
	Params
	part   model.Part
	src    model.Source
	arena  compute.Arena
	limits model.Limits

	names   []string
	adapts  []string // names of matrices that adapters may change
	err     error
	buffers map[string]compute.Buffer
	ropes   map[RopeParams]*compute.Rope
	cache   cache
}

// cache is the KV cache to be: blocks learn it once all layers are there.
type cache struct {
	layer int // the layer that is built, of the part's
	made  compute.Cache
	users []*Attention
}

func (b *Builder) fail(format string, args ...any) {
	if b.err == nil {
		b.err = fmt.Errorf(format, args...)
	}
}

// name is that of a layer's tensor.
func name(layer int, tensor string) string { return fmt.Sprintf("blk.%d.%s", layer, tensor) }

// tensor finds a tensor and checks its shape; rows 0 are any. It notes the name.
func (b *Builder) tensor(name string, rows, cols int) (compute.Matrix, bool) {
	b.names = append(b.names, name)
	if b.src == nil || b.err != nil {
		return compute.Matrix{}, false
	}
	m, ok := b.src.Tensor(name)
	if !ok {
		b.fail("%w: no tensor %s", model.ErrHParams, name)
		return m, false
	}
	if m.Rows != rows || m.Cols != cols {
		b.fail("%w: %s is %d × %d, want %d × %d", model.ErrHParams, name, m.Rows, m.Cols, rows, cols)
		return m, false
	}
	return m, true
}

// Matrix loads a weight of layer i.
func (b *Builder) Matrix(i int, tensor string, rows, cols int) compute.Weight {
	return b.matrices(name(i, tensor), cols, rows)[0]
}

// Split loads a weight of layer i that holds several of these numbers of rows one
// after the other.
func (b *Builder) Split(i int, tensor string, cols int, rows ...int) []compute.Weight {
	return b.matrices(name(i, tensor), cols, rows...)
}

func (b *Builder) matrices(name string, cols int, rows ...int) []compute.Weight {
	out := make([]compute.Weight, len(rows))
	total := 0
	for _, n := range rows {
		total += n
	}
	m, ok := b.tensor(name, total, cols)
	if !ok || b.arena == nil {
		return out
	}
	rowBytes, data := len(m.Data)/max(1, total), m.Data
	for i, n := range rows {
		part := m
		part.Rows, part.Data, data = n, data[:n*rowBytes], data[n*rowBytes:]
		w, err := b.arena.Load(part)
		if err != nil {
			b.fail("load %s: %w", name, err)
			return out
		}
		out[i] = w
	}
	return out
}

// Vector loads a vector of layer i.
func (b *Builder) Vector(i int, tensor string, n int) compute.Vector {
	v, _ := b.vector(name(i, tensor), n)
	return v
}

// vector loads a vector and returns its values too.
func (b *Builder) vector(name string, n int) (compute.Vector, []float32) {
	m, ok := b.tensor(name, 1, n)
	if !ok || b.arena == nil {
		return nil, nil
	}
	values := make([]float32, n)
	m.Format.Decode(values, m.Data)
	v, err := b.arena.LoadVector(values)
	if err != nil {
		b.fail("load %s: %w", name, err)
	}
	return v, values
}

// Buffer returns the buffer of a name, which layers share: a row of cols for each
// row of a batch.
func (b *Builder) Buffer(name string, cols int) compute.Buffer { return b.Rows(name, 1, cols) }

// Rows is Buffer with several rows for each row of a batch.
func (b *Builder) Rows(name string, each, cols int) compute.Buffer {
	if b.arena == nil || b.err != nil {
		return nil
	}
	if made, ok := b.buffers[name]; ok {
		return made
	}
	if b.buffers == nil {
		b.buffers = map[string]compute.Buffer{}
	}
	b.buffers[name] = b.buffer(b.limits.Rows*each, cols)
	return b.buffers[name]
}

func (b *Builder) buffer(rows, cols int) compute.Buffer {
	if b.err != nil {
		return nil
	}
	made, err := b.arena.NewBuffer(rows, cols)
	if err != nil {
		b.fail("allocate %d × %d activations: %w", rows, cols, err)
	}
	return made
}

// ends makes the embedding and the head. A tied table is loaded once where a part
// has both.
func (b *Builder) ends() (e ends) {
	if b.part.Embed || b.part.Head && b.TiedHead {
		e.embed = b.matrices(embedName, b.Hidden, b.Vocab)[0]
	}
	if !b.part.Head {
		return e
	}
	e.norm, e.gain = b.vector(headNormName, b.Hidden)
	if b.TiedHead {
		e.head = e.embed
	} else {
		e.head = b.matrices(headName, b.Hidden, b.Vocab)[0]
	}
	return e
}

// makeCache makes the KV cache and hands it to the blocks that use it.
func (b *Builder) makeCache() {
	if b.err != nil {
		return
	}
	made, err := b.arena.NewCache(compute.CacheSpec{
		Layers: b.part.End - b.part.First, Pages: b.limits.Pages, KVHeads: b.KVHeads, HeadDim: b.HeadDim, Heads: b.Heads,
		Class: b.limits.KV, Pools: b.limits.KV.Pools(b.limits.Slots, b.limits.Rows, b.limits.Pages),
	})
	if err != nil {
		b.fail("allocate %d KV pages: %w", b.limits.Pages, err)
		return
	}
	b.cache.made = made
	for _, a := range b.cache.users {
		a.cache = made
	}
}
