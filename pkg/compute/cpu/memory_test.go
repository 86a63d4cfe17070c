package cpu

import (
	"strings"
	"testing"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/quant/formats"
)

// TestWeightsTakeTheBytesOfTheFile: what an arena says it holds of a matrix is
// what it has mapped, and within 2 % of the file, 4 % for K-quants, whose scales
// may be widened.
func TestWeightsTakeTheBytesOfTheFile(t *testing.T) {
	const rows, cols = 320, 2048
	be := open(t, Config{Threads: 1})
	for _, f := range formats.All() {
		row, err := f.RowBytes(cols)
		if err != nil {
			t.Fatal(err)
		}
		arena := be.NewArena()
		w, err := arena.Load(compute.Matrix{Name: f.Name, Format: f, Rows: rows, Cols: cols, Data: make([]byte, rows*row)})
		if err != nil {
			t.Fatal(err)
		}
		percent := uint64(2)
		if strings.HasSuffix(f.Name, "_K") {
			percent = 4
		}
		held, file := arena.Used().Weights, uint64(rows*row)
		if mapped := uint64(len(w.(*weight).data)); held != mapped {
			t.Errorf("%s: %d bytes held, %d mapped", f.Name, held, mapped)
		}
		if held < file || held > file+file*percent/100 {
			t.Errorf("%s: %d bytes held, %d in the file: beyond %d %%", f.Name, held, file, percent)
		}
		if err := arena.Free(); err != nil {
			t.Fatal(err)
		}
	}
}
