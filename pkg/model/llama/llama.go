// Package llama is the Llama architecture: a decoder of pre-normed layers with
// grouped-query attention, rotary positions and a gated feed-forward network
// (Touvron et al., arXiv:2302.13971; grouped queries as in arXiv:2307.09288;
// Llama 3's frequency scaling by the factors stored in the file).
package llama

import (
	"fmt"
	"math"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/model"
)

// Arch is the architecture as GGUF files name it.
var Arch = model.Arch{
	Name:    "llama",
	Parse:   func(src model.Source) (model.Spec, error) { s, _, err := parse(src); return s, err },
	Tensors: tensors,
	Load:    load,
}

// layer is one decoder layer's weights.
type layer struct {
	attnNorm, ffnNorm compute.Vector
	qkv               []compute.Weight
	o, gate, up, down compute.Weight
}

// stage is a part of a Llama model on a device.
type stage struct {
	spec   model.Spec
	part   model.Part
	eps    float32
	attn   compute.Attention
	rope   *compute.Rope
	layers []layer

	embed, head compute.Weight
	headNorm    compute.Vector
	headGain    []float32 // of headNorm, for embeddings
	cache       compute.Cache

	x, q, k, v, att, ffn, logits compute.Buffer
	qkv                          []compute.Buffer // q, k, v
}

// Forward records one batch: embed on the first part, the layers, logits on the
// last.
func (s *stage) Forward(p compute.Pass, ids []int32, in []byte, logits []int32) compute.Buffer {
	if s.part.Embed {
		p.Embed(s.x, s.embed, ids)
	} else {
		p.Write(s.x, in)
	}
	for i := range s.layers {
		s.forwardLayer(p, i)
	}
	if !s.part.Head {
		return s.x
	}
	if len(logits) == 0 {
		return nil
	}
	p.Head(s.logits, s.x, logits, s.headNorm, s.eps, s.head)
	return s.logits
}

func (s *stage) forwardLayer(p compute.Pass, i int) {
	l := &s.layers[i]
	p.NormLinear(s.qkv, s.x, l.attnNorm, s.eps, l.qkv)
	p.RopeStore(s.q, s.k, s.v, s.rope, s.cache, i)
	p.Attend(s.att, s.q, s.cache, i, s.attn)
	p.LinearAdd(s.x, l.o, s.att)
	p.NormGateUp(s.ffn, s.x, l.ffnNorm, s.eps, l.gate, l.up, compute.SiLU)
	p.LinearAdd(s.x, l.down, s.ffn)
}

// Hidden returns the residual stream.
func (s *stage) Hidden() compute.Buffer { return s.x }

// FinalNorm is the RMS norm before the head, in float64.
func (s *stage) FinalNorm(dst []float64, row []float32) {
	sum := 0.0
	for _, v := range row {
		sum += float64(v) * float64(v)
	}
	scale := 1 / math.Sqrt(sum/float64(len(row))+float64(s.eps))
	for i, v := range row {
		dst[i] = float64(v) * scale * float64(s.headGain[i])
	}
}

// Cache returns the stage's KV cache.
func (s *stage) Cache() compute.Cache { return s.cache }

// tensors names the tensors that part p needs.
func tensors(spec model.Spec, p model.Part) []string {
	var names []string
	if p.Embed || p.Head && spec.TiedHead {
		names = append(names, embedName)
	}
	if p.Head {
		names = append(names, headNormName)
		if !spec.TiedHead {
			names = append(names, headName)
		}
	}
	for i := p.First; i < p.End; i++ {
		for _, n := range layerNames {
			names = append(names, fmt.Sprintf("blk.%d.%s.weight", i, n))
		}
	}
	return names
}

const (
	embedName    = "token_embd.weight"
	headName     = "output.weight"
	headNormName = "output_norm.weight"
	ropeName     = "rope_freqs.weight"
)

var layerNames = []string{"attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down"}
