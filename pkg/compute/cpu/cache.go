package cpu

import (
	"encoding/binary"
	"math"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/tensor"
)

// cache is the pages of a stage: for each layer and page the keys of all heads,
// then the values. In float32 a head's keys are [dimension][64 keys] and its
// values [64 keys][dimension]; in any other class both are 64 rows.
type cache struct {
	spec   compute.CacheSpec
	head   int // values of one head's keys in a page
	page   int // values of a page
	row    int // bytes of a row, other classes
	factor float32
	data   []float32 // float32
	packed []byte    // any other class
}

func newCache(spec compute.CacheSpec, m mapping) *cache {
	head := spec.HeadDim * compute.PageTokens
	c := &cache{spec: spec, head: head, page: 2 * spec.KVHeads * head}
	if spec.Class == (compute.KVClass{}) {
		c.data = m.float32s()
		return c
	}
	c.packed, c.row = m, spec.Class.RowBytes(spec.HeadDim)
	c.factor = float32(1 / math.Sqrt(float64(spec.HeadDim)))
	return c
}

func (c *cache) Spec() compute.CacheSpec { return c.spec }

// at returns a page of a layer, of float32.
func (c *cache) at(layer int, page int32) []float32 {
	return c.data[(layer*c.spec.Pages+int(page))*c.page:][:c.page:c.page]
}

// rows returns the 64 rows of one head's keys, or values, in a packed page:
// those of head h are at h, the values' at KVHeads + h.
func (c *cache) rows(layer int, page int32, head int) []byte {
	n := compute.PageTokens * c.row
	return c.packed[((layer*c.spec.Pages+int(page))*2*c.spec.KVHeads+head)*n:][:n:n]
}

// clear makes a page read as zero.
func (c *cache) clear(layer int, page int32) {
	if c.packed == nil {
		clear(c.at(layer, page))
		return
	}
	for head := range 2 * c.spec.KVHeads {
		clear(c.rows(layer, page, head))
	}
}

// keys returns one head of the keys of a page, [dimension][64], in room if they
// are packed.
func (c *cache) keys(layer int, page int32, head int, room []float32) []float32 {
	if c.packed == nil {
		return c.at(layer, page)[head*c.head:][:c.head:c.head]
	}
	c.unpack(room[:c.head], c.rows(layer, page, head), compute.PageTokens, 1)
	return room[:c.head]
}

// values returns one head of the values of a page, [64][dimension], in room if
// they are packed.
func (c *cache) values(layer int, page int32, head int, room []float32) []float32 {
	if c.packed == nil {
		return c.at(layer, page)[(c.spec.KVHeads+head)*c.head:][:c.head:c.head]
	}
	c.unpack(room[:c.head], c.rows(layer, page, c.spec.KVHeads+head), 1, c.spec.HeadDim)
	return room[:c.head]
}

// store writes the key and value of one head of a position. Room holds a head.
func (c *cache) store(layer int, page int32, head, slot int, key, value, room []float32) {
	dim := c.spec.HeadDim
	if c.packed == nil {
		column := c.at(layer, page)[head*c.head:][:c.head][slot:]
		for d, v := range key {
			column[d*compute.PageTokens] = v
		}
		copy(c.at(layer, page)[(c.spec.KVHeads+head)*c.head:][:c.head][slot*dim:], value)
		return
	}
	for i, src := range [2][]float32{key, value} {
		turned := room[:dim]
		copy(turned, src)
		c.turn(turned)
		c.pack(c.rows(layer, page, head+i*c.spec.KVHeads)[slot*c.row:][:c.row], turned)
	}
}

// turn multiplies a head by the normalised Hadamard matrix, its own inverse, if
// the class stores heads so.
func (c *cache) turn(x []float32) {
	if !c.spec.Class.Packed() {
		return
	}
	for half := 1; half < len(x); half *= 2 {
		for from := 0; from < len(x); from += 2 * half {
			low, high := x[from:from+half], x[from+half:from+2*half]
			for i, a := range low {
				b := high[i]
				low[i], high[i] = a+b, a-b
			}
		}
	}
	for i, v := range x {
		x[i] = v * c.factor
	}
}

