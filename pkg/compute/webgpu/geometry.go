package webgpu

import "github.com/shoal-llm/shoal/pkg/quant"

// geometryVersion changes when the order of any sum does: answers of two versions
// may differ in their last bits.
const geometryVersion = 1

// geometry is how a row's columns are cut for a sum: lanes pieces of chunks
// segments. A piece is added ascending, then pieces ascending. It follows from the
// weight's format and columns alone, never from tuning, the batch or the device.
type geometry struct {
	segments int // of quant.SegmentCols columns, the last filled with zeros
	chunks   int // segments of a piece
	lanes    int // pieces
}

// maxLanes bounds the pieces of a row: a piece is a thread of a workgroup.
const maxLanes = 256

// geometryOf returns the geometry of rows of cols columns. All formats share it.
func geometryOf(cols int) geometry {
	g := geometry{segments: (cols + quant.SegmentCols - 1) / quant.SegmentCols, chunks: 1}
	for g.segments > maxLanes*g.chunks {
		g.chunks *= 2
	}
	g.lanes = (g.segments + g.chunks - 1) / g.chunks
	return g
}

// stride is the words of a row's pieces in a workgroup's memory: whole eights, and
// one more so that the same piece of different rows lies in different banks.
func (g geometry) stride() int { return (g.lanes+7)/8*8 + 1 }
