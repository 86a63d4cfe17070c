package decoder

import (
	"fmt"
	"math"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/model"
)

// Params are the hyperparameters of a decoder.
type Params struct {
	model.Spec
	FFNWidth    int
	ExpertWidth int
	Eps         float32
	Rope        RopeParams
	LocalBase   float64 // of the rotations in layers with a window, where they differ
	Scale       float32 // of the scores of attention
	EmbedScale  float32 // 0 is none
	ScoreCap    float32 // 0 is none
	LogitCap    float32 // 0 is none
}

// Bounds of what a file may claim.
const (
	maxLayers  = 1024
	maxHeads   = 1024
	maxWidth   = 1 << 18
	maxVocab   = 1 << 22
	maxContext = 1 << 24
	maxExperts = 1024
)

// Reader reads hyperparameters and keeps the first error.
type Reader struct {
	meta model.Meta
	arch string
	err  error
}

// Fail notes what is wrong with a hyperparameter.
func (r *Reader) Fail(key, why string) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s.%s %s", model.ErrHParams, r.arch, key, why)
	}
}

// Has reports whether the file has an integer.
func (r *Reader) Has(key string) bool {
	_, ok := r.meta.Uint64(r.arch + "." + key)
	return ok
}

// Count reads an integer in [1, most]. Absent is def, or an error when def is 0.
func (r *Reader) Count(key string, def, most int) int {
	v, ok := r.meta.Uint64(r.arch + "." + key)
	if !ok {
		if def == 0 {
			r.Fail(key, "is missing")
			return 1
		}
		return def
	}
	if v < 1 || v > uint64(most) {
		r.Fail(key, fmt.Sprintf("is %d, want 1 to %d", v, most))
		return 1
	}
	return int(v)
}

// Flag reads a truth value; absent is false.
func (r *Reader) Flag(key string) bool {
	v, _ := r.meta.Bool(r.arch + "." + key)
	return v
}

// Window reads a number of positions, where 0 and absent are all.
func (r *Reader) Window(key string) int {
	if v, ok := r.meta.Uint64(r.arch + "." + key); !ok || v == 0 {
		return 0
	}
	return r.Count(key, 0, maxContext)
}

// Number reads a finite positive number; absent is def.
func (r *Reader) Number(key string, def float64) float64 {
	v, ok := r.meta.Float64(r.arch + "." + key)
	if !ok {
		v = def
	}
	if !(v > 0) || math.IsInf(v, 0) {
		r.Fail(key, fmt.Sprintf("is %v, want a positive number", v))
		return 1
	}
	return v
}

// Limit reads a number, where 0 and absent are none.
func (r *Reader) Limit(key string) float32 {
	if v, ok := r.meta.Float64(r.arch + "." + key); !ok || v == 0 {
		return 0
	}
	return float32(r.Number(key, 0))
}

// Experts reads the sizes of a mixture, whose networks are as wide as key says.
func (r *Reader) Experts(p *Params, key string) {
	p.Experts = r.Count("expert_count", 0, maxExperts)
	p.ExpertsUsed = r.Count("expert_used_count", 0, p.Experts)
	p.ExpertWidth = r.Count(key, 0, maxWidth)
	if p.ExpertWidth%16 != 0 || p.Hidden%16 != 0 {
		r.Fail(key, fmt.Sprintf("is %d with rows of %d, experts come in multiples of 16", p.ExpertWidth, p.Hidden))
	}
	p.Needs |= compute.FeatureExperts
}

