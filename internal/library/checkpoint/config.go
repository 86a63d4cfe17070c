package checkpoint

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
)

// config is config.json. Pointers tell absence from zero.
type config struct {
	Type         string          `json:"model_type"`
	Name         string          `json:"_name_or_path"`
	Hidden       uint64          `json:"hidden_size"`
	Layers       uint64          `json:"num_hidden_layers"`
	Heads        uint64          `json:"num_attention_heads"`
	KVHeads      *uint64         `json:"num_key_value_heads"`
	HeadDim      *uint64         `json:"head_dim"`
	FFN          uint64          `json:"intermediate_size"`
	Context      uint64          `json:"max_position_embeddings"`
	Vocab        uint64          `json:"vocab_size"`
	Eps          float64         `json:"rms_norm_eps"`
	Tied         *bool           `json:"tie_word_embeddings"`
	Activation   *string         `json:"hidden_act"`
	ActivationG  *string         `json:"hidden_activation"` // as Gemma has it
	Quantisation json.RawMessage `json:"quantization_config"`

	RopeBase    *float64 `json:"rope_theta"`
	LocalBase   *float64 `json:"rope_local_base_freq"`
	Scaling     *scaling `json:"rope_scaling"`
	Rope        *scaling `json:"rope_parameters"` // base and scaling in one, as newer files have it
	Partial     *float64 `json:"partial_rotary_factor"`
	OriginalCtx *uint64  `json:"original_max_position_embeddings"`

	Window     *uint64  `json:"sliding_window"`
	UseWindow  *bool    `json:"use_sliding_window"`
	LayerTypes []string `json:"layer_types"`
	ScoreCap   *float64 `json:"attn_logit_softcapping"`
	LogitCap   *float64 `json:"final_logit_softcapping"`
	QueryScale *float64 `json:"query_pre_attn_scalar"`

	LocalExperts uint64   `json:"num_local_experts"` // Mixtral
	Experts      uint64   `json:"num_experts"`       // Qwen
	ExpertsUsed  uint64   `json:"num_experts_per_tok"`
	ExpertFFN    uint64   `json:"moe_intermediate_size"`
	NormTopK     *bool    `json:"norm_topk_prob"`
	SparseStep   *uint64  `json:"decoder_sparse_step"`
	DenseLayers  []uint64 `json:"mlp_only_layers"`

	Vision *llava `json:"-"` // what stands before the language model; nil is nothing

	BOS ids `json:"bos_token_id"`
	EOS ids `json:"eos_token_id"`
	PAD ids `json:"pad_token_id"`
}

// scaling is how positions beyond the training length are treated.
type scaling struct {
	Base        *float64  `json:"rope_theta"`
	Partial     *float64  `json:"partial_rotary_factor"`
	Type        string    `json:"rope_type"`
	OldType     string    `json:"type"`
	Factor      float64   `json:"factor"`
	Original    uint64    `json:"original_max_position_embeddings"`
	LowFreq     float64   `json:"low_freq_factor"`
	HighFreq    float64   `json:"high_freq_factor"`
	Long        []float64 `json:"long_factor"`
	Short       []float64 `json:"short_factor"`
	Attention   *float64  `json:"attention_factor"`
	BetaFast    *float64  `json:"beta_fast"`
	BetaSlow    *float64  `json:"beta_slow"`
	MScale      *float64  `json:"mscale"`
	MScaleAll   *float64  `json:"mscale_all_dim"`
	LongMScale  *float64  `json:"long_mscale"`
	ShortMScale *float64  `json:"short_mscale"`
}

func (s *scaling) kind() string {
	if s == nil {
		return "default"
	}
	if s.Type != "" {
		return s.Type
	}
	if s.OldType != "" {
		return s.OldType
	}
	return "default"
}

// ids are one id, several, or none.
type ids []uint64

// UnmarshalJSON reads an integer, an array of them, or null.
func (i *ids) UnmarshalJSON(text []byte) error {
	if text[0] == '[' {
		return json.Unmarshal(text, (*[]uint64)(i))
	}
	var one *uint64
	if err := json.Unmarshal(text, &one); err != nil {
		return err
	}
	*i = nil
	if one != nil {
		*i = ids{*one}
	}
	return nil
}

