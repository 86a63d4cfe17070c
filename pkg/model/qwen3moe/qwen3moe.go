// Package qwen3moe is the architecture of the mixtures of Qwen 3 (Yang et al.,
// arXiv:2505.09388): that of Qwen 3 with many small feed-forward networks, of
// which a router chooses some.
package qwen3moe

import (
	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/model/decoder"
)

// Arch is the architecture as GGUF files name it.
var Arch = decoder.Family{Name: "qwen3moe", Parse: parse, Layer: layer}.Arch()

func parse(r *decoder.Reader, p *decoder.Params) {
	r.Scaling(p)
	r.HeadNorms(p)
	r.Experts(p, "expert_feed_forward_length")
	p.Rope.Neox = true
}

func layer(b *decoder.Builder, i int) []decoder.Block {
	return []decoder.Block{b.Attention(i, b.Rope).WithHeadNorms(b, i), b.Mixture(i, compute.SiLU)}
}