// pack writes a row: halves, or the codes of all groups and then the scale and
// minimum of each.
func (c *cache) pack(dst []byte, x []float32) {
	k := c.spec.Class
	if !k.Packed() {
		for i, v := range x {
			binary.LittleEndian.PutUint16(dst[2*i:], tensor.F32ToF16(v))
		}
		return
	}
	scales := dst[len(x)*k.Bits/8:]
	for g := 0; g < len(x); g += k.Group {
		scale, least := packGroup(dst[g*k.Bits/8:], x[g:g+k.Group], k.Bits)
		binary.LittleEndian.PutUint16(scales[g/k.Group*4:], scale)
		binary.LittleEndian.PutUint16(scales[g/k.Group*4+2:], least)
	}
}

// packGroup writes codes from 0 to 2^bits−1, eight in bits bytes, and returns the
// halves that make values of them: scale·code + least. A group that halves do not
// hold reads as NaN.
func packGroup(dst []byte, x []float32, bits int) (scale, least uint16) {
	low, high, levels := x[0], x[0], float32(int(1)<<bits-1)
	for _, v := range x {
		low, high = min(low, v), max(high, v)
	}
	least = tensor.F32ToF16(low)
	start := tensor.F16ToF32(least)
	scale = tensor.F32ToF16((high - start) / levels)
	step := tensor.F16ToF32(scale)
	const limit = 65504                                     // the largest half
	if !(low >= -limit && high <= limit && step <= limit) { // min and max of a NaN are NaN
		scale, least, step = 0, 0x7E00, 0
	}
	for i := 0; i < len(x); i += 8 {
		var codes uint64
		if step > 0 {
			for j, v := range x[i : i+8] {
				code := min(max((v-start)/step, 0), levels)
				codes |= uint64(math.RoundToEven(float64(code))) << (j * bits)
			}
		}
		for b := range bits {
			dst[i/8*bits+b] = byte(codes >> (8 * b))
		}
	}
	return scale, least
}

// unpack writes the rows of a head: value d of row t at t·row + d·column.
func (c *cache) unpack(dst []float32, rows []byte, column, row int) {
	k, dim := c.spec.Class, c.spec.HeadDim
	for t := range compute.PageTokens {
		src := rows[t*c.row:][:c.row]
		if !k.Packed() {
			for d := range dim {
				dst[t*row+d*column] = tensor.F16ToF32(binary.LittleEndian.Uint16(src[2*d:]))
			}
			continue
		}
		scales := src[dim*k.Bits/8:]
		for g := 0; g < dim; g += k.Group {
			scale := tensor.F16ToF32(binary.LittleEndian.Uint16(scales[g/k.Group*4:]))
			least := tensor.F16ToF32(binary.LittleEndian.Uint16(scales[g/k.Group*4+2:]))
			unpackGroup(dst[t*row+g*column:], src[g*k.Bits/8:], k.Group, k.Bits, column, scale, least)
		}
	}
}

// unpackGroup writes n values, column apart.
func unpackGroup(dst []float32, src []byte, n, bits, column int, scale, least float32) {
	mask, shift := uint32(1)<<(bits&31)-1, bits&31
	value := func(code uint32) float32 { return float32(scale*float32(int32(code&mask))) + least }
	for i := 0; i < n; i += 8 {
		low, high := eightCodes(src[i/8*bits:], bits)
		to := dst[i*column:]
		to = to[: 7*column+1 : 7*column+1]
		at := 0
		for range 4 {
			to[at] = value(low)
			to[at+4*column] = value(high)
			low, high = low>>shift, high>>shift
			at += column
		}
	}
}

// eightCodes returns the first four and the last four of eight codes.
func eightCodes(src []byte, bits int) (low, high uint32) {
	switch bits {
	case 8:
		return binary.LittleEndian.Uint32(src), binary.LittleEndian.Uint32(src[4:])
	case 4:
		v := binary.LittleEndian.Uint32(src)
		return v, v >> 16
	case 3:
		v := uint32(src[0]) | uint32(src[1])<<8 | uint32(src[2])<<16
		return v, v >> 12
	default: // 2
		return uint32(src[0]), uint32(src[1])
	}
}

// needHead makes room for heads of a cache.
func (p *pass) needHead(spec compute.CacheSpec) {
	p.need.headDim = max(p.need.headDim, spec.HeadDim)
	if spec.Class != (compute.KVClass{}) {
		p.need.page = max(p.need.page, spec.HeadDim*compute.PageTokens)
	}
}
