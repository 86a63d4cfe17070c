package synthetic

import (
	"fmt"
	"strings"

	"github.com/shoal-llm/shoal/pkg/model"
	"github.com/shoal-llm/shoal/pkg/model/archs"
)

// arch finds the architecture of a shape.
func (s Shape) arch() (model.Arch, error) { return archs.Find(meta(s)) }

// names lists the tensors of a shape, as its architecture does.
func (s Shape) names(a model.Arch) []string {
	spec := model.Spec{Layers: s.Layers, TiedHead: s.Tied, Experts: s.Experts, ExpertsUsed: s.Used}
	return a.Tensors(spec, model.Whole(spec))
}

// tensor returns the shape of a tensor by its name; a vector has one row.
func (s Shape) tensor(name string) (rows, cols int, err error) {
	q, kv, head := s.Hidden, s.Hidden/s.Heads*s.KVHeads, s.Hidden/s.Heads
	if rest, ok := strings.CutPrefix(name, "blk."); ok {
		_, name, _ = strings.Cut(rest, ".")
	}
	switch name {
	case "token_embd.weight", "output.weight":
		return s.Vocab, s.Hidden, nil
	case "attn_q.weight", "attn_output.weight":
		return q, s.Hidden, nil
	case "attn_k.weight", "attn_v.weight":
		return kv, s.Hidden, nil
	case "attn_qkv.weight":
		return q + 2*kv, s.Hidden, nil
	case "attn_q.bias":
		return 1, q, nil
	case "attn_k.bias", "attn_v.bias":
		return 1, kv, nil
	case "attn_q_norm.weight", "attn_k_norm.weight":
		return 1, head, nil
	case "ffn_up.weight":
		return s.FF * s.upFactor(), s.Hidden, nil
	case "ffn_gate.weight":
		return s.FF, s.Hidden, nil
	case "ffn_down.weight":
		return s.Hidden, s.FF, nil
	case "ffn_gate_inp.weight":
		return s.Experts, s.Hidden, nil
	case "ffn_gate_exps.weight", "ffn_up_exps.weight":
		return s.Experts * s.FF, s.Hidden, nil
	case "ffn_down_exps.weight":
		return s.Experts * s.Hidden, s.FF, nil
	}
	if strings.HasSuffix(name, "norm.weight") {
		return 1, s.Hidden, nil
	}
	return 0, 0, fmt.Errorf("a tensor %s of unknown shape", name)
}

// upFactor is 2 where the gate is stored above the up matrix.
func (s Shape) upFactor() int {
	if s.Arch == "phi3" {
		return 2
	}
	return 1
}
