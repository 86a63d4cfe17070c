package cpu

import (
	"runtime"
	"sync"

	"github.com/shoal-llm/shoal/pkg/compute"
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

// cache is the pages of a stage: for each layer and page, first the keys,
// [head][dimension][64 keys], then the values, [head][64 keys][dimension].
type cache struct {
	spec compute.CacheSpec
	head int // values of one head's keys in a page
	page int // values of a page
	data []float32
}

func (c *cache) Spec() compute.CacheSpec { return c.spec }

// at returns a page of a layer.
func (c *cache) at(layer int, page int32) []float32 {
	return c.data[(layer*c.spec.Pages+int(page))*c.page:][:c.page:c.page]
}

// keys returns one head of the keys of a page, [dimension][64].
func (c *cache) keys(layer int, page int32, head int) []float32 {
	return c.at(layer, page)[head*c.head:][:c.head:c.head]
}

// values returns one head of the values of a page, [64][dimension].
func (c *cache) values(layer int, page int32, head int) []float32 {
	return c.at(layer, page)[(c.spec.KVHeads+head)*c.head:][:c.head:c.head]
}
