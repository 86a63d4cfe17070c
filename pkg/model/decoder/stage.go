package decoder

import (
	"math"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/model"
)

// stage is a part of a model on a device.
type stage struct {
	params Params
	part   model.Part
	ends   ends
	blocks []Block
	cache  compute.Cache

	x, logits compute.Buffer
}

// ends is what comes before and after the layers.
type ends struct {
	embed, head compute.Weight
	norm        compute.Vector
	gain        []float32 // of norm, for embeddings
}

// Forward records one batch: embed on the first part, the blocks, logits on the
// last. Rows in place of embeddings are taken as they are.
func (s *stage) Forward(p compute.Pass, in model.Input, logits []int32) compute.Buffer {
	if s.part.Embed {
		p.Embed(s.x, s.ends.embed, in.IDs)
		if s.params.EmbedScale != 0 {
			p.Scale(s.x, s.params.EmbedScale)
		}
		if len(in.At) > 0 {
			p.Overwrite(s.x, in.At, in.Rows)
		}
	} else {
		p.Write(s.x, in.Rows)
	}
	for _, b := range s.blocks {
		b.Forward(p, s.x)
	}
	if !s.part.Head {
		return s.x
	}
	if len(logits) == 0 {
		return nil
	}
	p.Head(s.logits, s.x, logits, s.ends.norm, s.params.Eps, s.ends.head)
	if s.params.LogitCap != 0 {
		p.SoftCap(s.logits, len(logits), s.params.LogitCap)
	}
	return s.logits
}

// Hidden returns the residual stream.
func (s *stage) Hidden() compute.Buffer { return s.x }

// FinalNorm is the RMS norm before the head, in float64.
func (s *stage) FinalNorm(dst []float64, row []float32) {
	sum := 0.0
	for _, v := range row {
		sum += float64(v) * float64(v)
	}
	scale := 1 / math.Sqrt(sum/float64(len(row))+float64(s.params.Eps))
	for i, v := range row {
		dst[i] = float64(v) * scale * float64(s.ends.gain[i])
	}
}

// Cache returns the stage's KV cache.
func (s *stage) Cache() compute.Cache { return s.cache }
