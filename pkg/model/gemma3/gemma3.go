// Package gemma3 is the architecture of the texts of Gemma 3 (Gemma Team,
// arXiv:2503.19786): norms before and after each block and of each head of queries
// and keys, scaled embeddings, and five layers with a window and rotations of
// their own to one that sees all.
package gemma3

import (
	"math"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/model/decoder"
)

// Arch is the architecture as GGUF files name it.
var Arch = decoder.Family{Name: "gemma3", Parse: parse, Layer: layer}.Arch()

const (
	// period is that of the layers that see all: the last of each six.
	period = 6
	// localBase is the base of rotations in layers with a window.
	localBase = 10000
	// layers27B is the number of layers of the model whose scores are scaled by
	// the width of the residual stream; files do not tell.
	layers27B = 62
)

func parse(r *decoder.Reader, p *decoder.Params) {
	r.Scaling(p)
	r.NoExperts()
	r.HeadNorms(p)
	p.Rope.Neox = true
	p.Window = r.Window("attention.sliding_window")
	p.LogitCap = r.Limit("final_logit_softcapping")
	p.LocalBase = r.Number("rope.freq_base_swa", localBase)
	p.EmbedScale = float32(math.Sqrt(float64(p.Hidden)))
	if p.Layers == layers27B {
		p.Scale = float32(1 / math.Sqrt(float64(p.Hidden)/float64(p.Heads)))
	}
	p.Needs |= compute.FeatureScale | compute.FeatureNormAdd
	if p.LogitCap != 0 {
		p.Needs |= compute.FeatureSoftCap
	}
}

func layer(b *decoder.Builder, i int) []decoder.Block {
	rope, window := b.Rope, 0
	if i%period != period-1 {
		rope = decoder.RopeParams{Dims: b.Rope.Dims, Base: b.LocalBase, Factor: 1, Neox: true}
		window = b.Window
	}
	return []decoder.Block{
		b.Attention(i, rope).WithWindow(window).WithHeadNorms(b, i).WithPostNorm(b, i),
		b.FFN(i, compute.GELUTanh).WithPostNorm(b, i),
	}
}
