//go:build cgo && ((linux && amd64) || darwin || (windows && amd64))

package webgpu

import (
	"encoding/binary"
	"math"
	"unsafe"

	"github.com/shoal-llm/shoal/pkg/compute/webgpu/device"
	"github.com/shoal-llm/shoal/pkg/quant"
)

// store is rows of packed weights in the device's memory. Weights of several arenas
// may be in one: it is freed with the last of them.
type store struct {
	vectors, words *device.Buffer
	supers         int // where the words of super-blocks begin
	rows           int
	holders        int    // arenas
	orphaned       uint64 // bytes of arenas that are gone
}

// weight is a matrix: rows of one store, or of several where a store would not fit
// a binding.
type weight struct {
	arena      *arena
	rows, cols int
	format     quant.Format
	geometry   geometry
	parts      []part
	used       uint64 // number of the last pass that recorded it
}

// part is rows of a store.
type part struct {
	store *store
	first int // in the store
	rows  int
}

func (w *weight) Shape() (rows, cols int) { return w.rows, w.cols }

// vector is n values in the order of activations.
type vector struct {
	n      int
	buffer *device.Buffer
}

func (v *vector) Len() int { return v.n }

// row is the vector as a row of activations.
func (v *vector) row() *buffer {
	return &buffer{rows: 1, cols: v.n, segments: geometryOf(v.n).segments, buffer: v.buffer}
}

// buffer is rows of activations, in segments of 64 columns filled with zeros.
// Groups of 4 columns of the same place in their segments lie side by side, so that
// the lanes of a product read next to each other; outputs that are only read back
// are linear.
type buffer struct {
	rows, cols int
	segments   int
	linear     bool // as of the last operation recorded
	buffer     *device.Buffer
}

func (b *buffer) Cols() int { return b.cols }

// stride returns the floats of a row.
func (b *buffer) stride() int { return b.segments * quant.SegmentCols }

// shape is the four words of the shaders' Rows.
func (b *buffer) shape() [4]uint32 {
	s := [4]uint32{uint32(16 * b.segments), uint32(b.segments), 1, uint32(b.cols)}
	if b.linear {
		s[1], s[2] = 1, 16
	}
	return s
}

// unpack copies a row as the device holds it to linear dst.
func (b *buffer) unpack(dst []float32, row []byte, linear bool) {
	if linear {
		copy(dst, floats(row))
		return
	}
	values := floats(row)
	for c := 0; c < len(dst); c += 4 {
		copy(dst[c:min(c+4, len(dst))], values[4*(c%quant.SegmentCols/4*b.segments+c/quant.SegmentCols):])
	}
}

// floats views device memory as float32: WebGPU's devices are little-endian like the
// systems that the library is made for.
func floats(b []byte) []float32 {
	return unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/4)
}

// arranged returns values in the order of activations, as bytes.
func arranged(values []float32) []byte {
	segments := geometryOf(len(values)).segments
	out := make([]byte, 4*quant.SegmentCols*segments)
	for c, v := range values {
		at := 16*(c%quant.SegmentCols/4*segments+c/quant.SegmentCols) + 4*(c%4)
		binary.LittleEndian.PutUint32(out[at:], math.Float32bits(v))
	}
	return out
}
