package compute

import (
	"math"
	"testing"

	"github.com/shoal-llm/shoal/internal/golden"
)

// TestNewRope rotates the reference inputs with the table.
func TestFixtureRope(t *testing.T) {
	var ops struct {
		Cases []struct {
			Op, Name  string
			HeadDim   int `json:"head_dim"`
			RotaryDim int `json:"rotary_dim"`
			Theta     float64
			Positions []int
			InvFreq   golden.Tensor `json:"inv_freq"`
			Scaling   float64       `json:"attention_scaling"`
			X         golden.Tensor
			Neox      golden.Tensor `json:"out_neox"`
			Norm      golden.Tensor `json:"out_norm"`
		}
	}
	golden.JSON(t, "ops.json", &ops)
	tested := 0
	for _, c := range ops.Cases {
		if c.Op != "rope" || c.Scaling != 1 {
			continue
		}
		tested++
		factors := make([]float32, c.RotaryDim/2)
		for i, f := range c.InvFreq.Float32(t) {
			factors[i] = float32(math.Pow(c.Theta, -2*float64(i)/float64(c.RotaryDim)) / float64(f))
		}
		if c.Name == "default" || c.Name == "default_theta5e5" {
			factors = nil
		}
		x := c.X.Float32(t)
		for _, neox := range []bool{false, true} {
			want := c.Norm.Float32(t)
			if neox {
				want = c.Neox.Float32(t)
			}
			rope := NewRope(c.HeadDim, c.RotaryDim, 4096, c.Theta, factors, neox)
			heads := len(x) / len(c.Positions) / c.HeadDim
			for i, v := range x {
				position := c.Positions[i/c.HeadDim/heads]
				got, tolerance := rotated(rope, x[i/c.HeadDim*c.HeadDim:][:c.HeadDim], position, i%c.HeadDim), 1e-5+1e-5*math.Abs(float64(v))
				if position >= 1000 {
					tolerance = 1e-3
				}
				if math.Abs(got-float64(want[i])) > tolerance*4 {
					t.Fatalf("%s neox %v position %d dimension %d: %g, want %g", c.Name, neox, position, i%c.HeadDim, got, want[i])
				}
			}
		}
	}
	if tested < 6 {
		t.Fatalf("only %d reference cases", tested)
	}
}

// rotated returns dimension d of a head after the rotation.
func rotated(r *Rope, head []float32, position, d int) float64 {
	if d >= 2*r.Pairs {
		return float64(head[d])
	}
	pair, second, a, b := d/2, d%2 == 1, d-d%2, d-d%2+1
	if r.Neox {
		pair, second = d%r.Pairs, d >= r.Pairs
		a, b = pair, pair+r.Pairs
	}
	cos, sin := float64(r.Cos[position*r.Pairs+pair]), float64(r.Sin[position*r.Pairs+pair])
	if second {
		return float64(head[b])*cos + float64(head[a])*sin
	}
	return float64(head[a])*cos - float64(head[b])*sin
}

// TestRopeFunctions compares with package math, over the range of a long context.
func TestRopeFunctions(t *testing.T) {
	for i := range 200000 {
		x := float64(i) * 5.2345
		sin, cos := sinCos(x)
		if math.Abs(sin-math.Sin(x)) > 4e-16 || math.Abs(cos-math.Cos(x)) > 4e-16 {
			t.Fatalf("at %g: sin %g cos %g, want %g %g", x, sin, cos, math.Sin(x), math.Cos(x))
		}
	}
	for _, base := range []float64{10000, 5e5, 1e6, 12345.678, 8e6} {
		for i := range 128 {
			y := -float64(i) / 128
			if got, want := power(base, y), math.Pow(base, y); math.Abs(got/want-1) > 8e-15 {
				t.Fatalf("%g to the %g: %g, want %g", base, y, got, want)
			}
		}
	}
}
