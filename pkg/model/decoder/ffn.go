package decoder

import "github.com/shoal-llm/shoal/pkg/compute"

// FFN is a gated feed-forward network (Shazeer, "GLU variants improve
// transformer", arXiv:2002.05202).
type FFN struct {
	norm    compute.Vector
	eps     float32
	gateUp  []compute.Weight
	changes [][]*compute.LowRank // of gate and up; nil is none
	rooms   []compute.Buffer     // for both, where adapters change them
	act     compute.Activation
	out     output
	inner   compute.Buffer
}

// FFN makes the feed-forward network of layer i.
func (b *Builder) FFN(i int, act compute.Activation) *FFN {
	f := b.ffn(i, act)
	f.gateUp = []compute.Weight{b.Matrix(i, "ffn_gate.weight", b.FFNWidth, b.Hidden), b.Matrix(i, "ffn_up.weight", b.FFNWidth, b.Hidden)}
	f.adapt(b, joined(b.Changes(i, "ffn_gate.weight", b.Hidden, b.FFNWidth), b.Changes(i, "ffn_up.weight", b.Hidden, b.FFNWidth)))
	return f
}

// FusedFFN is FFN with gate and up in one tensor, in this order.
func (b *Builder) FusedFFN(i int, act compute.Activation) *FFN {
	f := b.ffn(i, act)
	f.gateUp = b.Split(i, "ffn_up.weight", b.Hidden, b.FFNWidth, b.FFNWidth)
	f.adapt(b, b.Changes(i, "ffn_up.weight", b.Hidden, b.FFNWidth, b.FFNWidth))
	return f
}

// adapt takes the changes of gate and up, and room for both products.
func (f *FFN) adapt(b *Builder, changes [][]*compute.LowRank) {
	if changes != nil {
		f.changes, f.rooms = changes, []compute.Buffer{b.Buffer("gate", b.FFNWidth), b.Buffer("up", b.FFNWidth)}
	}
}

func (b *Builder) ffn(i int, act compute.Activation) *FFN {
	return &FFN{
		norm: b.Vector(i, "ffn_norm.weight", b.Hidden), eps: b.Eps, act: act,
		out:   b.output(i, "ffn_down.weight", b.FFNWidth),
		inner: b.Buffer("inner", b.FFNWidth),
	}
}

// WithPostNorm normalises what the block adds.
func (f *FFN) WithPostNorm(b *Builder, i int) *FFN {
	f.out.norm, f.out.eps, f.out.room = b.Vector(i, "post_ffw_norm.weight", b.Hidden), b.Eps, b.Buffer("added", b.Hidden)
	return f
}

// Forward records the block.
func (f *FFN) Forward(p compute.Pass, x compute.Buffer) {
	if f.changes != nil {
		p.AdaptedGateUp(f.inner, x, f.norm, f.eps, f.gateUp, f.act, f.rooms, f.changes)
	} else {
		p.NormGateUp(f.inner, x, f.norm, f.eps, f.gateUp[0], f.gateUp[1], f.act)
	}
	f.out.add(p, x, f.inner)
}

// Mixture is feed-forward networks of which a router chooses some for each row.
type Mixture struct {
	norm    compute.Vector
	eps     float32
	experts compute.Experts
}

// Mixture makes the experts of layer i.
func (b *Builder) Mixture(i int, act compute.Activation) *Mixture {
	return &Mixture{
		norm: b.Vector(i, "ffn_norm.weight", b.Hidden), eps: b.Eps,
		experts: compute.Experts{
			Router: b.Matrix(i, "ffn_gate_inp.weight", b.Experts, b.Hidden),
			Gate:   b.Matrix(i, "ffn_gate_exps.weight", b.Experts*b.ExpertWidth, b.Hidden),
			Up:     b.Matrix(i, "ffn_up_exps.weight", b.Experts*b.ExpertWidth, b.Hidden),
			Down:   b.Matrix(i, "ffn_down_exps.weight", b.Experts*b.Hidden, b.ExpertWidth),
			Count:  b.Experts, Used: b.ExpertsUsed, Act: act,
			Scores: b.Buffer("scores", b.Experts),
			Inner:  b.Rows("experts' inner", b.ExpertsUsed, b.ExpertWidth),
			Out:    b.Rows("experts' out", b.ExpertsUsed, b.Hidden),
		},
	}
}

// Forward records the block.
func (m *Mixture) Forward(p compute.Pass, x compute.Buffer) {
	p.AddExperts(x, m.norm, m.eps, &m.experts)
}
