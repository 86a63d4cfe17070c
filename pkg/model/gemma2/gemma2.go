// Package gemma2 is the architecture of Gemma 2 (Gemma Team, arXiv:2408.00118):
// norms before and after each block, capped scores and logits, scaled embeddings,
// and a window in every other layer.
package gemma2

import (
	"math"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/model/decoder"
)

// Arch is the architecture as GGUF files name it.
var Arch = decoder.Family{Name: "gemma2", Parse: parse, Layer: layer}.Arch()

// layers27B is the number of layers of the model whose scores are scaled by the
// width of the residual stream; files do not tell.
const layers27B = 46

func parse(r *decoder.Reader, p *decoder.Params) {
	r.Scaling(p)
	r.NoExperts()
	p.Rope.Neox = true
	p.Window = r.Window("attention.sliding_window")
	p.ScoreCap = r.Limit("attn_logit_softcapping")
	p.LogitCap = r.Limit("final_logit_softcapping")
	p.EmbedScale = float32(math.Sqrt(float64(p.Hidden)))
	if p.Layers == layers27B {
		p.Scale = float32(1 / math.Sqrt(float64(p.Hidden)/float64(p.Heads)))
	}
	p.Needs |= compute.FeatureScale | compute.FeatureNormAdd | compute.FeatureSoftCap
}

func layer(b *decoder.Builder, i int) []decoder.Block {
	window := b.Window
	if i%2 == 1 {
		window = 0
	}
	return []decoder.Block{
		b.Attention(i, b.Rope).WithWindow(window).WithSoftCap(b.ScoreCap).WithPostNorm(b, i),
		b.FFN(i, compute.GELUTanh).WithPostNorm(b, i),
	}
}
