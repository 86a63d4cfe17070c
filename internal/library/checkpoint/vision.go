package checkpoint

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
)

// llavaType is the model type of a language model with a vision encoder before it.
const llavaType = "llava"

// preprocessorName is the file that says what a vision encoder reads.
const preprocessorName = "preprocessor_config.json"

// llava is config.json of a LLaVA model.
type llava struct {
	Text        json.RawMessage `json:"text_config"`
	Vision      visionConfig    `json:"vision_config"`
	Placeholder *uint64         `json:"image_token_index"`
	NewerName   *uint64         `json:"image_token_id"` // of the same
	Layer       json.RawMessage `json:"vision_feature_layer"`
	Strategy    *string         `json:"vision_feature_select_strategy"`
	Activation  *string         `json:"projector_hidden_act"`
	Bias        *bool           `json:"multimodal_projector_bias"`
	EOS         ids             `json:"eos_token_id"`

	blocks      uint64 // of the encoder that are computed
	placeholder uint64
	processor   processor
}

// visionConfig describes a CLIP encoder.
type visionConfig struct {
	Type       string  `json:"model_type"`
	Width      uint64  `json:"hidden_size"`
	FFN        uint64  `json:"intermediate_size"`
	Layers     uint64  `json:"num_hidden_layers"`
	Heads      uint64  `json:"num_attention_heads"`
	Side       uint64  `json:"image_size"`
	Patch      uint64  `json:"patch_size"`
	Activation string  `json:"hidden_act"`
	Eps        float64 `json:"layer_norm_eps"`
}

// processor is preprocessor_config.json. Pointers tell absence from false.
type processor struct {
	Size      json.RawMessage `json:"size"`
	Crop      json.RawMessage `json:"crop_size"`
	Mean      []float64       `json:"image_mean"`
	Std       []float64       `json:"image_std"`
	Resample  *int            `json:"resample"`
	Factor    *float64        `json:"rescale_factor"`
	Resize    *bool           `json:"do_resize"`
	CentreCut *bool           `json:"do_center_crop"`
	Rescale   *bool           `json:"do_rescale"`
	Normalise *bool           `json:"do_normalize"`
}

// unwrap reads config.json of a LLaVA model, and makes cfg that of its language model.
func (cfg *config) unwrap(text []byte) error {
	v := &llava{Vision: visionConfig{ // what is left out is as CLIP ViT-L/14 has it
		Width: 1024, FFN: 4096, Layers: 24, Heads: 16, Side: 336, Patch: 14, Activation: "quick_gelu", Eps: 1e-5,
	}}
	if err := json.Unmarshal(text, v); err != nil {
		return fmt.Errorf("%w: %w", ErrConfig, err)
	}
	*cfg = config{ // what is left out is as Llama 7B has it
		Type: "llama", Hidden: 4096, Layers: 32, Heads: 32, FFN: 11008, Context: 2048, Vocab: 32000, Eps: 1e-6, BOS: ids{1}, EOS: ids{2},
	}
	if err := json.Unmarshal(v.Text, cfg); err != nil {
		return fmt.Errorf("%w: text_config: %w", ErrConfig, err)
	}
	if len(v.EOS) > 0 {
		cfg.EOS = v.EOS
	}
	cfg.Vision = v
	return v.settle()
}

// settle refuses what the encoder would not honour, and finds the numbers.
func (v *llava) settle() error {
	switch {
	case v.Vision.Type != "clip_vision_model" && v.Vision.Type != "":
		return refuse("vision_config of model_type %.64q; this build runs clip_vision_model", v.Vision.Type)
	case v.Vision.Activation != "quick_gelu" && v.Vision.Activation != "gelu":
		return refuse("vision_config: activation %.64q; this build runs quick_gelu and gelu", v.Vision.Activation)
	case v.Strategy != nil && *v.Strategy != "default":
		return refuse("vision_feature_select_strategy %.64q; this build runs \"default\"", *v.Strategy)
	case v.Activation != nil && *v.Activation != "gelu":
		return refuse("projector_hidden_act %.64q; this build runs gelu", *v.Activation)
	case v.Bias != nil && !*v.Bias:
		return refuse("multimodal_projector_bias is false")
	case v.Vision.Layers < 1 || v.Vision.Layers > maxLayers:
		return refuse("vision_config of %d layers", v.Vision.Layers)
	}
	layer := int64(-2)
	if len(v.Layer) > 0 {
		if err := json.Unmarshal(v.Layer, &layer); err != nil {
			return refuse("vision_feature_layer %.64s; this build reads one layer", v.Layer)
		}
	}
	if layer < 0 {
		layer += int64(v.Vision.Layers) + 1
	}
	if layer < 1 || layer > int64(v.Vision.Layers) {
		return refuse("vision_feature_layer %.64s of %d layers", v.Layer, v.Vision.Layers)
	}
	v.blocks = uint64(layer)
	id := v.Placeholder
	if id == nil {
		id = v.NewerName
	}
	if id == nil || *id > math.MaxInt32 {
		return refuse("image_token_index is missing or no token id")
	}
	v.placeholder = *id
	return nil
}

