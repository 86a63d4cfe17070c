package cpu

import (
	"runtime"
	"sync"

	"github.com/shoal-llm/shoal/pkg/quant"
)

// padTo returns n rounded up to a multiple of step.
func padTo(n, step int) int { return (n + step - 1) / step * step }

// groupsOf returns the number of groups of quant.Lanes rows that rows fill.
func groupsOf(rows int) int { return padTo(rows, quant.Lanes) / quant.Lanes }

// weight is a matrix: packed groups, or in reference mode rows as in the file.
type weight struct {
	rows, cols int
	groups     int // of quant.Lanes rows
	groupBytes int // of a packed group
	rowBytes   int // of a row in the file
	format     quant.Format
	cpu        *quant.CPU   // nil in reference mode
	multiply   quant.MatMul // nil in reference mode
	data       mapping
}

func (w *weight) Shape() (rows, cols int) { return w.rows, w.cols }

// packRows is the number of rows that a goroutine packs at a time.
const packRows = 64 * quant.Lanes

// pack packs the rows of a file by threads goroutines.
func (w *weight) pack(src []byte, threads int) {
	var group sync.WaitGroup
	free := make(chan struct{}, min(threads, runtime.GOMAXPROCS(0)))
	for row := 0; row < w.rows; row += packRows {
		n := min(packRows, w.rows-row)
		free <- struct{}{}
		group.Go(func() {
			w.cpu.Pack(w.group(row/quant.Lanes, groupsOf(n)), src[row*w.rowBytes:(row+n)*w.rowBytes], n, w.cols)
			<-free
		})
	}
	group.Wait()
}

// group returns n packed groups from group first on.
func (w *weight) group(first, n int) []byte {
	return w.data[first*w.groupBytes : (first+n)*w.groupBytes]
}

// decodeRow writes the exact values of a row.
func (w *weight) decodeRow(dst []float32, row int) {
	if w.cpu == nil {
		w.format.Decode(dst[:w.cols], w.data[row*w.rowBytes:(row+1)*w.rowBytes])
		return
	}
	w.cpu.DecodeRow(dst[:w.cols], w.group(row/quant.Lanes, 1), row%quant.Lanes, w.cols)
}

// vector is n values, padded with zeros to whole lanes.
type vector struct {
	n    int
	data []float32
}

func (v *vector) Len() int { return v.n }

// buffer is rows of cols values, stride apart. The padding between cols and
// stride is zero. There is room for the rows that fill the last tile.
type buffer struct {
	rows, cols, stride int
	data               []float32
}

func (b *buffer) Cols() int { return b.cols }

// row returns row i with its padding.
func (b *buffer) row(i int) []float32 { return b.data[i*b.stride : (i+1)*b.stride] }
