package bandwidth

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/quant/formats"
	"github.com/shoal-llm/shoal/pkg/quant/p16"
)

// BenchmarkStream times one token's products with weights that no cache near a
// core holds, in huge pages and in tasks as decoding cuts them, beside plain
// reads of the same memory. Both take turns, so that other load meets both: the
// medians and the best, in GB/s.
func BenchmarkStream(b *testing.B) {
	const size, task = 96 << 20, 512 << 10
	region, err := New(size)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = region.Close() })
	for i := range region.data {
		region.data[i] = byte(i) & 0x3b // small values in every form
	}
	for _, f := range formats.All() {
		for _, level := range p16.Levels() {
			if level == quant.Portable {
				continue
			}
			for _, threads := range []int{1, 2} {
				b.Run(fmt.Sprintf("%s/%s/threads=%d", f.Name, level, threads), func(b *testing.B) {
					benchmarkStream(b, region, f, level, threads, task)
				})
			}
		}
	}
}

func benchmarkStream(b *testing.B, region *Region, f quant.Format, level quant.Level, threads, task int) {
	s := newStreamer(region.data, f, level, task)
	var products, reads []float64
	for b.Loop() {
		read, err := region.Read(region.Size(), threads, 1)
		if err != nil {
			b.Fatal(err)
		}
		reads = append(reads, read/1e9)
		products = append(products, s.run(threads)/1e9)
	}
	slices.Sort(products)
	slices.Sort(reads)
	b.ReportMetric(products[len(products)/2], "GB/s")
	b.ReportMetric(products[len(products)-1], "best-GB/s")
	b.ReportMetric(reads[len(reads)/2], "read-GB/s")
	b.ReportMetric(reads[len(reads)-1], "best-read-GB/s")
	b.ReportMetric(0, "ns/op")
}

// streamer multiplies all weights that fit its memory by one token.
type streamer struct {
	weights    []byte
	kernel     quant.MatMul
	tile       []byte
	groupBytes int
	groups     int // of a task
	tasks      int
}

const streamCols = 2048

func newStreamer(weights []byte, f quant.Format, level quant.Level, task int) *streamer {
	rng := rand.New(rand.NewPCG(1, 2))
	x := make([]float32, streamCols)
	for i := range x {
		x[i] = float32(rng.NormFloat64())
	}
	s := &streamer{weights: weights, kernel: f.CPU.MatMul(level), groupBytes: f.CPU.GroupBytes(streamCols)}
	s.tile = make([]byte, f.CPU.Act.ActBytes(1, streamCols))
	if f.CPU.Act == quant.ActInt8 {
		p16.QuantizeTile(s.tile, x, 1, 0)
	} else {
		p16.PackF32Tile(s.tile, x, 1, 0)
	}
	s.groups = max(1, task/s.groupBytes)
	s.tasks = len(weights) / s.groupBytes / s.groups
	return s
}

// run returns bytes a second until the last thread is done.
func (s *streamer) run(threads int) float64 {
	var next atomic.Int64
	var wait sync.WaitGroup
	start := time.Now()
	for range threads {
		wait.Go(func() {
			out := make([]float32, s.groups*quant.Lanes)
			bytes := s.groups * s.groupBytes
			for i := int(next.Add(1)) - 1; i < s.tasks; i = int(next.Add(1)) - 1 {
				s.kernel(s.weights[i*bytes:][:bytes], s.tile, out, streamCols, s.groups, len(out), 1)
			}
		})
	}
	wait.Wait()
	return float64(s.tasks*s.groups*s.groupBytes) / time.Since(start).Seconds()
}
