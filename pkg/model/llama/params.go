package llama

import (
	"fmt"
	"math"

	"github.com/shoal-llm/shoal/pkg/model"
)

// params are the hyperparameters that only the architecture itself needs.
type params struct {
	ffn       int
	eps       float32
	ropeDims  int
	ropeBase  float64
	ropeScale float64 // linear scaling: angles are divided by it
}

// Bounds of what a file may claim.
const (
	maxLayers  = 1024
	maxHeads   = 1024
	maxWidth   = 1 << 18
	maxVocab   = 1 << 22
	maxContext = 1 << 24
)

// reader reads hyperparameters and keeps the first error.
type reader struct {
	meta model.Meta
	err  error
}

func (r *reader) fail(key, why string) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: llama.%s %s", model.ErrHParams, key, why)
	}
}

// count reads an integer in [1, most]. Absent is def, or an error when def is 0.
func (r *reader) count(key string, def, most int) int {
	v, ok := r.meta.Uint64("llama." + key)
	if !ok {
		if def == 0 {
			r.fail(key, "is missing")
			return 1
		}
		return def
	}
	if v < 1 || v > uint64(most) {
		r.fail(key, fmt.Sprintf("is %d, want 1 to %d", v, most))
		return 1
	}
	return int(v)
}

// number reads a finite positive number.
func (r *reader) number(key string, def float64) float64 {
	v, ok := r.meta.Float64("llama." + key)
	if !ok {
		v = def
	}
	if !(v > 0) || math.IsInf(v, 0) {
		r.fail(key, fmt.Sprintf("is %v, want a positive number", v))
		return 1
	}
	return v
}

// parse reads and checks the hyperparameters of a file.
func parse(src model.Source) (model.Spec, params, error) {
	r := &reader{meta: src.Meta()}
	s := model.Spec{
		Arch:    "llama",
		Layers:  r.count("block_count", 0, maxLayers),
		Hidden:  r.count("embedding_length", 0, maxWidth),
		Context: r.count("context_length", 0, maxContext),
		Heads:   r.count("attention.head_count", 0, maxHeads),
	}
	s.Name, _ = src.Meta().String("general.name")
	s.KVHeads = r.count("attention.head_count_kv", s.Heads, maxHeads)
	s.HeadDim = r.count("attention.key_length", max(1, s.Hidden/max(1, s.Heads)), maxWidth)
	p := params{
		ffn:       r.count("feed_forward_length", 0, maxWidth),
		eps:       float32(r.number("attention.layer_norm_rms_epsilon", 0)),
		ropeDims:  r.count("rope.dimension_count", s.HeadDim, maxWidth),
		ropeBase:  r.number("rope.freq_base", 10000),
		ropeScale: 1,
	}
	r.check(&s, &p)
	r.scaling(&p)
	if r.err != nil {
		return s, p, r.err
	}
	if err := checkTables(src, &s); err != nil {
		return s, p, err
	}
	return s, p, checkLayers(src, s, p)
}

// check holds the hyperparameters against each other.
func (r *reader) check(s *model.Spec, p *params) {
	if s.Heads%s.KVHeads != 0 {
		r.fail("attention.head_count_kv", fmt.Sprintf("is %d, which does not divide %d heads", s.KVHeads, s.Heads))
	}
	if v := r.count("attention.value_length", s.HeadDim, maxWidth); v != s.HeadDim {
		r.fail("attention.value_length", fmt.Sprintf("is %d, keys are %d wide", v, s.HeadDim))
	}
	if p.ropeDims > s.HeadDim || p.ropeDims%2 != 0 {
		r.fail("rope.dimension_count", fmt.Sprintf("is %d of a head of %d", p.ropeDims, s.HeadDim))
	}
	if n, ok := r.meta.Uint64("llama.expert_count"); ok {
		r.fail("expert_count", fmt.Sprintf("is %d: mixtures of experts are not supported for this architecture", n))
	}
}

// scaling reads how positions beyond the training length are treated.
func (r *reader) scaling(p *params) {
	kind, ok := r.meta.String("llama.rope.scaling.type")
	if !ok || kind == "none" {
		return
	}
	if kind != "linear" {
		r.fail("rope.scaling.type", fmt.Sprintf("is %q, which is not supported", kind))
		return
	}
	p.ropeScale = r.number("rope.scaling.factor", 0)
}

// checkTables finds the vocabulary size and whether the head is tied.
func checkTables(src model.Source, s *model.Spec) error {
	embed, ok := src.Tensor(embedName)
	if !ok {
		return fmt.Errorf("%w: no tensor %s", model.ErrHParams, embedName)
	}
	if embed.Cols != s.Hidden || embed.Rows < 1 || embed.Rows > maxVocab {
		return fmt.Errorf("%w: %s is %d × %d, want vocabulary × %d", model.ErrHParams, embedName, embed.Rows, embed.Cols, s.Hidden)
	}
	s.Vocab = embed.Rows
	if v, ok := src.Meta().Uint64("llama.vocab_size"); ok && v != uint64(s.Vocab) {
		return fmt.Errorf("%w: llama.vocab_size is %d, the embedding has %d rows", model.ErrHParams, v, s.Vocab)
	}
	head, ok := src.Tensor(headName)
	s.TiedHead = !ok
	if ok && (head.Rows != s.Vocab || head.Cols != s.Hidden) {
		return fmt.Errorf("%w: %s is %d × %d, want %d × %d", model.ErrHParams, headName, head.Rows, head.Cols, s.Vocab, s.Hidden)
	}
	return nil
}

// checkLayers holds every layer's tensors against the hyperparameters.
func checkLayers(src model.Source, s model.Spec, p params) error {
	qDim, kvDim := s.Heads*s.HeadDim, s.KVHeads*s.HeadDim
	shapes := map[string][2]int{
		"attn_norm": {1, s.Hidden}, "ffn_norm": {1, s.Hidden},
		"attn_q": {qDim, s.Hidden}, "attn_k": {kvDim, s.Hidden}, "attn_v": {kvDim, s.Hidden}, "attn_output": {s.Hidden, qDim},
		"ffn_gate": {p.ffn, s.Hidden}, "ffn_up": {p.ffn, s.Hidden}, "ffn_down": {s.Hidden, p.ffn},
	}
	for i := range s.Layers {
		for _, n := range layerNames {
			name := fmt.Sprintf("blk.%d.%s.weight", i, n)
			t, ok := src.Tensor(name)
			if !ok {
				return fmt.Errorf("%w: no tensor %s", model.ErrHParams, name)
			}
			if want := shapes[n]; t.Rows != want[0] || t.Cols != want[1] {
				return fmt.Errorf("%w: %s is %d × %d, want %d × %d", model.ErrHParams, name, t.Rows, t.Cols, want[0], want[1])
			}
		}
	}
	return nil
}