// parse reads and checks the hyperparameters of a file, and its tensors' shapes.
func (f Family) parse(src model.Source) (Params, error) {
	r := &Reader{meta: src.Meta(), arch: f.Name}
	p := Params{Spec: model.Spec{
		Arch:    f.Name,
		Layers:  r.Count("block_count", 0, maxLayers),
		Hidden:  r.Count("embedding_length", 0, maxWidth),
		Context: r.Count("context_length", 0, maxContext),
		Heads:   r.Count("attention.head_count", 0, maxHeads),
	}}
	p.Name, _ = src.Meta().String("general.name")
	p.KVHeads = r.Count("attention.head_count_kv", p.Heads, maxHeads)
	p.HeadDim = r.Count("attention.key_length", max(1, p.Hidden/max(1, p.Heads)), maxWidth)
	p.FFNWidth = r.Count("feed_forward_length", 0, maxWidth)
	p.Eps = float32(r.Number("attention.layer_norm_rms_epsilon", 0))
	p.Scale = float32(1 / math.Sqrt(float64(p.HeadDim)))
	p.Rope = RopeParams{
		Dims: r.Count("rope.dimension_count", p.HeadDim, maxWidth), Base: r.Number("rope.freq_base", 10000), Factor: 1, Magnitude: 1,
	}
	r.check(&p)
	if f.Parse != nil {
		f.Parse(r, &p)
	}
	if r.err != nil {
		return p, r.err
	}
	if err := tables(src, f.Name, &p.Spec); err != nil {
		return p, err
	}
	return p, f.check(src, p)
}

// check holds the hyperparameters against each other.
func (r *Reader) check(p *Params) {
	if p.Heads%p.KVHeads != 0 {
		r.Fail("attention.head_count_kv", fmt.Sprintf("is %d, which does not divide %d heads", p.KVHeads, p.Heads))
	}
	if v := r.Count("attention.value_length", p.HeadDim, maxWidth); v != p.HeadDim {
		r.Fail("attention.value_length", fmt.Sprintf("is %d, keys are %d wide", v, p.HeadDim))
	}
	if p.Rope.Dims > p.HeadDim || p.Rope.Dims%2 != 0 {
		r.Fail("rope.dimension_count", fmt.Sprintf("is %d of a head of %d", p.Rope.Dims, p.HeadDim))
	}
}

// Scaling reads how positions beyond the training length are treated, evenly or
// by YaRN.
func (r *Reader) Scaling(p *Params) {
	const key = "rope.scaling."
	kind, ok := r.meta.String(r.arch + "." + key + "type")
	switch {
	case !ok || kind == "none":
	case kind == "linear":
		p.Rope.Factor = r.Number(key+"factor", 0)
	case kind == "yarn":
		p.Rope.Factor = r.Number(key+"factor", 0)
		p.Rope.Original = r.Count(key+"original_context_length", 0, maxContext)
		if p.Rope.Factor < 1 || p.Rope.Base <= 1 {
			r.Fail(key+"factor", fmt.Sprintf("is %g with base %g, want at least 1 and more than 1", p.Rope.Factor, p.Rope.Base))
		}
	default:
		r.Fail(key+"type", fmt.Sprintf("is %q, which is not supported", kind))
	}
}

// NoExperts refuses a mixture where the architecture has none.
func (r *Reader) NoExperts() {
	if n, ok := r.meta.Uint64(r.arch + ".expert_count"); ok && n != 0 {
		r.Fail("expert_count", fmt.Sprintf("is %d: mixtures of experts are not supported for this architecture", n))
	}
}

// HeadNorms notes that heads are normalised, which needs whole vectors.
func (r *Reader) HeadNorms(p *Params) {
	if p.HeadDim%16 != 0 {
		r.Fail("attention.key_length", fmt.Sprintf("is %d, normed heads come in multiples of 16", p.HeadDim))
	}
	p.Needs |= compute.FeatureHeadNorm
}

// tables finds the vocabulary size and whether the head is tied.
func tables(src model.Source, arch string, s *model.Spec) error {
	embed, ok := src.Tensor(embedName)
	if !ok {
		return fmt.Errorf("%w: no tensor %s", model.ErrHParams, embedName)
	}
	if embed.Cols != s.Hidden || embed.Rows < 1 || embed.Rows > maxVocab {
		return fmt.Errorf("%w: %s is %d × %d, want vocabulary × %d", model.ErrHParams, embedName, embed.Rows, embed.Cols, s.Hidden)
	}
	s.Vocab = embed.Rows
	if v, ok := src.Meta().Uint64(arch + ".vocab_size"); ok && v != uint64(s.Vocab) {
		return fmt.Errorf("%w: %s.vocab_size is %d, the embedding has %d rows", model.ErrHParams, arch, v, s.Vocab)
	}
	_, ok = src.Tensor(headName)
	s.TiedHead = !ok
	return nil
}
