package decoder

import (
	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/model"
)

// Family is what makes an architecture of the shared parts.
type Family struct {
	// Name is the architecture as GGUF files name it.
	Name string
	// Parse reads what the family has beyond the common hyperparameters; nil if
	// there is nothing.
	Parse func(r *Reader, p *Params)
	// Layer makes the blocks of layer i. Without a device they are not used.
	Layer func(b *Builder, i int) []Block
}

// Block adds to the residual stream.
type Block interface {
	// Forward records what the block does to x.
	Forward(p compute.Pass, x compute.Buffer)
}

// Arch returns the architecture.
func (f Family) Arch() model.Arch {
	return model.Arch{
		Name: f.Name,
		Parse: func(src model.Source) (model.Spec, error) {
			p, err := f.parse(src)
			return p.Spec, err
		},
		Tensors:   func(s model.Spec, p model.Part) []string { return f.named(s, p).names },
		Adaptable: func(s model.Spec, p model.Part) []string { return f.named(s, p).adapts },
		Load:      f.load,
	}
}

// named returns a builder that has noted the tensors of a part. Names follow from the
// spec alone.
func (f Family) named(spec model.Spec, part model.Part) *Builder {
	b := &Builder{Params: Params{Spec: spec}, part: part}
	b.ends()
	for i := part.First; i < part.End; i++ {
		f.Layer(b, i)
	}
	return b
}

// check holds every tensor of a file against the hyperparameters.
func (f Family) check(src model.Source, p Params) error {
	b := &Builder{Params: p, part: model.Whole(p.Spec), src: src}
	b.ends()
	for i := 0; i < p.Layers && b.err == nil; i++ {
		f.Layer(b, i)
	}
	return b.err
}

// load loads a part onto a device.
func (f Family) load(arena compute.Arena, src model.Source, spec model.Spec, part model.Part, limits model.Limits) (model.Stage, error) {
	if err := part.Check(spec.Layers); err != nil {
		return nil, err
	}
	p, err := f.parse(model.Outline(src))
	if err != nil {
		return nil, err
	}
	b := &Builder{Params: p, part: part, src: src, arena: arena, limits: limits}
	s := &stage{params: p, part: part}
	for i := part.First; i < part.End && b.err == nil; i++ {
		b.cache.layer = i - part.First
		s.blocks = append(s.blocks, f.Layer(b, i)...)
	}
	s.ends = b.ends()
	s.x = b.Buffer("x", p.Hidden)
	if part.Head {
		s.logits = b.buffer(limits.Logits, p.Vocab)
	}
	b.makeCache()
	if b.err != nil {
		return nil, b.err
	}
	s.cache = b.cache.made
	return s, nil
}
