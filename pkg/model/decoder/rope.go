package decoder

import (
	"fmt"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/model"
)

// RopeParams are the rotations of a layer.
type RopeParams struct {
	Dims     int
	Base     float64
	Factor   float64 // positions are stretched by it; 1 is plain
	Original int     // YaRN: the context before stretching; 0 stretches evenly
	Neox     bool    // pairs are halves of a head apart
	// Factors is the tensor of a factor for each pair, which replaces Factor where
	// the file has it; empty is none. Magnitude multiplies what is rotated then.
	Factors   string
	Magnitude float64
}

// rope returns the table of angles, which layers share.
func (b *Builder) rope(r RopeParams) *compute.Rope {
	if b.arena == nil || b.err != nil {
		return nil
	}
	if made, ok := b.ropes[r]; ok {
		return made
	}
	factors, magnitude := make([]float32, r.Dims/2), 1.0
	for i := range factors {
		factors[i] = float32(r.Factor)
	}
	if r.Original != 0 {
		factors, magnitude = compute.YaRN(r.Dims, r.Original, r.Base, r.Factor)
	}
	if m, ok := b.src.Tensor(r.Factors); ok && r.Factors != "" {
		if err := checkFactors(m, len(factors)); err != nil {
			b.fail("%w: %s: %w", model.ErrHParams, r.Factors, err)
			return nil
		}
		m.Format.Decode(factors, m.Data)
		magnitude = r.Magnitude
	}
	if b.ropes == nil {
		b.ropes = map[RopeParams]*compute.Rope{}
	}
	made := compute.NewScaledRope(b.HeadDim, r.Dims, b.limits.Positions, r.Base, factors, magnitude, r.Neox)
	b.ropes[r] = made
	return made
}

// checkFactors refuses factors that make no angles.
func checkFactors(m compute.Matrix, n int) error {
	if m.Rows != 1 || m.Cols != n {
		return fmt.Errorf("%d × %d factors, want %d", m.Rows, m.Cols, n)
	}
	values := make([]float32, n)
	m.Format.Decode(values, m.Data)
	for i, v := range values {
		if !(v > 0) {
			return fmt.Errorf("factor %d is %g, want a positive number", i, v)
		}
	}
	return nil
}
