package cpu

import (
	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/sample"
)

// Pick has workers look through rows at the same time, in place.
func (p *pass) Pick(dst, x compute.Buffer, rows int) {
	to, src := dst.(*buffer), x.(*buffer)
	holds("pick", src, rows, src.cols)
	holds("pick", to, rows, 2)
	p.add(step{kind: pickRow, dst: to, src: src, tasks: rows})
}

// pick writes the column of the largest value and whether the row is of use.
func pick(dst, row []float32) {
	column, ok := sample.Largest(row)
	dst[0], dst[1] = float32(column), 0
	if ok {
		dst[1] = 1
	}
}
