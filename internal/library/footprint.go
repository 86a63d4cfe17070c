package library

import (
	"fmt"
	"hash/fnv"
	"strings"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/model"
	"github.com/shoal-llm/shoal/pkg/quant"
)

// Footprint is what a model takes on a device, by the CPU backend's account of
// packed weights, caches and buffers. All sizes are bytes.
type Footprint struct {
	Layers    []uint64 // weights of each layer
	Shapes    []string // of each layer: those of one shape take the same time
	Embed     uint64   // what the part with the embedding holds besides its layers
	Head      uint64   // what the part with the head holds besides its layers
	Tied      uint64   // counted in both, stored once where one part has both
	HeadShape string
	KVPage    uint64 // keys and values of one page of one layer, in their oldest form
	KVRecent  uint64 // and in halves, where values step down as they age
	KVUpper   uint64 // and in the step between
	KVQueries uint64 // of a session and layer, where positions thin out
	Row       uint64 // buffers of a part, for one row of a batch
	Logits    uint64 // more of them where the head is
}

// Footprint measures the parts of a model whose keys and values are of a class.
// No weight is read.
func (m *Model) Footprint(class compute.KVClass, adapters ...*Adapter) (Footprint, error) {
	if err := m.Spec.CheckKV(class); err != nil {
		return Footprint{}, fmt.Errorf("weigh model %s: %w", m.Name, err)
	}
	last := m.Spec.Layers - 1
	var f Footprint
	var layers uint64
	for i := range m.Spec.Layers {
		p := model.Part{First: i, End: i + 1}
		f.Layers = append(f.Layers, m.packed(p))
		f.Shapes = append(f.Shapes, m.shape(p)+kvShape(class))
		layers += f.Layers[i]
	}
	f.Embed = m.packed(model.Part{First: 0, End: 1, Embed: true}) - f.Layers[0]
	f.Head = m.packed(model.Part{First: last, End: last + 1, Head: true}) - f.Layers[last]
	f.Tied = f.Embed + f.Head + layers - m.packed(model.Whole(m.Spec))
	f.HeadShape = "head:" + m.shape(model.Part{First: last, End: last, Head: true})
	w := &scale{vocab: m.Spec.Vocab}
	rows := quant.TileTokens[0]
	var changes []model.Adapter
	for _, a := range adapters {
		for i := range f.Layers {
			f.Layers[i] += a.Packed(m, model.Part{First: i, End: i + 1})
		}
		changes = append(changes, a.Model(a.Name))
	}
	if _, err := m.Arch.Load(w, outline{m.file}, m.Spec, model.Whole(m.Spec), model.Limits{Rows: rows, Logits: rows, Pages: 1, Slots: 1, Positions: 1, KV: class, Adapters: changes}); err != nil {
		return f, fmt.Errorf("weigh model %s: %w", m.Name, err)
	}
	f.KVPage, f.KVRecent, f.KVUpper = w.cache.PageBytes(), w.cache.RecentBytes(), w.cache.UpperBytes()
	if !class.Steps() {
		f.KVRecent = 0
	}
	if class.Upper == 0 {
		f.KVUpper = 0
	}
	if class.Ratio != 0 {
		f.KVQueries = w.cache.QueryBytes()
	}
	f.Row, f.Logits = w.buffers/uint64(rows), w.logits/uint64(rows)
	return f, nil
}

// kvShape names a class in a shape: attention takes another time.
func kvShape(class compute.KVClass) string {
	if class == (compute.KVClass{}) {
		return ""
	}
	return ":kv" + class.String()
}

// packed is the bytes of a part's weights on a device.
func (m *Model) packed(p model.Part) uint64 {
	var n uint64
	for _, name := range m.Arch.Tensors(m.Spec, p) {
		if t, size, ok := shapeOf(m.file, name); ok {
			n += packedBytes(t, size)
		}
	}
	return n
}

// packedBytes is what a matrix of size bytes takes on a device; a matrix of one row is
// a vector of float32.
func packedBytes(t compute.Matrix, size uint64) uint64 {
	if t.Rows == 1 {
		return vectorBytes(t.Cols)
	}
	if t.Format.CPU == nil {
		return size
	}
	return uint64(padTo(t.Rows, quant.Lanes)/quant.Lanes) * uint64(t.Format.CPU.GroupBytes(t.Cols))
}

func vectorBytes(n int) uint64 { return 4 * uint64(padTo(n, quant.Lanes)) }

// shape names the shapes and formats of a part's tensors.
func (m *Model) shape(p model.Part) string {
	hash := fnv.New64a()
	own := fmt.Sprintf("blk.%d.", p.First)
	for _, name := range m.Arch.Tensors(m.Spec, p) {
		if t, _, ok := shapeOf(m.file, name); ok {
			fmt.Fprintf(hash, "%s %d %d %s\n", strings.TrimPrefix(name, own), t.Rows, t.Cols, t.Format.Name)
		}
	}
	return fmt.Sprintf("%s:%d:%016x", m.Spec.Arch, m.Spec.Hidden, hash.Sum64())
}

func padTo(n, step int) int { return (n + step - 1) / step * step }

// scale is an arena that holds nothing and adds up what it would hold.
type scale struct {
	vocab                            int
	weights, caches, buffers, logits uint64
	cache                            compute.CacheSpec // the last
}

var _ compute.Arena = (*scale)(nil)

// Load weighs a matrix.
func (s *scale) Load(m compute.Matrix) (compute.Weight, error) {
	s.weights += packedBytes(m, uint64(len(m.Data)))
	return weighed{rows: m.Rows, cols: m.Cols}, nil
}

// LoadVector weighs a vector.
func (s *scale) LoadVector(v []float32) (compute.Vector, error) {
	s.weights += vectorBytes(len(v))
	return weighed{cols: len(v)}, nil
}

// NewCache weighs a cache.
func (s *scale) NewCache(spec compute.CacheSpec) (compute.Cache, error) {
	s.caches += spec.Bytes()
	s.cache = spec
	return weighed{cache: spec}, nil
}

// NewBuffer weighs a buffer; one as wide as the vocabulary holds logits.
func (s *scale) NewBuffer(rows, cols int) (compute.Buffer, error) {
	n := 4 * uint64(padTo(rows, quant.TileTokens[0])) * uint64(padTo(cols, quant.Lanes))
	if cols == s.vocab {
		s.logits += n
	} else {
		s.buffers += n
	}
	return weighed{cols: cols}, nil
}

// Used is what an arena would hold.
func (s *scale) Used() compute.Memory {
	return compute.Memory{Weights: s.weights, Caches: s.caches, Buffers: s.buffers + s.logits}
}

// Free has nothing to free.
func (s *scale) Free() error { return nil }

// weighed stands for an object of an arena.
type weighed struct {
	rows, cols int
	cache      compute.CacheSpec
}

// Shape is that of a weight.
func (w weighed) Shape() (rows, cols int) { return w.rows, w.cols }

// Len is that of a vector.
func (w weighed) Len() int { return w.cols }

// Cols is that of a buffer.
func (w weighed) Cols() int { return w.cols }

// Spec is that of a cache.
func (w weighed) Spec() compute.CacheSpec { return w.cache }
