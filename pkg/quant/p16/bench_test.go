package p16_test

import (
	"fmt"
	"testing"

	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/quant/formats"
	"github.com/shoal-llm/shoal/pkg/quant/p16"
)

// BenchmarkMatMul times the kernels: weights read (GB/s) and multiply-adds
// counted as two operations (GOP/s), on one core. The smallest shape stays in
// the second-level cache; "stream" is larger than any cache.
func BenchmarkMatMul(b *testing.B) {
	shapes := []struct {
		name       string
		rows, cols int
	}{{"576x1536", 576, 1536}, {"2048x2048", 2048, 2048}, {"stream", 64 << 10, 2048}}
	for _, f := range formats.All() {
		for _, shape := range shapes {
			for _, level := range []quant.Level{quant.Portable, quant.AVX2, quant.AVX512} {
				for _, T := range quant.TileTokens {
					if level > p16.Best() || shape.name == "stream" && (T > 1 || level == quant.Portable) {
						continue
					}
					b.Run(fmt.Sprintf("%s/%s/%s/T%d", f.Name, shape.name, level, T), func(b *testing.B) {
						benchmarkMatMul(b, f, level, shape.rows, shape.cols, T)
					})
				}
			}
		}
	}
}

func benchmarkMatMul(b *testing.B, f quant.Format, level quant.Level, rows, cols, T int) {
	groups := p16.Groups(rows)
	w := make([]byte, groups*f.CPU.GroupBytes(cols))
	tile := make([]byte, f.CPU.Act.ActBytes(T, cols))
	out := make([]float32, T*rows)
	kernel := f.CPU.MatMul(level)
	for i := range w {
		w[i] = byte(i) & 0x3b // small scales
	}
	for b.Loop() {
		kernel(w, tile, out, cols, groups, rows, T)
	}
	ns := float64(b.Elapsed().Nanoseconds()) / float64(b.N)
	b.ReportMetric(float64(len(w))/ns, "GB/s")
	b.ReportMetric(2*float64(rows*cols*T)/ns, "GOP/s")
	b.ReportMetric(0, "ns/op")
}
