package computetest

import (
	"fmt"
	"math"
	"testing"

	"github.com/shoal-llm/shoal/internal/golden"
	"github.com/shoal-llm/shoal/pkg/compute"
)

// fixture is a case of ops.json that an operation of a pass covers.
type fixture struct {
	Op, Name  string
	HeadDim   int `json:"head_dim"`
	RotaryDim int `json:"rotary_dim"`
	Theta     float64
	Positions []int
	InvFreq   golden.Tensor `json:"inv_freq"`
	Scaling   float64       `json:"attention_scaling"`
	Eps       float32
	Scale     float32
	Offset    int
	Window    int
	SoftCap   float32
	Causal    bool

	X, Weight, Gate, Up, Q, K, V, Out golden.Tensor

	Neox golden.Tensor `json:"out_neox"`
	Norm golden.Tensor `json:"out_norm"`
}

// testFixtures runs what outside tools computed in float32.
func testFixtures(t *testing.T, r *rig) {
	var file struct{ Cases []fixture }
	golden.JSON(t, "ops.json", &file)
	tested := map[string]int{}
	for i, c := range file.Cases {
		var run func(*testing.T, *rig, fixture)
		switch {
		case c.Op == "rmsnorm":
			run = fixtureNorm
		case c.Op == "swiglu", c.Op == "geglu_tanh":
			run = fixtureGate
		case c.Op == "softmax":
			run = fixtureSoftmax
		case c.Op == "attention" && c.Causal:
			run = fixtureAttention
		case c.Op == "rope" && c.Scaling == 1:
			run = fixtureRope
		default:
			continue
		}
		tested[c.Op]++
		t.Run(fmt.Sprintf("%s %s %d", c.Op, c.Name, i), func(t *testing.T) { run(t, r, c) })
	}
	for _, op := range []string{"rmsnorm", "swiglu", "geglu_tanh", "softmax", "attention", "rope"} {
		if tested[op] == 0 {
			t.Errorf("the reference data has no case of %s", op)
		}
	}
}

// agree compares under the tolerance that the reference data suggests.
func agree(t *testing.T, got, want []float32, tolerance float64) {
	t.Helper()
	for i := range want {
		near(t, fmt.Sprintf("value %d", i), got[i], float64(want[i]), tolerance*(1+math.Abs(float64(want[i]))))
	}
}

// fixtureNorm multiplies the normalised rows by the identity.
func fixtureNorm(t *testing.T, r *rig, c fixture) {
	gain := c.Weight.Float32(t)
	n, x := len(gain), c.X.Float32(t)
	rows := len(x) / n
	src, dst := r.buffer(rows, n), r.buffer(rows, n)
	p := r.be.Begin(oneSpan(0, rows, 0))
	p.Write(src, littleEndian(x))
	p.NormLinear([]compute.Buffer{dst}, src, r.vector(gain), c.Eps, []compute.Weight{r.loadF32(n, n, identity(n)).device})
	agree(t, r.values(p, dst, rows), c.Out.Float32(t), 1e-5)
}

// fixtureGate makes a row that the norm leaves as it is, a one in an otherwise
// empty row, and takes gate and up from a column of the weights.
func fixtureGate(t *testing.T, r *rig, c fixture) {
	act := compute.SiLU
	if c.Op == "geglu_tanh" {
		act = compute.GELUTanh
	}
	const cols = 16
	gate, up, want := c.Gate.Float32(t), c.Up.Float32(t), c.Out.Float32(t)
	n := len(gate)
	x := make([]float32, cols)
	x[0] = 4 // root mean square 1
	src, dst := r.buffer(1, cols), r.buffer(1, n)
	gain := r.vector([]float32{1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1})
	p := r.be.Begin(oneSpan(0, 1, 0))
	p.Write(src, littleEndian(x))
	p.NormGateUp(dst, src, gain, 0, r.loadF32(n, cols, column(gate, cols, 0.25)).device, r.loadF32(n, cols, column(up, cols, 0.25)).device, act)
	agree(t, r.values(p, dst, 1), want, 1e-5)
}

// column is a matrix with v·scale in its first column.
func column(v []float32, cols int, scale float32) []float32 {
	out := make([]float32, len(v)*cols)
	for i, x := range v {
		out[i*cols] = x * scale
	}
	return out
}

