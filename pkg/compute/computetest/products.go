package computetest

import (
	"fmt"
	"math"
	"testing"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/quant"
)

// testProducts checks the operations that multiply weights, at sizes around the
// borders of groups and tiles.
func testProducts(t *testing.T, r *rig, f quant.Format) {
	hidden := max(f.BlockElems, 96)
	if f.BlockElems == 1 {
		hidden = 72
	}
	vocab := r.load(f, 37, hidden)
	a, b, c := r.load(f, 16, hidden), r.load(f, 37, hidden), r.load(f, 1, hidden)
	down := r.load(f, hidden, 2*hidden)
	gate, up := r.load(f, 2*hidden, hidden), r.load(f, 2*hidden, hidden)
	gain := r.normal(hidden, 1)
	deviceGain := r.vector(gain)
	for _, rows := range []int{1, 3, 12, 13, 30} {
		t.Run(fmt.Sprint(rows), func(t *testing.T) {
			batch := oneSpan(0, rows, 0)
			ids := make([]int32, rows)
			for i := range ids {
				ids[i] = int32(r.rng.IntN(vocab.rows))
			}
			x := r.buffer(rows, hidden)
			p := r.be.Begin(batch)
			p.Embed(x, vocab.device, ids)
			residual := r.values(p, x, rows)
			for i, id := range ids {
				sameValues(t, fmt.Sprintf("embedding of %d", id), residual[i*hidden:(i+1)*hidden], vocab.row(int(id)))
			}
			normed := normed(residual, gain, 1e-5)
			testNormLinear(t, r, batch, x, deviceGain, normed, a, b, c)
			testGateUp(t, r, batch, x, deviceGain, normed, gate, up)
			testHead(t, r, batch, x, deviceGain, normed, vocab)
			testLinearAdd(t, r, batch, x, residual, down)
		})
	}
}

func testNormLinear(t *testing.T, r *rig, batch *compute.Batch, x compute.Buffer, gain compute.Vector, normed [][]float64, ws ...*matrix) {
	var dst []compute.Buffer
	var weights []compute.Weight
	for _, w := range ws {
		dst = append(dst, r.buffer(batch.Rows, w.rows))
		weights = append(weights, w.device)
	}
	p := r.be.Begin(batch)
	p.NormLinear(dst, x, gain, 1e-5, weights)
	for i, w := range ws {
		got := r.values(p, dst[i], batch.Rows)
		what := fmt.Sprintf("norm linear, weight %d", i)
		for row := range normed {
			for c := range w.rows {
				want, bound := w.dot(c, normed[row])
				nearAt(t, what, row, c, got[row*w.rows+c], want, bound)
			}
		}
		p = r.be.Begin(batch) // nothing but the next read
	}
	r.values(p, dst[0], batch.Rows)
}

func testHead(t *testing.T, r *rig, batch *compute.Batch, x compute.Buffer, gain compute.Vector, normed [][]float64, w *matrix) {
	var rows []int32
	for i := batch.Rows - 1; i >= 0; i -= 2 {
		rows = append(rows, int32(i))
	}
	logits := r.buffer(len(rows), w.rows)
	p := r.be.Begin(batch)
	p.Head(logits, x, rows, gain, 1e-5, w.device)
	got := r.values(p, logits, len(rows))
	for i, row := range rows {
		for c := range w.rows {
			want, bound := w.dot(c, normed[row])
			nearAt(t, "head", i, c, got[i*w.rows+c], want, bound)
		}
	}
}

func testGateUp(t *testing.T, r *rig, batch *compute.Batch, x compute.Buffer, gain compute.Vector, normed [][]float64, gate, up *matrix) {
	dst := r.buffer(batch.Rows, gate.rows)
	for _, act := range []compute.Activation{compute.SiLU, compute.GELUTanh} {
		p := r.be.Begin(batch)
		p.NormGateUp(dst, x, gain, 1e-5, gate.device, up.device, act)
		got := r.values(p, dst, batch.Rows)
		what := fmt.Sprintf("gate up, activation %d", act)
		for row := range normed {
			for c := range gate.rows {
				g, gBound := gate.dot(c, normed[row])
				u, uBound := up.dot(c, normed[row])
				want := activation(act, g) * u
				bound := 1.2*gBound*(math.Abs(u)+uBound) + (math.Abs(g)+gBound)*uBound + 1e-6*(1+math.Abs(want))
				nearAt(t, what, row, c, got[row*gate.rows+c], want, bound)
			}
		}
	}
}

func testLinearAdd(t *testing.T, r *rig, batch *compute.Batch, x compute.Buffer, residual []float32, w *matrix) {
	y := r.normal(batch.Rows*w.cols, 3)
	src := r.buffer(batch.Rows, w.cols)
	p := r.be.Begin(batch)
	p.Write(src, littleEndian(y))
	p.LinearAdd(x, w.device, src)
	got := r.values(p, x, batch.Rows)
	for row := range batch.Rows {
		in := make([]float64, w.cols)
		for c, v := range y[row*w.cols : (row+1)*w.cols] {
			in[c] = float64(v)
		}
		for c := range w.rows {
			sum, bound := w.dot(c, in)
			want := sum + float64(residual[row*w.rows+c])
			nearAt(t, "linear add", row, c, got[row*w.rows+c], want, bound+1e-6*math.Abs(want))
		}
	}
}

// dot returns the product of a row of m with x, and how far a device may be off:
// rounding, and half a step of the int8 form of the activations.
func (m *matrix) dot(row int, x []float64) (sum, bound float64) {
	w := m.row(row)
	for at := 0; at < len(x); at += quant.Block {
		end := min(at+quant.Block, len(x))
		var size float64
		for _, v := range x[at:end] {
			size = max(size, math.Abs(v))
		}
		heaviest := largest(w[at:end])
		for c, v := range x[at:end] {
			weight := float64(w[at+c])
			sum += weight * v
			bound += 1e-5*heaviest*math.Abs(v) + 1e-12
			if m.act {
				bound += math.Abs(weight) * size * (0.501 / 127)
			}
		}
	}
	return sum, bound + 1e-6
}

// normed returns the rows of x after an RMS norm.
func normed(x, gain []float32, eps float64) [][]float64 {
	n := len(gain)
	out := make([][]float64, len(x)/n)
	for i := range out {
		row := x[i*n : (i+1)*n]
		var sum float64
		for _, v := range row {
			sum += float64(v) * float64(v)
		}
		scale := 1 / math.Sqrt(sum/float64(n)+eps)
		for c, v := range row {
			out[i] = append(out[i], float64(v)*scale*float64(gain[c]))
		}
	}
	return out
}

func activation(act compute.Activation, x float64) float64 {
	if act == compute.GELUTanh {
		return 0.5 * x * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(x+0.044715*x*x*x)))
	}
	return x / (1 + math.Exp(-x))
}