// family is what is particular about a model type.
type family struct {
	arch       string            // as GGUF names it
	activation string            // the only one it computes
	names      map[string]string // tensors of a layer that differ from the common ones
	experts    [3]string         // gate, up and down of an expert; empty is none
	router     string            // folder of the experts
	gemma      bool              // norms are stored less one, and the head is tied unless said otherwise
	scalings   []string          // of positions, besides the default
	halves     bool              // rotated pairs are halves apart, which the architecture must be told
}

// families are the model types that this build runs, by their names in config.json.
var families = map[string]family{
	"llama":       {arch: "llama", activation: "silu", scalings: []string{"linear", "llama3"}, halves: true},
	"mistral":     {arch: "llama", activation: "silu", scalings: []string{"linear"}, halves: true},
	"mixtral":     {arch: "llama", activation: "silu", router: "block_sparse_moe.", experts: [3]string{"w1", "w3", "w2"}, halves: true},
	"qwen2":       {arch: "qwen2", activation: "silu", names: biasNames, scalings: []string{"linear", "yarn"}},
	"qwen3":       {arch: "qwen3", activation: "silu", names: headNormNames, scalings: []string{"linear", "yarn"}},
	"qwen3_moe":   {arch: "qwen3moe", activation: "silu", names: headNormNames, router: "mlp.", experts: [3]string{"gate_proj", "up_proj", "down_proj"}, scalings: []string{"linear", "yarn"}},
	"phi3":        {arch: "phi3", activation: "silu", names: phi3Names, scalings: []string{"longrope"}},
	"gemma2":      {arch: "gemma2", activation: "gelu_pytorch_tanh", names: gemmaNames, gemma: true},
	"gemma3_text": {arch: "gemma3", activation: "gelu_pytorch_tanh", names: gemma3Names, gemma: true, scalings: []string{"linear"}},
}

// settle moves what newer files say in one place to where older ones have it.
func (c *config) settle() error {
	if c.Rope == nil {
		return nil
	}
	if c.Rope.Base == nil {
		return refuse("rope_parameters without rope_theta")
	}
	c.Scaling, c.RopeBase = c.Rope, c.Rope.Base
	if c.Rope.Partial != nil {
		c.Partial = c.Rope.Partial
	}
	return nil
}

func refuse(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrConfig, fmt.Sprintf(format, args...))
}

// family finds the model type and refuses what this build would not honour.
func (c *config) family() (family, error) {
	f, ok := families[c.Type]
	if !ok {
		known := make([]string, 0, len(families))
		for name := range families {
			known = append(known, name)
		}
		known = append(known, llavaType)
		slices.Sort(known)
		return f, refuse("model_type %.64q; this build runs %s", c.Type, strings.Join(known, ", "))
	}
	for _, a := range []*string{c.Activation, c.ActivationG} {
		// Gemma's hidden_act is not used where hidden_activation is there.
		if a != nil && *a != f.activation && !(f.gemma && a == c.Activation && c.ActivationG != nil) {
			return f, refuse("activation %.64q, %s has %s", *a, c.Type, f.activation)
		}
	}
	if q := string(c.Quantisation); q != "" && q != "null" {
		return f, refuse("quantization_config: packed weights of other tools are not read; use F32, F16, BF16 or a GGUF file")
	}
	if k := c.Scaling.kind(); k != "default" && !slices.Contains(f.scalings, k) {
		return f, refuse("rope_scaling of type %.64q for %s", k, c.Type)
	}
	return f, c.checkRest(f)
}

