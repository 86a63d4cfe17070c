package checkpoint

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/shoal-llm/shoal/pkg/filemap"
	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/safetensors"
)

// Names of tensors: GGUF's on the left, those of checkpoints on the right.
var (
	outside = map[string]string{
		"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight", headName: "lm_head.weight",
	}
	commonNames = map[string]string{
		"attn_norm.weight": "input_layernorm.weight", "ffn_norm.weight": "post_attention_layernorm.weight",
		"attn_q.weight": "self_attn.q_proj.weight", "attn_k.weight": "self_attn.k_proj.weight", "attn_v.weight": "self_attn.v_proj.weight",
		"attn_output.weight": "self_attn.o_proj.weight",
		"ffn_gate.weight":    "mlp.gate_proj.weight", "ffn_up.weight": "mlp.up_proj.weight", "ffn_down.weight": "mlp.down_proj.weight",
	}
	biasNames = map[string]string{
		"attn_q.bias": "self_attn.q_proj.bias", "attn_k.bias": "self_attn.k_proj.bias", "attn_v.bias": "self_attn.v_proj.bias",
	}
	headNormNames = map[string]string{
		"attn_q_norm.weight": "self_attn.q_norm.weight", "attn_k_norm.weight": "self_attn.k_norm.weight",
	}
	phi3Names = map[string]string{
		"attn_qkv.weight": "self_attn.qkv_proj.weight", "ffn_up.weight": "mlp.gate_up_proj.weight",
	}
	gemmaNames = map[string]string{
		"ffn_norm.weight":            "pre_feedforward_layernorm.weight",
		"post_attention_norm.weight": "post_attention_layernorm.weight", "post_ffw_norm.weight": "post_feedforward_layernorm.weight",
	}
	gemma3Names = union(gemmaNames, headNormNames)
)

const (
	headName = "output.weight"
	routerIn = "ffn_gate_inp.weight"
)

// expertNames are the joined matrices of gate, up and down.
var expertNames = [3]string{"ffn_gate_exps.weight", "ffn_up_exps.weight", "ffn_down_exps.weight"}

// most bounds the rows and columns of a matrix.
const most = 1 << 30

func union(all ...map[string]string) map[string]string {
	out := map[string]string{}
	for _, m := range all {
		maps.Copy(out, m)
	}
	return out
}

// Tensor is a weight under the name that GGUF has for it.
type Tensor struct {
	Name       string
	Format     quant.Format
	Rows, Cols int

	parts []piece // the rows, in order
}

// piece is rows of a tensor: where they lie in a file of weights, or what gives them.
type piece struct {
	file         int
	offset, size uint64
	bytes        func() ([]byte, error)
}

// Place is where bytes of a tensor lie.
type Place struct {
	File         int // index of the weight file
	Offset, Size uint64
}

// Places returns where the bytes of the tensor lie; none of one that config.json
// describes.
func (t Tensor) Places() (out []Place) {
	for _, p := range t.parts {
		if p.size > 0 {
			out = append(out, Place{p.file, p.offset, p.size})
		}
	}
	return out
}

// Size returns the bytes of the tensor.
func (t Tensor) Size() uint64 {
	return uint64(t.Rows) * uint64(t.Cols/t.Format.BlockElems) * uint64(t.Format.BlockBytes)
}

// Data returns the rows, which must not be written. They alias the file, or are
// made anew where the file has them in pieces. An error can come of weights that are
// not mapped.
func (t Tensor) Data() ([]byte, error) {
	all := make([][]byte, len(t.parts))
	for i, p := range t.parts {
		var err error
		if all[i], err = p.bytes(); err != nil {
			return nil, err
		}
	}
	if len(all) == 1 {
		return all[0], nil
	}
	for _, rows := range all {
		filemap.Need(rows)
	}
	return slices.Concat(all...), nil
}

// arrangement finds the tensors of a checkpoint.
type arrangement struct {
	c       *Checkpoint
	formats map[safetensors.DType]quant.Format
	family  family
	nested  bool // names of the language model have a folder more
	used    map[string]bool
	err     error
}

// arrange names every tensor as GGUF does. One that has no name there is refused:
// an architecture would leave it out without a word.
func (c *Checkpoint) arrange(cfg *config, formats []quant.Format) error {
	f, err := cfg.family()
	if err != nil {
		return err
	}
	a := &arrangement{c: c, family: f, nested: cfg.Vision != nil, used: map[string]bool{}, formats: map[safetensors.DType]quant.Format{}}
	for _, format := range formats {
		a.formats[safetensors.DType(format.Name)] = format
	}
	for _, name := range slices.Sorted(maps.Keys(outside)) {
		if name != headName || !cfg.tied(f) {
			a.one(name, outside[name])
		}
	}
	if _, ok := c.index[headName]; !ok && !cfg.tied(f) && a.err == nil {
		return refuse("the head is its own matrix, but there is no lm_head.weight")
	}
	for i := range min(cfg.Layers, maxLayers) {
		a.layer(int(i), int(min(cfg.Experts+cfg.LocalExperts, maxExperts)))
	}
	if cfg.Vision != nil {
		a.encoder(cfg.Vision)
	}
	if err := a.factors(cfg); err != nil {
		return err
	}
	if a.err != nil {
		return a.err
	}
	return a.leftOver(cfg.tied(f))
}

