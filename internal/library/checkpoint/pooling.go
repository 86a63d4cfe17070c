package checkpoint

import (
	"slices"
	"strings"
)

// Files of sentence-transformers: what follows on the model, and how hidden states
// become one vector.
const (
	modulesName = "modules.json"
	poolingName = "1_Pooling/config.json"
)

// poolingConfig is 1_Pooling/config.json. Several modes at once are joined vectors.
type poolingConfig struct {
	First    bool `json:"pooling_mode_cls_token"`
	Mean     bool `json:"pooling_mode_mean_tokens"`
	Last     bool `json:"pooling_mode_lasttoken"`
	Max      bool `json:"pooling_mode_max_tokens"`
	Root     bool `json:"pooling_mode_mean_sqrt_len_tokens"`
	Weighted bool `json:"pooling_mode_weightedmean_tokens"`
}

// otherPooling is a number that GGUF has for no kind of pooling: embeddings that do
// not name another are refused.
const otherPooling = 255

// pooling writes how embeddings are made under the key of GGUF, where a folder says
// so. Layers behind the pooling are refused: nothing would compute them.
func (r reader) pooling(m Metadata) error {
	var modules []struct {
		Type string `json:"type"`
	}
	if _, err := r.optional(modulesName, maxConfigBytes, &modules); err != nil {
		return err
	}
	for _, one := range modules {
		kind := one.Type[strings.LastIndexByte(one.Type, '.')+1:]
		if !slices.Contains([]string{"Transformer", "Pooling", "Normalize"}, kind) {
			return refuse("%s has a layer of kind %.64q behind the model, which is not computed", modulesName, kind)
		}
	}
	var c poolingConfig
	found, err := r.optional(poolingName, maxConfigBytes, &c)
	if err != nil || !found {
		return err
	}
	number, modes := uint64(otherPooling), 0
	for _, mode := range []struct {
		on     bool
		number uint64
	}{{c.Mean, 1}, {c.First, 2}, {c.Last, 3}, {c.Max, otherPooling}, {c.Root, otherPooling}, {c.Weighted, otherPooling}} {
		if mode.on {
			number = mode.number
			modes++
		}
	}
	if modes != 1 {
		number = otherPooling
	}
	arch, err := m.String("general.architecture")
	if err != nil {
		return err
	}
	m[arch+".pooling_type"] = number
	return nil
}