// checkRest refuses settings that the architecture has no place for.
func (c *config) checkRest(f family) error {
	switch {
	case c.UseWindow != nil && *c.UseWindow:
		return refuse("use_sliding_window")
	case f.router == "" && c.Experts+c.LocalExperts != 0:
		return refuse("experts for %s", c.Type)
	case c.NormTopK != nil && !*c.NormTopK:
		return refuse("norm_topk_prob is false")
	case c.SparseStep != nil && *c.SparseStep != 1, len(c.DenseLayers) != 0:
		return refuse("layers without experts among those with")
	case c.Heads == 0:
		return refuse("num_attention_heads is missing or 0")
	}
	if s := c.Scaling; s != nil && (s.BetaFast != nil && *s.BetaFast != 32 || s.BetaSlow != nil && *s.BetaSlow != 1 ||
		s.MScale != nil || s.MScaleAll != nil || s.LongMScale != nil || s.ShortMScale != nil || s.kind() == "yarn" && s.Attention != nil) {
		return refuse("rope_scaling with factors of its own")
	}
	// Windows alternate as the architectures know it; anything else is refused.
	for i, kind := range c.LayerTypes {
		full := true
		switch c.Type {
		case "gemma2":
			full = i%2 == 1
		case "gemma3_text":
			full = i%6 == 5
		}
		if (kind == "full_attention") != full {
			return refuse("layer_types: layer %d is %.32s", i, kind)
		}
	}
	if f.gemma && c.QueryScale != nil && *c.QueryScale != float64(c.headDim()) &&
		!(c.Layers == 46 || c.Layers == 62) { // whose scale the architecture knows
		return refuse("query_pre_attn_scalar is %g, heads are %d wide", *c.QueryScale, c.headDim())
	}
	return nil
}

func (c *config) headDim() uint64 {
	if c.HeadDim != nil && *c.HeadDim != 0 {
		return *c.HeadDim
	}
	return c.Hidden / c.Heads
}

// tied reports whether the head multiplies the embedding.
func (c *config) tied(f family) bool {
	if c.Tied != nil {
		return *c.Tied
	}
	return f.gemma
}

// describe writes the hyperparameters under the keys of GGUF.
func (c *config) describe(m Metadata) error {
	f, err := c.family()
	if err != nil {
		return err
	}
	put := func(key string, v any) { m[f.arch+"."+key] = v }
	number := func(key string, v *float64) {
		if v != nil {
			put(key, *v)
		}
	}
	m["general.architecture"] = f.arch
	m["general.name"] = c.Name
	put("block_count", c.Layers)
	put("context_length", c.Context)
	put("embedding_length", c.Hidden)
	put("feed_forward_length", c.FFN)
	put("attention.head_count", c.Heads)
	put("attention.key_length", c.headDim())
	put("attention.layer_norm_rms_epsilon", c.Eps)
	put("vocab_size", c.Vocab)
	if c.KVHeads != nil {
		put("attention.head_count_kv", *c.KVHeads)
	}
	if c.Window != nil && (c.UseWindow == nil || *c.UseWindow) {
		put("attention.sliding_window", *c.Window)
	}
	number("rope.freq_base", c.RopeBase)
	number("rope.freq_base_swa", c.LocalBase)
	number("attn_logit_softcapping", c.ScoreCap)
	number("final_logit_softcapping", c.LogitCap)
	if f.halves {
		put("rope.halves", true)
	}
	if n := c.Experts + c.LocalExperts; f.router != "" {
		put("expert_count", n)
		put("expert_used_count", c.ExpertsUsed)
		if c.ExpertFFN != 0 {
			put("expert_feed_forward_length", c.ExpertFFN)
		}
	}
	if c.Partial != nil {
		put("rope.dimension_count", uint64(math.Round(*c.Partial*float64(c.headDim()))))
	}
	return c.describeScaling(put)
}

// describeScaling writes how positions are scaled. The factors of llama3 and
// longrope are tensors; see factors.go.
func (c *config) describeScaling(put func(string, any)) error {
	s := c.Scaling
	switch s.kind() {
	case "linear", "yarn":
		put("rope.scaling.type", s.kind())
		put("rope.scaling.factor", s.Factor)
		if s.Original != 0 {
			put("rope.scaling.original_context_length", s.Original)
		} else {
			put("rope.scaling.original_context_length", c.Context)
		}
	case "longrope":
		if c.OriginalCtx == nil || *c.OriginalCtx == 0 || c.Context < *c.OriginalCtx {
			return refuse("longrope without original_max_position_embeddings")
		}
		put("rope.scaling.original_context_length", *c.OriginalCtx)
		put("rope.scaling.attn_factor", c.longMagnitude())
	}
	return nil
}
