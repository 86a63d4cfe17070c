// Package llama is the Llama architecture: a decoder of pre-normed layers with
// grouped-query attention, rotary positions and a gated feed-forward network
// (Touvron et al., arXiv:2302.13971; Llama 3's frequency scaling by the factors
// stored in the file).
//
// Files of Mistral have the same name and may add a window that attention slides
// over the keys (Jiang et al., arXiv:2310.06825), and those of Mixtral networks of
// which a router chooses some (arXiv:2401.04088).
package llama

import (
	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/model/decoder"
)

// Arch is the architecture as GGUF files name it.
var Arch = decoder.Family{Name: "llama", Parse: parse, Layer: layer}.Arch()

func parse(r *decoder.Reader, p *decoder.Params) {
	r.Scaling(p)
	p.Rope.Factors = "rope_freqs.weight"
	// GGUF files reorder the rows of queries and keys so that rotated pairs are
	// neighbours; checkpoints keep the pairs half a head apart.
	p.Rope.Neox = r.Flag("rope.halves")
	p.Window = r.Window("attention.sliding_window")
	if r.Has("expert_count") {
		r.Experts(p, "feed_forward_length")
	}
}

func layer(b *decoder.Builder, i int) []decoder.Block {
	attention := b.Attention(i, b.Rope).WithWindow(b.Window)
	if b.Experts > 0 {
		return []decoder.Block{attention, b.Mixture(i, compute.SiLU)}
	}
	return []decoder.Block{attention, b.FFN(i, compute.SiLU)}
}
