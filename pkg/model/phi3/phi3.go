// Package phi3 is the architecture of Phi 3 (Abdin et al., arXiv:2404.14219):
// Llama's with queries, keys and values in one matrix, and gate and up in another,
// and heads whose halves are rotated against each other.
package phi3

import (
	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/model/decoder"
)

// Arch is the architecture as GGUF files name it.
var Arch = decoder.Family{Name: "phi3", Parse: parse, Layer: layer}.Arch()

// parse chooses the factors of LongRoPE (Ding et al., arXiv:2402.13753) by the
// context that the model was made for, not by the length of a text: a token must
// not change the rotations of those before it.
func parse(r *decoder.Reader, p *decoder.Params) {
	r.NoExperts()
	p.Window = r.Window("attention.sliding_window")
	p.Rope.Neox = true
	p.Rope.Factors = "rope_factors_short.weight"
	if r.Count("rope.scaling.original_context_length", p.Context, p.Context) < p.Context {
		p.Rope.Factors = "rope_factors_long.weight"
	}
	p.Rope.Magnitude = r.Number("rope.scaling.attn_factor", 1)
}

func layer(b *decoder.Builder, i int) []decoder.Block {
	return []decoder.Block{b.FusedAttention(i, b.Rope).WithWindow(b.Window), b.FusedFFN(i, compute.SiLU)}
}
