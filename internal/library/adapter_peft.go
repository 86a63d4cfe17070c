package library

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"

	"github.com/shoal-llm/shoal/internal/library/checkpoint"
	"github.com/shoal-llm/shoal/pkg/quant/formats"
	"github.com/shoal-llm/shoal/pkg/safetensors"
)

// Files of an adapter as PEFT saves it.
const (
	peftConfigName  = "adapter_config.json"
	peftWeightsName = "adapter_model.safetensors"
	maxPEFTConfig   = 1 << 20
)

// peftConfig is adapter_config.json: what scales the changes, and what this build
// would not honour.
type peftConfig struct {
	Type       string          `json:"peft_type"`
	Alpha      float64         `json:"lora_alpha"`
	RankStable bool            `json:"use_rslora"`
	DoRA       bool            `json:"use_dora"`
	QALoRA     bool            `json:"use_qalora"`
	Transposed bool            `json:"fan_in_fan_out"`
	Bias       string          `json:"bias"`
	LoraBias   bool            `json:"lora_bias"`
	Alphas     map[string]any  `json:"alpha_pattern"`
	Saved      []string        `json:"modules_to_save"`
	Tokens     json.RawMessage `json:"trainable_token_indices"`
	Init       json.RawMessage `json:"init_lora_weights"`
	Replicated json.RawMessage `json:"layer_replication"`
}

// ownWeights are ways of beginning a training that change the model's own weights, so
// that the changes do not fit the model as it was.
var ownWeights = []string{"pissa", "olora", "corda", "loftq"}

func (c *peftConfig) check() error {
	given := func(m json.RawMessage) bool { return len(m) > 0 && string(m) != "null" }
	switch {
	case c.Type != "LORA":
		return badAdapter("peft_type is %.64q, want LORA", c.Type)
	case c.DoRA:
		return badAdapter("use_dora: its magnitudes are not applied")
	case c.QALoRA:
		return badAdapter("use_qalora")
	case c.Transposed:
		return badAdapter("fan_in_fan_out")
	case c.Bias != "" && c.Bias != "none", c.LoraBias:
		return badAdapter("it changes biases")
	case len(c.Alphas) > 0:
		return badAdapter("alpha_pattern: matrices with scales of their own")
	case len(c.Saved) > 0:
		return badAdapter("modules_to_save: it brings whole weights (%.128s)", strings.Join(c.Saved, ", "))
	case given(c.Tokens):
		return badAdapter("trainable_token_indices: it changes embeddings")
	case given(c.Replicated):
		return badAdapter("layer_replication")
	case !(c.Alpha > 0) || math.IsInf(c.Alpha, 0):
		return badAdapter("lora_alpha is %g, want a positive number", c.Alpha)
	}
	for _, way := range ownWeights {
		if strings.HasPrefix(strings.ToLower(strings.Trim(string(c.Init), `"`)), way) {
			return badAdapter("init_lora_weights %.64s has changed the model's own weights: convert the adapter to plain LoRA", c.Init)
		}
	}
	return nil
}

// scale is that of a change of this rank.
func (c *peftConfig) scale(rank int) float32 {
	if c.RankStable {
		return float32(c.Alpha / math.Sqrt(float64(max(1, rank))))
	}
	return float32(c.Alpha / float64(max(1, rank)))
}

// readPEFT reads the description of a folder.
func (a *Adapter) readPEFT(m *Model) error {
	if n := a.files.Size(peftConfigName); n > maxPEFTConfig {
		return badAdapter("%s has %d bytes", peftConfigName, n)
	}
	text, err := a.files.Head(peftConfigName, maxPEFTConfig)
	if err != nil {
		return err
	}
	var cfg peftConfig
	if err := json.Unmarshal(text, &cfg); err != nil {
		return badAdapter("%s: %v", peftConfigName, err)
	}
	if err := cfg.check(); err != nil {
		return err
	}
	f, err := tensorHead(a.files, peftWeightsName)
	if err != nil {
		return fmt.Errorf("%s: %w", peftWeightsName, err)
	}
	a.heads = []Range{
		{File: peftConfigName, Size: a.files.Size(peftConfigName)},
		{File: peftWeightsName, Size: uint64(len(f.Header()))},
	}
	for _, t := range f.Tensors() {
		if err := a.addPEFT(m, t); err != nil {
			return err
		}
	}
	for _, c := range a.changes {
		c.scale = cfg.scale(c.a.rows)
	}
	return a.pair(m, true)
}

// addPEFT notes a stored factor.
func (a *Adapter) addPEFT(m *Model, t safetensors.Tensor) error {
	module, which, ok := cutSuffixes(t.Name, ".lora_A.weight", ".lora_B.weight")
	if !ok {
		return badAdapter("%.128q is no factor of a low-rank change", t.Name)
	}
	matrix, ok := checkpoint.MatrixOf(m.Spec.Arch, module)
	if !ok {
		return badAdapter("it changes %.128s, which is not a matrix of a layer that this build knows of %s models", module, m.Spec.Arch)
	}
	format, ok := formats.ByName(string(t.DType))
	if !ok || len(t.Shape) != 2 || t.Shape[0] == 0 || t.Shape[1] == 0 || t.Shape[0] > 1<<30 || t.Shape[1] > 1<<30 {
		return badAdapter("%.128q is stored as %s of shape %v", t.Name, t.DType, t.Shape)
	}
	return a.add(fmt.Sprintf("blk.%d.%s", matrix.Layer, matrix.Tensor), which,
		factor{Range{peftWeightsName, t.Offset, t.Size()}, format, int(t.Shape[0]), int(t.Shape[1])})
}
