package p16_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

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
			for _, level := range p16.Levels() {
				for _, T := range quant.TileTokens {
					if shape.name == "stream" && (T > 1 || level == quant.Portable) {
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
	for i := range w {
		w[i] = byte(i) & 0x3b // small values in every form
	}
	// Ordinary activations: products below the normal range take another path
	// through some processors.
	rng := rand.New(rand.NewPCG(1, 2))
	x := make([][]float32, T)
	for t := range x {
		x[t] = make([]float32, cols)
		for c := range x[t] {
			x[t][c] = float32(rng.NormFloat64())
		}
	}
	tile := makeTile(f.CPU.Act, x)
	if T > quant.WideTile {
		tile = wideTiles(f.CPU.Act, x)
	}
	out := make([]float32, T*rows)
	kernel := f.CPU.MatMul(level)
	for b.Loop() {
		kernel(w, tile, out, cols, groups, rows, T)
	}
	ns := float64(b.Elapsed().Nanoseconds()) / float64(b.N)
	b.ReportMetric(float64(len(w))/ns, "GB/s")
	b.ReportMetric(2*float64(rows*cols*T)/ns, "GOP/s")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkStreams times the products of one token with matrices larger than any cache
// in formats of few bits, in turns, each by its fastest run: bytes a second, and their
// ratio to those of Q4_0.
func BenchmarkStreams(b *testing.B) {
	const rows, cols = 32 << 10, 2048
	level := p16.Best()
	rng := rand.New(rand.NewPCG(1, 2))
	x := make([]float32, cols)
	for c := range x {
		x[c] = float32(rng.NormFloat64())
	}
	names := []string{"Q4_0", "Q4_K", "Q3_K", "Q2_K"}
	weights := make([][]byte, len(names))
	rates := make([]float64, len(names))
	out := make([]float32, rows)
	for i, name := range names {
		f, _ := formats.ByName(name)
		weights[i] = make([]byte, p16.Groups(rows)*f.CPU.GroupBytes(cols))
		for j := range weights[i] {
			weights[i][j] = byte(j) & 0x3b
		}
	}
	for b.Loop() {
		for i, name := range names {
			f, _ := formats.ByName(name)
			kernel, tile := f.CPU.MatMul(level), makeTile(f.CPU.Act, [][]float32{x})
			began := time.Now()
			kernel(weights[i], tile, out, cols, p16.Groups(rows), rows, 1)
			rates[i] = max(rates[i], float64(len(weights[i]))/float64(time.Since(began).Nanoseconds()))
		}
	}
	for i, name := range names {
		b.ReportMetric(rates[i], name+"_GB/s")
		b.ReportMetric(rates[i]/rates[0], name+"/Q4_0")
	}
	b.ReportMetric(0, "ns/op")
}

// BenchmarkPack times the repacking of a file's rows (GB/s of the file).
func BenchmarkPack(b *testing.B) {
	const rows, cols = 576, 1536
	for _, f := range formats.All() {
		b.Run(f.Name, func(b *testing.B) {
			src := make([]byte, rows*cols/f.BlockElems*f.BlockBytes)
			dst := make([]byte, p16.Groups(rows)*f.CPU.GroupBytes(cols))
			b.SetBytes(int64(len(src)))
			for b.Loop() {
				f.CPU.Pack(dst, src, rows, cols)
			}
		})
	}
}

// BenchmarkDecodeRow times the look-up of one embedding row.
func BenchmarkDecodeRow(b *testing.B) {
	const cols = 1536
	for _, f := range formats.All() {
		b.Run(f.Name, func(b *testing.B) {
			group := make([]byte, f.CPU.GroupBytes(cols))
			dst := make([]float32, cols)
			for b.Loop() {
				f.CPU.DecodeRow(dst, group, 5, cols)
			}
		})
	}
}

// BenchmarkQuantizeTile times the portable rounding of one row.
func BenchmarkQuantizeTile(b *testing.B) {
	x := make([]float32, 1536)
	for i := range x {
		x[i] = float32(i%37) - 18
	}
	tile := make([]byte, quant.ActInt8.ActBytes(12, len(x)))
	b.SetBytes(int64(4 * len(x)))
	for b.Loop() {
		p16.QuantizeTile(tile, x, 12, 3)
	}
}
