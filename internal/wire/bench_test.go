package wire

import (
	"fmt"
	"testing"

	"github.com/shoal-llm/shoal/pkg/frame"
)

// decodeStep is the frame of a decode step of n sessions between two stages.
func decodeStep(n int) *frame.Frame {
	f := &frame.Frame{
		Epoch: 3, Pipeline: 1, Step: 1000, DType: frame.DTypeF32, Rows: make([]byte, n*576*4),
		Timings: []frame.Timing{{Stage: 0, ComputeNS: 1e6, WaitNS: 1e5, Rows: uint32(n)}},
	}
	for i := range n {
		f.Spans = append(f.Spans, frame.Span{Slot: frame.Slot(i), Attempt: 7, Start: 300, Tokens: []int32{int32(4000 + i)}, Output: frame.OutputSample})
	}
	return f
}

// BenchmarkFrame is what a hop costs in the codec, on both sides: one step of so
// many sessions.
func BenchmarkFrame(b *testing.B) {
	for _, n := range []int{1, 16} {
		f, c := decodeStep(n), NewCodec()
		b.Run(fmt.Sprintf("encode/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				data, err := c.Marshal(&Push{Frame: f})
				if err != nil {
					b.Fatal(err)
				}
				data.Free()
			}
		})
		b.Run(fmt.Sprintf("decode/%d", n), func(b *testing.B) {
			data, err := c.Marshal(&Push{Frame: f})
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				var p Push
				if err := c.Unmarshal(data, &p); err != nil {
					b.Fatal(err)
				}
				p.Release()
			}
		})
	}
}
