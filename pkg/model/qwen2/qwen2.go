// Package qwen2 is the architecture of Qwen 2 and 2.5 (Yang et al.,
// arXiv:2407.10671): Llama's with biases of queries, keys and values, and heads
// whose halves are rotated against each other.
package qwen2

import (
	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/model/decoder"
)

// Arch is the architecture as GGUF files name it.
var Arch = decoder.Family{Name: "qwen2", Parse: parse, Layer: layer}.Arch()

func parse(r *decoder.Reader, p *decoder.Params) {
	r.Scaling(p)
	r.NoExperts()
	p.Rope.Neox = true
	p.Needs |= compute.FeatureBias
}

func layer(b *decoder.Builder, i int) []decoder.Block {
	return []decoder.Block{b.Attention(i, b.Rope).WithBias(b, i), b.FFN(i, compute.SiLU)}
}
