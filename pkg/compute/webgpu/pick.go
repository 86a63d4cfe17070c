//go:build cgo && ((linux && amd64) || darwin || (windows && amd64))

package webgpu

import "github.com/shoal-llm/shoal/pkg/compute"

// pickParts is the number of workgroups that share a row: see pick.wgsl.
const pickParts = 64

// Pick finds the largest values of parts of each row, and then of the parts.
func (p *pass) Pick(dst, x compute.Buffer, rows int) {
	p.settle()
	to, from := dst.(*buffer), x.(*buffer)
	holds("pick", from, rows, from.cols)
	holds("pick", to, rows, 2)
	to.linear = false
	parts := p.room(pickScratch, 4*2*pickParts*uint64(rows))
	block := words(tiles(from.cols, 4), 0, 0, 0).shapes(from, to)
	p.dispatch(kernel{op: pickOp}, block, pickParts, rows, 1, from.buffer, parts)
	p.dispatch(kernel{op: pickedOp}, block, rows, 1, 1, parts, to.buffer)
}
