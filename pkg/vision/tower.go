package vision

import (
	"context"
	"math"

	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/sample"
)

// norm is a layer norm.
type norm struct{ gain, bias []float32 }

// block is a layer of the tower: attention that sees all rows, then two dense layers.
type block struct {
	norm1, norm2     norm
	q, k, v, o       dense
	expand, contract dense
}

// tower is a CLIP vision transformer up to the layer whose rows are read (Radford et
// al., arXiv:2103.00020), and LLaVA's projector of two dense layers behind it (Liu et
// al., arXiv:2310.03744).
type tower struct {
	kernel             kernel
	side               int // patches on a side
	patch              int // pixels on a patch's side
	width, heads       int
	epsilon            float64
	quick              bool      // the activation is x·σ(1.702·x), else the exact GELU
	class, positions   []float32 // the class's row, and its position first
	patches            dense
	before             norm
	blocks             []block
	project, projected dense
}

// features computes the rows that stand for a picture, patches in reading order, from
// the values of Preprocess.
func (t *tower) features(ctx context.Context, values []float32) ([]float32, error) {
	x := t.embed(values)
	t.norm(x, x, t.before)
	n := make([]float32, len(x))
	for i := range t.blocks {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		b := &t.blocks[i]
		t.norm(n, x, b.norm1)
		in := t.tile(n, t.width)
		add(x, t.kernel.apply(t.tile(t.attend(t.kernel.apply(in, b.q), t.kernel.apply(in, b.k), t.kernel.apply(in, b.v)), t.width), b.o))
		t.norm(n, x, b.norm2)
		h := t.kernel.apply(t.tile(n, t.width), b.expand)
		t.activate(h, t.quick)
		add(x, t.kernel.apply(t.tile(h, b.expand.rows), b.contract))
	}
	x = x[t.width:] // the class is left out
	h := t.kernel.apply(t.tile(x, t.width), t.project)
	t.activate(h, false)
	return t.kernel.apply(t.tile(h, t.project.rows), t.projected), nil
}

func (t *tower) tile(x []float32, cols int) tiled { return tile(x, len(x)/cols, cols, cols) }

// embed makes a row of each patch, after the row of the class, and adds positions.
func (t *tower) embed(values []float32) []float32 {
	pixels, patches := t.side*t.patch, make([]float32, 0, len(values))
	for p := range t.side * t.side {
		for c := range 3 {
			for y := range t.patch {
				at := (c*pixels+p/t.side*t.patch+y)*pixels + p%t.side*t.patch
				patches = append(patches, values[at:at+t.patch]...)
			}
		}
	}
	x := append(append(make([]float32, 0, len(t.positions)), t.class...), t.kernel.apply(t.tile(patches, t.patches.cols), t.patches)...)
	add(x, t.positions)
	return x
}

// norm writes the layer norm of every row of x to dst.
func (t *tower) norm(dst, x []float32, n norm) {
	t.kernel.parallel(len(x)/t.width, func(_ *scratch, i int) {
		row, out := x[i*t.width:][:t.width], dst[i*t.width:][:t.width]
		mean, square := 0.0, 0.0
		for _, v := range row {
			mean += float64(v)
		}
		mean /= float64(t.width)
		for _, v := range row {
			d := float64(v) - mean
			square += float64(d * d)
		}
		scale := 1 / math.Sqrt(square/float64(t.width)+t.epsilon)
		for c, v := range row {
			normed := float32((float64(v) - mean) * scale)
			out[c] = float32(normed*n.gain[c]) + n.bias[c]
		}
	})
}

// attend lets every row see all rows: softmax(q·k/√d)·v for each head.
func (t *tower) attend(q, k, v []float32) []float32 {
	rows, dim := len(q)/t.width, t.width/t.heads
	out := make([]float32, len(q))
	scale := 1 / math.Sqrt(float64(dim))
	t.kernel.parallel(t.heads, func(s *scratch, h int) {
		at := h * dim
		scores, totals := make([]float32, rows*rows), make([]float64, rows)
		queries := tile(q[at:], rows, dim, t.width)
		for first := 0; first < rows; first += quant.Lanes {
			t.kernel.group(s, queries, first, rows,
				func(dst []float32, i int) { copy(dst, k[i*t.width+at:]) },
				func(row int, values []float32) { copy(scores[row*rows+first:], values) })
		}
		for r := range rows {
			totals[r] = softmax(scores[r*rows:][:rows], scale)
		}
		weights := tile(scores, rows, rows, rows)
		for first := 0; first < dim; first += quant.Lanes {
			t.kernel.group(s, weights, first, dim,
				func(dst []float32, i int) {
					for r := range dst {
						dst[r] = v[r*t.width+at+i]
					}
				},
				func(row int, values []float32) {
					dst := out[row*t.width+at+first:]
					for i, sum := range values {
						dst[i] = float32(float64(sum) / totals[row])
					}
				})
		}
	})
	return out
}

// softmax writes e^(scale·(x − largest)) over x and returns the sum.
func softmax(x []float32, scale float64) (total float64) {
	most := x[0]
	for _, v := range x {
		most = max(most, v)
	}
	for i, v := range x {
		x[i] = float32(sample.Exp(float64((float64(v) - float64(most)) * scale)))
		total += float64(x[i])
	}
	return total
}

// activate applies a GELU in place (Hendrycks and Gimpel, arXiv:1606.08415): the quick
// approximation x·σ(1.702·x), or the exact x·Φ(x).
func (t *tower) activate(x []float32, quick bool) {
	const piece = 1 << 12
	t.kernel.parallel((len(x)+piece-1)/piece, func(_ *scratch, i int) {
		part := x[i*piece : min((i+1)*piece, len(x))]
		for i, v := range part {
			d := float64(v)
			if quick {
				part[i] = float32(d / (1 + sample.Exp(-1.702*d)))
			} else {
				part[i] = float32(0.5 * d * (1 + erf(d/math.Sqrt2)))
			}
		}
	})
}

// erf is the error function within 1e-12, by a series of positive terms:
// 2/√π·e^(−x²)·Σ 2ⁿx²ⁿ⁺¹/(2n+1)!!. Its products are rounded one by one, so that it has
// the same bits on every processor.
func erf(x float64) float64 {
	const far = 6 // beyond, it is ±1 to that precision
	switch {
	case x != x:
		return x
	case x >= far:
		return 1
	case x <= -far:
		return -1
	}
	square := float64(x * x)
	sum, term := x, x
	for n := 1; math.Abs(term) > 1e-16*math.Abs(sum); n++ {
		term = float64(term*2*square) / float64(2*n+1)
		sum += term
	}
	return float64(float64(2/math.SqrtPi*sample.Exp(-square)) * sum)
}

func add(x, y []float32) {
	for i, v := range y {
		x[i] += v
	}
}
