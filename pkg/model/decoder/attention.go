package decoder

import "github.com/shoal-llm/shoal/pkg/compute"

// Attention is causal self-attention with rotary positions, whose queries share
// heads of keys and values in groups (Su et al., arXiv:2104.09864; Ainslie et al.,
// arXiv:2305.13245).
type Attention struct {
	norm      compute.Vector
	eps       float32
	qkv       []compute.Weight
	changes   [][]*compute.LowRank // of q, k and v; nil is none
	bias      []compute.Vector     // of q, k and v; empty is none
	headNorms []compute.Vector     // of each head of q and k, before its rotation; empty is none
	attend    compute.Attention
	rope      *compute.Rope
	layer     int
	cache     compute.Cache
	out       output

	rows   []compute.Buffer // q, k, v
	result compute.Buffer
}

// output adds a product to the residual stream.
type output struct {
	weight compute.Weight
	change [][]*compute.LowRank // nil is none
	norm   compute.Vector       // of what is added; nil is none
	eps    float32
	room   compute.Buffer
	to     [1]compute.Buffer
}

// output makes the product of a weight of layer i.
func (b *Builder) output(i int, tensor string, cols int) output {
	return output{weight: b.Matrix(i, tensor, b.Hidden, cols), change: b.Changes(i, tensor, cols, b.Hidden)}
}

func (o *output) add(p compute.Pass, x, y compute.Buffer) {
	if o.norm == nil {
		p.LinearAdd(x, o.weight, y)
		o.adapt(p, x, y)
		return
	}
	p.Linear(o.room, o.weight, y)
	o.adapt(p, o.room, y)
	p.NormAdd(x, o.room, o.norm, o.eps)
}

// adapt adds what adapters add to the product.
func (o *output) adapt(p compute.Pass, dst, y compute.Buffer) {
	if o.change != nil {
		o.to[0] = dst
		p.AddLowRank(o.to[:], y, nil, 0, o.change)
	}
}

// Attention makes the attention of layer i, which has these angles and no window.
func (b *Builder) Attention(i int, r RopeParams) *Attention {
	a := b.attention(i, r)
	a.qkv = []compute.Weight{
		b.Matrix(i, "attn_q.weight", b.queries(), b.Hidden),
		b.Matrix(i, "attn_k.weight", b.keys(), b.Hidden),
		b.Matrix(i, "attn_v.weight", b.keys(), b.Hidden),
	}
	a.changes = joined(
		b.Changes(i, "attn_q.weight", b.Hidden, b.queries()), b.Changes(i, "attn_k.weight", b.Hidden, b.keys()), b.Changes(i, "attn_v.weight", b.Hidden, b.keys()))
	return a
}

// FusedAttention is Attention with q, k and v in one tensor.
func (b *Builder) FusedAttention(i int, r RopeParams) *Attention {
	a := b.attention(i, r)
	a.qkv = b.Split(i, "attn_qkv.weight", b.Hidden, b.queries(), b.keys(), b.keys())
	a.changes = b.Changes(i, "attn_qkv.weight", b.Hidden, b.queries(), b.keys(), b.keys())
	return a
}

func (b *Builder) attention(i int, r RopeParams) *Attention {
	a := &Attention{
		norm: b.Vector(i, "attn_norm.weight", b.Hidden), eps: b.Eps,
		attend: compute.Attention{Heads: b.Heads, Scale: b.Scale}, rope: b.rope(r), layer: b.cache.layer,
		out:    b.output(i, "attn_output.weight", b.queries()),
		rows:   []compute.Buffer{b.Buffer("q", b.queries()), b.Buffer("k", b.keys()), b.Buffer("v", b.keys())},
		result: b.Buffer("attended", b.queries()),
	}
	b.cache.users = append(b.cache.users, a)
	return a
}

func (b *Builder) queries() int { return b.Heads * b.HeadDim }
func (b *Builder) keys() int    { return b.KVHeads * b.HeadDim }

// WithBias adds biases to q, k and v.
func (a *Attention) WithBias(b *Builder, i int) *Attention {
	a.bias = []compute.Vector{
		b.Vector(i, "attn_q.bias", b.queries()), b.Vector(i, "attn_k.bias", b.keys()), b.Vector(i, "attn_v.bias", b.keys()),
	}
	return a
}

// WithHeadNorms normalises each head of q and k before it is rotated.
func (a *Attention) WithHeadNorms(b *Builder, i int) *Attention {
	a.headNorms = []compute.Vector{b.Vector(i, "attn_q_norm.weight", b.HeadDim), b.Vector(i, "attn_k_norm.weight", b.HeadDim)}
	return a
}

// WithPostNorm normalises what the block adds.
func (a *Attention) WithPostNorm(b *Builder, i int) *Attention {
	a.out.norm, a.out.eps, a.out.room = b.Vector(i, "post_attention_norm.weight", b.Hidden), b.Eps, b.Buffer("added", b.Hidden)
	return a
}

// WithWindow hides keys that are window or more positions back; 0 hides none.
func (a *Attention) WithWindow(window int) *Attention {
	a.attend.Window = window
	return a
}

// WithSoftCap caps scores; 0 does not.
func (a *Attention) WithSoftCap(limit float32) *Attention {
	a.attend.SoftCap = limit
	return a
}

// Forward records the block.
func (a *Attention) Forward(p compute.Pass, x compute.Buffer) {
	q, k, v := a.rows[0], a.rows[1], a.rows[2]
	p.NormLinear(a.rows, x, a.norm, a.eps, a.qkv)
	if a.changes != nil {
		p.AddLowRank(a.rows, x, a.norm, a.eps, a.changes)
	}
	if len(a.bias) > 0 {
		p.AddBias(a.rows, a.bias)
	}
	if len(a.headNorms) > 0 {
		p.NormHeads(a.rows[:2], a.headNorms, a.eps)
	}
	p.RopeStore(q, k, v, a.rope, a.cache, a.layer)
	p.Attend(a.result, q, a.cache, a.layer, a.attend)
	a.out.add(p, x, a.result)
}
