package driver

import (
	"math"
	"testing"
	"time"

	"github.com/shoal-llm/shoal/pkg/frame"
)

// computed teaches a pace a prompt in chunks of rows rows whose steps take what
// takes says.
func computed(p *pace, rows, chunks int, takes func(rows, pairs float64) float64) {
	for i := range chunks {
		f := &flight{rows: rows, pairs: pairs(i*rows, rows)}
		r := &frame.Result{}
		for stage := range p.stages {
			r.Timings = append(r.Timings, frame.Timing{
				Stage: uint32(stage), ComputeNS: uint64(takes(float64(rows), f.pairs)), Rows: uint32(rows),
			})
		}
		p.learn(f, r, time.Time{})
	}
}

// TestPaceTellsKeysFromRows: what chunks cost for the keys before them is told from
// what they cost anywhere, so that one far behind is as short as it has to be.
func TestPaceTellsKeysFromRows(t *testing.T) {
	const fixed, row, key = 3e6, 2e5, 300.0
	p := newPace(2)
	takes := func(rows, pairs float64) float64 { return fixed + row*rows + key*pairs }
	for _, rows := range []int{16, 32, 64, 128} {
		computed(&p, rows, 32, takes)
	}
	if got := p.key(); math.Abs(got-key) > key/100 {
		t.Errorf("a key costs %.0f ns, want %.0f", got, key)
	}
	const limit = 50e6
	near, far := p.fill(0, 0, 2048, limit, limit), p.fill(0, 4000, 2048, limit, limit)
	for at, n := range map[int]int{0: near, 4000: far} {
		if took := takes(float64(n), pairs(at, n)); took > 1.1*limit || n < 8 {
			t.Errorf("a chunk of %d rows at %d takes %.1f ms of %.0f", n, at, took/1e6, limit/1e6)
		}
	}
	if far >= near/3 {
		t.Errorf("%d rows near the beginning, %d far from it", near, far)
	}
	if near, far := p.cut(1000, 0, 512, 0), p.cut(1000, 6000, 512, 0); far > near {
		t.Errorf("chunks of %d rows near the beginning, of %d far from it", near, far)
	}
}