// fixtureSoftmax reads the weights of attention through values that are unit
// vectors: the scores are the keys' first dimension.
func fixtureSoftmax(t *testing.T, r *rig, c fixture) {
	x, want := c.X.Float32(t), c.Out.Float32(t)
	const dim = 32
	n := c.X.Shape[1]
	for row := range c.X.Shape[0] {
		if size := largest(x[row*n : (row+1)*n]); math.IsInf(size, 0) {
			continue // masks are positions here, not values
		}
		q, k := make([]float32, n*dim), column(x[row*n:(row+1)*n], dim, 1)
		v := make([]float32, n*dim)
		for i := range n {
			q[i*dim], v[i*dim+i] = 1, 1
		}
		got := r.attend(fixture{Offset: n - 1, Scale: 1}, geometry{1, 1, dim}, q[(n-1)*dim:], k, v)
		agree(t, got[:n], want[row*n:(row+1)*n], 1e-5)
	}
}

func fixtureAttention(t *testing.T, r *rig, c fixture) {
	g := geometry{c.Q.Shape[1], c.K.Shape[1], c.Q.Shape[2]}
	agree(t, r.attend(c, g, c.Q.Float32(t), c.K.Float32(t), c.V.Float32(t)), c.Out.Float32(t), 1e-5)
}

// attend computes keys up to c.Offset first, then the queries' own chunk, with
// no rotation.
func (r *rig) attend(c fixture, g geometry, q, k, v []float32) []float32 {
	keys := len(k) / (g.kvHeads * g.dim)
	still := &compute.Rope{Pairs: 1, Positions: keys, Cos: make([]float32, keys), Sin: make([]float32, keys)}
	for i := range still.Cos {
		still.Cos[i] = 1
	}
	cache := r.cache(compute.CacheSpec{Layers: 1, Pages: 1, KVHeads: g.kvHeads, HeadDim: g.dim})
	qs, ks, vs := r.buffer(keys, g.heads*g.dim), r.buffer(keys, g.kvHeads*g.dim), r.buffer(keys, g.kvHeads*g.dim)
	chunk := func(start, end int, q []float32) compute.Pass {
		p := r.be.Begin(oneSpan(start, end-start, 0))
		p.Write(qs, littleEndian(q))
		p.Write(ks, littleEndian(k[start*g.kvHeads*g.dim:end*g.kvHeads*g.dim]))
		p.Write(vs, littleEndian(v[start*g.kvHeads*g.dim:end*g.kvHeads*g.dim]))
		p.RopeStore(qs, ks, vs, still, cache, 0)
		return p
	}
	if c.Offset > 0 {
		r.values(chunk(0, c.Offset, make([]float32, c.Offset*g.heads*g.dim)), qs, 1)
	}
	p := chunk(c.Offset, keys, q)
	p.Attend(qs, qs, cache, 0, compute.Attention{Heads: g.heads, Scale: c.Scale, Window: c.Window, SoftCap: c.SoftCap})
	return r.values(p, qs, keys-c.Offset)
}

// fixtureRope rotates each position as a session of its own.
func fixtureRope(t *testing.T, r *rig, c fixture) {
	x := c.X.Float32(t)
	width := len(x) / len(c.Positions)
	factors := make([]float32, c.RotaryDim/2)
	for i, f := range c.InvFreq.Float32(t) {
		factors[i] = float32(math.Pow(c.Theta, -2*float64(i)/float64(c.RotaryDim)) / float64(f))
	}
	pages := make([]int32, 4096/compute.PageTokens)
	cache := r.cache(compute.CacheSpec{Layers: 1, Pages: 1, KVHeads: width / c.HeadDim, HeadDim: c.HeadDim})
	q, k := r.buffer(1, width), r.buffer(1, width)
	for _, neox := range []bool{false, true} {
		want := c.Norm
		if neox {
			want = c.Neox
		}
		rope := compute.NewRope(c.HeadDim, c.RotaryDim, 4096, c.Theta, factors, neox)
		for i, position := range c.Positions {
			p := r.be.Begin(oneSpan(position, 1, pages...))
			p.Write(q, littleEndian(x[i*width:(i+1)*width]))
			p.Write(k, littleEndian(x[i*width:(i+1)*width]))
			p.RopeStore(q, k, k, rope, cache, 0)
			tolerance := 1e-5
			if position >= 1000 {
				tolerance = 1e-3 // the frameworks' angles are float32
			}
			agree(t, r.values(p, q, 1), want.Float32(t)[i*width:(i+1)*width], tolerance)
		}
	}
}
