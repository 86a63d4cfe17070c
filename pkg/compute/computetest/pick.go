package computetest

import (
	"math"
	"testing"
)

// testPick holds what a device picks to what a loop over the values picks.
func testPick(t *testing.T, r *rig) {
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	negativeZero := float32(math.Copysign(0, -1))
	const rows = 9
	for _, cols := range []int{5, 64, 1000, 70_001} {
		x := r.normal(rows*cols, 1)
		row := func(i int) []float32 { return x[i*cols:][:cols] }
		row(1)[cols-1] = 99
		row(2)[1], row(2)[cols-2] = 99, 99
		fill(row(3), -inf)
		fill(row(4), -inf)
		row(4)[cols/2] = -7
		row(5)[cols-1] = nan
		row(6)[cols-2] = inf
		row(7)[0] = -nan
		fill(row(8), -1)
		row(8)[1], row(8)[2] = negativeZero, 0
		p := r.be.Begin(oneSpan(0, rows, 0))
		deviceX, dst := r.buffer(rows, cols), r.buffer(rows, 2)
		p.Write(deviceX, littleEndian(x))
		p.Pick(dst, deviceX, rows)
		got, _ := r.finish(p, dst, rows)
		for i := range rows {
			column, ok := greedy(row(i))
			if !ok && got[2*i+1] != 0 || ok && (got[2*i+1] != 1 || got[2*i] != float32(column)) {
				t.Errorf("row %d of %d columns: picked %v, want column %d, of use: %t", i, cols, got[2*i:][:2], column, ok)
			}
		}
	}
}

func fill(row []float32, v float32) {
	for i := range row {
		row[i] = v
	}
}

// greedy returns where the largest value is, unless the row is of no use.
func greedy(row []float32) (column int, ok bool) {
	for c, v := range row {
		if v != v || v > math.MaxFloat32 {
			return 0, false
		}
		if v > row[column] {
			column = c
		}
	}
	return column, row[column] >= -math.MaxFloat32
}
