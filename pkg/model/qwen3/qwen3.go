// Package qwen3 is the architecture of Qwen 3 (Yang et al., arXiv:2505.09388):
// Llama's with norms of each head of queries and keys, and heads whose halves are
// rotated against each other.
package qwen3

import (
	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/model/decoder"
)

// Arch is the architecture as GGUF files name it.
var Arch = decoder.Family{Name: "qwen3", Parse: parse, Layer: layer}.Arch()

func parse(r *decoder.Reader, p *decoder.Params) {
	r.Scaling(p)
	r.NoExperts()
	r.HeadNorms(p)
	p.Rope.Neox = true
}

func layer(b *decoder.Builder, i int) []decoder.Block {
	return []decoder.Block{b.Attention(i, b.Rope).WithHeadNorms(b, i), b.FFN(i, compute.SiLU)}
}
