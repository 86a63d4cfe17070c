package checkpoint

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/shoal-llm/shoal/pkg/safetensors"
)

// seeing is config.json of small behind an encoder of one layer that is used and one
// that is not.
func seeing(t *testing.T, changes, vision map[string]any) string {
	t.Helper()
	tower := map[string]any{
		"model_type": "clip_vision_model", "hidden_size": 4, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 1,
		"image_size": 28, "patch_size": 14,
	}
	maps.Copy(tower, vision)
	c := map[string]any{"model_type": llavaType, "image_token_index": 3, "text_config": json.RawMessage(small(nil)), "vision_config": tower}
	maps.Copy(c, changes)
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func reads(changes map[string]any) string {
	c := map[string]any{"size": map[string]any{"shortest_edge": 28}, "crop_size": map[string]any{"height": 28, "width": 28}, "image_mean": []float64{0, 0, 0}, "image_std": []float64{1, 1, 1}}
	maps.Copy(c, changes)
	text, err := json.Marshal(c)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// seeingNames are the tensors that fit, as older and as newer files name them.
func seeingNames(newer bool) (names []string) {
	folder := ""
	if newer {
		folder = "model."
	}
	for _, name := range smallNames {
		inner, ok := strings.CutPrefix(name, "model.")
		switch {
		case !newer:
			names = append(names, textFolder+name)
		case ok:
			names = append(names, folder+textFolder+inner)
		default:
			names = append(names, name)
		}
	}
	for _, stored := range towerNames {
		names = append(names, folder+towerFolder+stored)
	}
	for _, layer := range []string{"0", "1"} {
		for _, stored := range towerLayerNames {
			names = append(names, folder+towerFolder+"encoder.layers."+layer+"."+stored+".weight", folder+towerFolder+"encoder.layers."+layer+"."+stored+".bias")
		}
	}
	for _, stored := range projectorNames {
		names = append(names, folder+projectorFolder+stored+".weight", folder+projectorFolder+stored+".bias")
	}
	return append(names, folder+towerFolder+"post_layernorm.weight", folder+towerFolder+"post_layernorm.bias")
}

// TestSeeingFolder: a folder with an encoder has the tensors of both under the names of
// GGUF, whatever the age of its files.
func TestSeeingFolder(t *testing.T) {
	var digests [][32]byte
	for _, newer := range []bool{false, true} {
		c, err := openFiles(t, map[string]string{
			ConfigName: seeing(t, nil, nil), preprocessorName: reads(nil), safetensors.SingleName: weights("F32", 4, seeingNames(newer)...),
		})
		if err != nil {
			t.Fatal(err)
		}
		for key, want := range map[string]any{
			"general.architecture": "llama", "clip.projector_type": "mlp", "clip.vision.block_count": uint64(1), PlaceholderKey: uint64(3),
			"clip.use_gelu": false, "clip.vision.attention.layer_norm_epsilon": 1e-5,
		} {
			if got := c.Meta()[key]; got != want {
				t.Errorf("%s is %v, want %v", key, got, want)
			}
		}
		for _, name := range []string{"blk.0.attn_q.weight", "output.weight", "v.blk.0.attn_q.bias", "v.patch_embd.weight", "mm.2.weight"} {
			if _, ok := c.Tensor(name); !ok {
				t.Errorf("newer %t: there is no %s", newer, name)
			}
		}
		if _, ok := c.Tensor("v.blk.1.attn_q.bias"); ok {
			t.Error("a layer that nothing reads is there")
		}
		digests = append(digests, c.Digest())
	}
	if digests[0] == digests[1] {
		t.Error("two folders have one digest")
	}
}

// TestSeeingRefusals: what would change the rows of a picture and is not done is refused
// by name.
func TestSeeingRefusals(t *testing.T) {
	type object = map[string]any
	good := weights("F32", 4, seeingNames(false)...)
	missing := slices.DeleteFunc(seeingNames(false), func(n string) bool { return strings.HasSuffix(n, "linear_2.bias") })
	for name, c := range map[string]struct {
		config, vision, reads object
		weights               string
		says                  string
	}{
		"another encoder":     {vision: object{"model_type": "siglip_vision_model"}, says: "siglip_vision_model"},
		"activation":          {vision: object{"hidden_act": "silu"}, says: "silu"},
		"with the class":      {config: object{"vision_feature_select_strategy": "full"}, says: "full"},
		"several layers":      {config: object{"vision_feature_layer": []int{-2, -5}}, says: "vision_feature_layer"},
		"no such layer":       {config: object{"vision_feature_layer": 3}, says: "vision_feature_layer"},
		"projector":           {config: object{"projector_hidden_act": "relu"}, says: "relu"},
		"no bias":             {config: object{"multimodal_projector_bias": false}, says: "multimodal_projector_bias"},
		"no placeholder":      {config: object{"image_token_index": nil}, says: "image_token_index"},
		"the text's own":      {config: object{"text_config": object{"model_type": "mamba"}}, says: "mamba"},
		"another filter":      {reads: object{"resample": 2}, says: "resample"},
		"no resizing":         {reads: object{"do_resize": false}, says: "do_resize"},
		"another scale":       {reads: object{"rescale_factor": 0.5}, says: "rescale_factor"},
		"another size":        {reads: object{"crop_size": 14}, says: "squares of 28"},
		"no square":           {reads: object{"crop_size": object{"height": 28, "width": 14}}, says: "squares of 28"},
		"a tensor is missing": {weights: weights("F32", 4, missing...), says: "linear_2.bias"},
		"one too many":        {weights: weights("F32", 4, append(seeingNames(false), towerFolder+"head.weight")...), says: "head.weight"},
	} {
		if c.weights == "" {
			c.weights = good
		}
		_, err := openFiles(t, map[string]string{ConfigName: seeing(t, c.config, c.vision), preprocessorName: reads(c.reads), safetensors.SingleName: c.weights})
		if !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want one about %s", name, err, c.says)
		}
	}
	if _, err := openFiles(t, map[string]string{ConfigName: seeing(t, nil, nil), safetensors.SingleName: good}); err == nil || !strings.Contains(err.Error(), preprocessorName) {
		t.Errorf("without %s: %v", preprocessorName, err)
	}
}