// Bounds of what config.json may claim; architectures hold the numbers themselves
// against bounds of their own.
const (
	maxLayers  = 1024
	maxExperts = 1024
)

// layer arranges the tensors of layer i.
func (a *arrangement) layer(i, experts int) {
	from, to := fmt.Sprintf("model.layers.%d.", i), fmt.Sprintf("blk.%d.", i)
	names := union(commonNames, a.family.names)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		a.one(to+name, from+names[name])
	}
	if a.family.router == "" {
		return
	}
	a.one(to+routerIn, from+a.family.router+"gate.weight")
	for k, name := range expertNames {
		parts := make([]string, experts)
		for e := range parts {
			parts[e] = fmt.Sprintf("%s%sexperts.%d.%s.weight", from, a.family.router, e, a.family.experts[k])
		}
		a.joined(to+name, parts)
	}
}

// one arranges a tensor, if the files have it.
func (a *arrangement) one(name, stored string) {
	if t, ok := a.find(stored); ok {
		if a.family.gemma && strings.HasSuffix(name, "norm.weight") {
			t = a.shifted(t)
		}
		a.add(name, t)
	}
}

// joined arranges matrices of one shape as one.
func (a *arrangement) joined(name string, stored []string) {
	var all Tensor
	for i, s := range stored {
		t, ok := a.find(s)
		switch {
		case !ok:
			a.fail("there is no %s", s)
			return
		case i == 0:
			all = t
		case t.Rows != all.Rows/i || t.Cols != all.Cols || t.Format.Name != all.Format.Name:
			a.fail("%s is not like the expert before it", s)
			return
		default:
			all.Rows += t.Rows
			all.parts = append(all.parts, t.parts...)
		}
	}
	if len(stored) > 0 {
		a.add(name, all)
	}
}

func (a *arrangement) fail(format string, args ...any) {
	if a.err == nil {
		a.err = refuse(format, args...)
	}
}

// find returns a stored tensor as a matrix; a vector is one row.
func (a *arrangement) find(stored string) (Tensor, bool) {
	var t safetensors.Tensor
	ok := false
	for _, place := range a.places(stored) {
		if t, ok = a.c.set.Tensor(place); ok {
			a.used[place] = true
			break
		}
	}
	if !ok {
		return Tensor{}, false
	}
	format, ok := a.formats[t.DType]
	switch {
	case !ok:
		a.fail("%s is stored as %s; weights of F32, F16 and BF16 are read", stored, t.DType)
		return Tensor{}, false
	case len(t.Shape) < 1 || len(t.Shape) > 2 && stored != towerFolder+towerNames["v.patch_embd.weight"] || len(t.Shape) > 4 || slices.Contains(t.Shape, 0) || slices.Max(t.Shape) > most:
		a.fail("%s has the shape %v", stored, t.Shape)
		return Tensor{}, false
	}
	rows, cols := uint64(1), t.Shape[len(t.Shape)-1]
	for _, n := range t.Shape[:len(t.Shape)-1] {
		rows *= n // the file holds as many values
	}
	p := piece{file: a.c.set.FileOf(stored), offset: t.Offset, size: t.Size()}
	p.bytes = func() ([]byte, error) {
		if t.Data == nil && a.c.read != nil {
			return a.c.read(p.file, p.offset, p.size)
		}
		return t.Data, nil
	}
	return Tensor{Format: format, Rows: int(rows), Cols: int(cols), parts: []piece{p}}, true
}

// shifted adds the one that Gemma's norms are stored without.
func (a *arrangement) shifted(t Tensor) Tensor {
	stored := t
	t.Format, t.parts = a.formats[safetensors.F32], slices.Clone(t.parts)
	t.parts[0].bytes = func() ([]byte, error) {
		data, err := stored.Data()
		if err != nil {
			return nil, err
		}
		values := make([]float32, stored.Rows*stored.Cols)
		stored.Format.Decode(values, data)
		wide := make([]float64, len(values))
		for i, v := range values {
			wide[i] = float64(v) + 1
		}
		return float32s(wide), nil
	}
	return t
}

func (a *arrangement) add(name string, t Tensor) {
	t.Name = name
	a.c.index[name] = len(a.c.tensors)
	a.c.tensors = append(a.c.tensors, t)
}

// factors adds the tensors that GGUF has and config.json describes.
func (a *arrangement) factors(cfg *config) error {
	factors, err := cfg.ropeFactors()
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(factors)) {
		for _, v := range factors[name] {
			if !(v > 0) || math.IsInf(v, 0) {
				return refuse("rope_scaling: a factor is %g", v)
			}
		}
		a.add(name, Tensor{Format: a.formats[safetensors.F32], Rows: 1, Cols: len(factors[name]), parts: []piece{made(float32s(factors[name]))}})
	}
	return nil
}

// made is a piece that is in no file.
func made(data []byte) piece {
	return piece{bytes: func() ([]byte, error) { return data, nil }}
}

// leftOver refuses tensors that nothing reads. The copy of a tied head and tables
// of angles, which older files have, are known to be spare.
func (a *arrangement) leftOver(tied bool) error {
	for _, f := range a.c.set.Files() {
		for _, t := range f.Tensors() {
			if !a.used[t.Name] && !(tied && slices.Contains(a.places(outside[headName]), t.Name)) && !strings.HasSuffix(t.Name, ".rotary_emb.inv_freq") {
				return refuse("the architecture has no place for %s", t.Name)
			}
		}
	}
	return nil
}
