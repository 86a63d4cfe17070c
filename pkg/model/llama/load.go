package llama

import (
	"fmt"
	"math"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/model"
)

// loader loads tensors onto a device and keeps the first error.
type loader struct {
	arena compute.Arena
	src   model.Source
	err   error
}

func (l *loader) matrix(name string) compute.Weight {
	if l.err != nil {
		return nil
	}
	m, ok := l.src.Tensor(name)
	if !ok {
		l.err = fmt.Errorf("no tensor %s", name)
		return nil
	}
	w, err := l.arena.Load(m)
	if err != nil {
		l.err = fmt.Errorf("load %s: %w", name, err)
	}
	return w
}

func (l *loader) vector(name string) compute.Vector {
	v := l.floats(name)
	if l.err != nil {
		return nil
	}
	out, err := l.arena.LoadVector(v)
	if err != nil {
		l.err = fmt.Errorf("load %s: %w", name, err)
	}
	return out
}

// floats decodes a tensor of one row.
func (l *loader) floats(name string) []float32 {
	m, ok := l.src.Tensor(name)
	if l.err != nil || !ok || m.Rows != 1 {
		if l.err == nil {
			l.err = fmt.Errorf("no vector %s", name)
		}
		return nil
	}
	v := make([]float32, m.Cols)
	m.Format.Decode(v, m.Data)
	return v
}

func (l *loader) buffer(rows, cols int) compute.Buffer {
	if l.err != nil {
		return nil
	}
	b, err := l.arena.NewBuffer(rows, cols)
	if err != nil {
		l.err = fmt.Errorf("allocate %d × %d activations: %w", rows, cols, err)
	}
	return b
}

// load loads a part onto a device.
func load(arena compute.Arena, src model.Source, spec model.Spec, part model.Part, lim model.Limits) (model.Stage, error) {
	if err := part.Check(spec.Layers); err != nil {
		return nil, err
	}
	_, p, err := parse(src)
	if err != nil {
		return nil, err
	}
	l := &loader{arena: arena, src: src}
	s := &stage{spec: spec, part: part, eps: p.eps}
	s.attn = compute.Attention{Heads: spec.Heads, Scale: float32(1 / math.Sqrt(float64(spec.HeadDim)))}
	for i := part.First; i < part.End && l.err == nil; i++ {
		s.layers = append(s.layers, l.layer(i))
	}
	s.loadEnds(l, lim)
	s.rope = l.rope(spec, p, lim.Positions)
	s.allocate(l, p, lim)
	if l.err != nil {
		return nil, l.err
	}
	return s, nil
}

func (l *loader) layer(i int) layer {
	name := func(n string) string { return fmt.Sprintf("blk.%d.%s.weight", i, n) }
	return layer{
		attnNorm: l.vector(name("attn_norm")), ffnNorm: l.vector(name("ffn_norm")),
		qkv: []compute.Weight{l.matrix(name("attn_q")), l.matrix(name("attn_k")), l.matrix(name("attn_v"))},
		o:   l.matrix(name("attn_output")), gate: l.matrix(name("ffn_gate")), up: l.matrix(name("ffn_up")), down: l.matrix(name("ffn_down")),
	}
}

// loadEnds loads the embedding and the head. A tied table is loaded once where
// a part has both ends.
func (s *stage) loadEnds(l *loader, lim model.Limits) {
	if s.part.Embed {
		s.embed = l.matrix(embedName)
	}
	if !s.part.Head {
		return
	}
	s.headNorm = l.vector(headNormName)
	s.headGain = l.floats(headNormName)
	switch {
	case !s.spec.TiedHead:
		s.head = l.matrix(headName)
	case s.part.Embed:
		s.head = s.embed
	default:
		s.head = l.matrix(embedName)
	}
	s.logits = l.buffer(lim.Logits, s.spec.Vocab)
}

// rope makes the table of rotations, with the file's factors if it has any.
func (l *loader) rope(spec model.Spec, p params, positions int) *compute.Rope {
	factors := make([]float32, p.ropeDims/2)
	for i := range factors {
		factors[i] = float32(p.ropeScale)
	}
	if m, ok := l.src.Tensor(ropeName); ok {
		if m.Cols != len(factors) {
			l.err = fmt.Errorf("%w: %s has %d factors, want %d", model.ErrHParams, ropeName, m.Cols, len(factors))
			return nil
		}
		factors = l.floats(ropeName)
	}
	if l.err != nil {
		return nil
	}
	return compute.NewRope(spec.HeadDim, p.ropeDims, positions, p.ropeBase, factors, false)
}

func (s *stage) allocate(l *loader, p params, lim model.Limits) {
	qDim, kvDim := s.spec.Heads*s.spec.HeadDim, s.spec.KVHeads*s.spec.HeadDim
	s.x = l.buffer(lim.Rows, s.spec.Hidden)
	s.q, s.k, s.v = l.buffer(lim.Rows, qDim), l.buffer(lim.Rows, kvDim), l.buffer(lim.Rows, kvDim)
	s.qkv = []compute.Buffer{s.q, s.k, s.v}
	s.att, s.ffn = l.buffer(lim.Rows, qDim), l.buffer(lim.Rows, p.ffn)
	if l.err != nil {
		return
	}
	cache, err := l.arena.NewCache(compute.CacheSpec{
		Layers: len(s.layers), Pages: lim.Pages, KVHeads: s.spec.KVHeads, HeadDim: s.spec.HeadDim,
	})
	if err != nil {
		l.err = fmt.Errorf("allocate %d KV pages: %w", lim.Pages, err)
		return
	}
	s.cache = cache
}