// read takes preprocessor_config.json.
func (v *llava) read(text []byte) error {
	p := &v.processor
	if err := json.Unmarshal(text, p); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrConfig, preprocessorName, err)
	}
	for _, on := range []*bool{p.Resize, p.CentreCut, p.Rescale, p.Normalise} {
		if on != nil && !*on {
			return refuse("%s: do_resize, do_center_crop, do_rescale and do_normalize must be true", preprocessorName)
		}
	}
	const bicubic, step = 3, 1. / 255
	size, crop := side(p.Size, "shortest_edge"), side(p.Crop, "height", "width")
	switch {
	case p.Resample != nil && *p.Resample != bicubic:
		return refuse("%s: resample %d; this build runs 3, bicubic", preprocessorName, *p.Resample)
	case p.Factor != nil && math.Abs(*p.Factor-step) > 1e-9:
		return refuse("%s: rescale_factor %g; this build runs 1/255", preprocessorName, *p.Factor)
	case size != v.Vision.Side || crop != v.Vision.Side:
		return refuse("%s: pictures of %.64s cut to %.64s; the encoder reads squares of %d", preprocessorName, p.Size, p.Crop, v.Vision.Side)
	}
	return nil
}

// side reads a number of pixels: alone, or in members that are equal; 0 is neither.
func side(text json.RawMessage, members ...string) uint64 {
	var n uint64
	if json.Unmarshal(text, &n) == nil {
		return n
	}
	var all map[string]uint64
	if json.Unmarshal(text, &all) != nil || len(all) != len(members) {
		return 0
	}
	for _, m := range members {
		if all[m] != all[members[0]] {
			return 0
		}
	}
	return all[members[0]]
}

// PlaceholderKey is the key of the id that stands for a row of a picture.
const PlaceholderKey = "clip.placeholder_token_id"

// describe writes the encoder's numbers under the keys of GGUF.
func (v *llava) describe(m Metadata) {
	for key, value := range map[string]uint64{
		"image_size": v.Vision.Side, "patch_size": v.Vision.Patch, "embedding_length": v.Vision.Width,
		"feed_forward_length": v.Vision.FFN, "block_count": v.blocks, "attention.head_count": v.Vision.Heads,
	} {
		m["clip.vision."+key] = value
	}
	m["clip.vision.attention.layer_norm_epsilon"] = v.Vision.Eps
	m["clip.vision.image_mean"], m["clip.vision.image_std"] = singles(v.processor.Mean), singles(v.processor.Std)
	m["clip.use_gelu"] = v.Vision.Activation == "gelu"
	m["clip.projector_type"] = "mlp"
	m[PlaceholderKey] = v.placeholder
}

func singles(values []float64) []float32 {
	out := make([]float32, len(values))
	for i, x := range values {
		out[i] = float32(x)
	}
	return out
}

// Names of the encoder's tensors: GGUF's on the left, those of checkpoints on the
// right.
var (
	towerNames = map[string]string{
		"v.class_embd": "embeddings.class_embedding", "v.patch_embd.weight": "embeddings.patch_embedding.weight",
		"v.position_embd.weight": "embeddings.position_embedding.weight",
		"v.pre_ln.weight":        "pre_layrnorm.weight", "v.pre_ln.bias": "pre_layrnorm.bias",
	}
	towerLayerNames = map[string]string{
		"ln1": "layer_norm1", "ln2": "layer_norm2", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
		"attn_v": "self_attn.v_proj", "attn_out": "self_attn.out_proj", "ffn_up": "mlp.fc1", "ffn_down": "mlp.fc2",
	}
	projectorNames = map[string]string{"mm.0": "linear_1", "mm.2": "linear_2"}
)

const (
	towerFolder     = "vision_tower.vision_model."
	projectorFolder = "multi_modal_projector."
	textFolder      = "language_model."
)

// places are the names under which files of several ages have a tensor.
func (a *arrangement) places(stored string) []string {
	if !a.nested {
		return []string{stored}
	}
	if strings.HasPrefix(stored, towerFolder) || strings.HasPrefix(stored, projectorFolder) {
		return []string{stored, "model." + stored}
	}
	inner, ok := strings.CutPrefix(stored, "model.")
	if !ok {
		return []string{textFolder + stored, stored}
	}
	return []string{textFolder + stored, "model." + textFolder + inner}
}

// encoder arranges the tensors of a vision encoder. What lies behind the layer whose
// rows are read is spare.
func (a *arrangement) encoder(v *llava) {
	each := func(names map[string]string, to, from string, kinds ...string) {
		for _, name := range slices.Sorted(maps.Keys(names)) {
			for _, kind := range kinds {
				a.must(to+name+kind, from+names[name]+kind)
			}
		}
	}
	each(towerNames, "", towerFolder, "")
	for i := range v.blocks {
		each(towerLayerNames, fmt.Sprintf("v.blk.%d.", i), fmt.Sprintf("%sencoder.layers.%d.", towerFolder, i), ".weight", ".bias")
	}
	each(projectorNames, "", projectorFolder, ".weight", ".bias")
	spare := []string{"embeddings.position_ids", "post_layernorm.weight", "post_layernorm.bias"}
	for _, f := range a.c.set.Files() {
		for _, t := range f.Tensors() {
			_, inner, ok := strings.Cut(t.Name, towerFolder)
			var layer uint64
			n, _ := fmt.Sscanf(inner, "encoder.layers.%d.", &layer)
			if ok && (slices.Contains(spare, inner) || n == 1 && layer >= v.blocks && layer < v.Vision.Layers) {
				a.used[t.Name] = true
			}
		}
	}
}

// must arranges a tensor that has to be there.
func (a *arrangement) must(name, stored string) {
	if t, ok := a.find(stored); ok {
		a.add(name, t)
	} else {
		a.fail("there is no %s", stored)
	}
}
