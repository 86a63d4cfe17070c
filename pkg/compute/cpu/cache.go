package cpu

import (
	"encoding/binary"
	"math"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/compute/cpu/vec"
	"github.com/shoal-llm/shoal/pkg/tensor"
)

// cache is the pages of a stage, in one form or, where values step down as they
// age, in up to three: see compute.KVClass.
type cache struct {
	spec   compute.CacheSpec
	ops    *vec.Ops
	head   int // values of one head's keys in a page
	factor float32
	oldest pool
	recent pool // of classes that step down
	upper  pool // of classes with a step between

	watched watched // of classes that thin
}

// pool is pages in one form. A page holds for each head its keys and then its
// values. In float32, halves and codes that stepped down a head's keys are
// [dimension][64 keys] and its values [64 keys][dimension], of codes followed by
// the scales and least values of their groups. In 8 bits the keys have for each
// group of dimensions 64 scales and 64 least values, and the values a pair for each
// group of a row.
type pool struct {
	bits   int
	pages  int
	heads  int
	bytes  int       // of one head's keys and values
	floats []float32 // float32
	data   []byte    // other forms
}

func newCache(spec compute.CacheSpec, m mapping, ops *vec.Ops) *cache {
	c := &cache{
		spec: spec, ops: ops, head: spec.HeadDim * compute.PageTokens,
		factor: float32(1 / math.Sqrt(float64(spec.HeadDim))),
	}
	take := func(bits, pages int, pageBytes uint64) pool {
		p := pool{bits: bits, pages: pages, heads: spec.KVHeads, bytes: int(pageBytes) / spec.KVHeads}
		p.data = m[:spec.Layers*pages*int(pageBytes)]
		m = m[len(p.data):]
		return p
	}
	class := spec.Class
	c.oldest = take(class.Bits, spec.Pages, spec.PageBytes())
	if class.Bits == 0 {
		c.oldest.floats, c.oldest.data = mapping(c.oldest.data).float32s(), nil
	}
	if class.Steps() {
		c.recent = take(16, spec.Pools.Recent, spec.RecentBytes())
	}
	if class.Upper != 0 {
		c.upper = take(class.Upper, spec.Pools.Upper, spec.UpperBytes())
	}
	if class.Ratio != 0 {
		c.watched = watched{m.float32s(), spec.Pools.Queries, spec.Heads, spec.HeadDim}
	}
	return c
}

func (c *cache) Spec() compute.CacheSpec { return c.spec }

// float32s returns one head's keys and values, of float32.
func (p *pool) float32s(layer int, page int32, head int) []float32 {
	n := p.bytes / 4
	return p.floats[((layer*p.pages+int(page))*p.heads+head)*n:][:n:n]
}

// at returns one head's keys and values, of any other form.
func (p *pool) at(layer int, page int32, head int) []byte {
	return p.data[((layer*p.pages+int(page))*p.heads+head)*p.bytes:][:p.bytes:p.bytes]
}

// form is a page in one of the forms that a cache has of it.
type form struct {
	pool *pool
	page int32
}

// written returns the pool that positions are written to.
func (c *cache) written() *pool {
	if c.spec.Class.Steps() {
		return &c.recent
	}
	return &c.oldest
}

// home returns where page i of a session's tables is written.
func (c *cache) home(s *compute.Span, i int) form {
	if c.spec.Class.Steps() {
		return form{&c.recent, s.Recent[i]}
	}
	return form{&c.oldest, s.Pages[i]}
}

// form returns page i of a session's tables as rows of page query of these see it.
func (c *cache) form(s *compute.Span, query, i int) form {
	class, back := c.spec.Class, (query-i)*compute.PageTokens
	switch {
	case class.Steps() && (i == 0 || back <= class.Recent):
		return form{&c.recent, s.Recent[i]}
	case class.Upper != 0 && back <= class.Far:
		return form{&c.upper, s.Upper[i]}
	}
	return form{&c.oldest, s.Pages[i]}
}

// gone returns how many pages fewer than its positions a span's tables have.
func (c *cache) gone(s *compute.Span) int {
	_, gone := c.spec.Class.Kept(c.spec.Class.Thinned(s.Start))
	return gone
}

// checkFiner panics unless the finer forms that the rows of a span see, or write,
// are in the pools.
func (c *cache) checkFiner(s *compute.Span) {
	class := c.spec.Class
	if !class.Steps() {
		return
	}
	gone := c.gone(s)
	first, pages := s.Start/compute.PageTokens-gone, padTo(s.Start+s.Count, compute.PageTokens)/compute.PageTokens-gone
	check := func(what string, table []int32, from, held int) {
		if len(table) < pages {
			fail("%d pages in %s for %d", len(table), what, pages)
		}
		for i := max(from, 0); i < pages; i++ {
			if table[i] < 0 || int(table[i]) >= held {
				fail("page %d at %d of %d pages in %s", i, table[i], held, what)
			}
		}
	}
	check("halves", s.Recent, first-class.Recent/compute.PageTokens, c.recent.pages)
	if s.Recent[0] < 0 || int(s.Recent[0]) >= c.recent.pages {
		fail("page 0 at %d of %d pages in halves", s.Recent[0], c.recent.pages)
	}
	if class.Upper != 0 {
		check("codes", s.Upper, max(first-class.Far/compute.PageTokens, 1), c.upper.pages)
	}
}

// clear makes a page that will be written read as zero.
func (c *cache) clear(layer int, page int32) {
	p := c.written()
	for head := range p.heads {
		if p.floats != nil {
			clear(p.float32s(layer, page, head))
		} else {
			clear(p.at(layer, page, head))
		}
	}
}

// keys returns one head of the keys of a page, [dimension][64], in room unless
// they are float32.
func (c *cache) keys(layer int, f form, head int, room []float32) []float32 {
	if f.pool.floats != nil {
		return f.pool.float32s(layer, f.page, head)[:c.head:c.head]
	}
	c.unpack(room[:c.head], f.pool.at(layer, f.page, head), f.pool.bits, false)
	return room[:c.head]
}

// values returns one head of the values of a page, [64][dimension], in room unless
// they are float32.
func (c *cache) values(layer int, f form, head int, room []float32) []float32 {
	if f.pool.floats != nil {
		return f.pool.float32s(layer, f.page, head)[c.head:]
	}
	c.unpack(room[:c.head], f.pool.at(layer, f.page, head), f.pool.bits, true)
	return room[:c.head]
}

// unpack writes one head's keys, or values.
func (c *cache) unpack(dst []float32, src []byte, bits int, values bool) {
	switch {
	case bits == 16 && values:
		c.ops.Halves(dst, src[2*c.head:])
	case bits == 16:
		c.ops.Halves(dst, src)
	case bits == 8 && values:
		src = src[len(src)/2:]
		c.ops.Codes(dst, src[:c.head], src[c.head:], bits, c.spec.Class.Group)
	case bits == 8:
		var scale, least [compute.PageTokens]float32
		n := c.spec.Class.Group * compute.PageTokens // values of a group's dimensions
		for at := 0; at < c.head; at += n {
			scales := src[c.head+at/c.spec.Class.Group*4:]
			c.ops.Halves(scale[:], scales)
			c.ops.Halves(least[:], scales[2*compute.PageTokens:])
			c.ops.Columns(dst[at:at+n], src[at:], &scale, &least)
		}
	default:
		codes, scales, group := c.codes(src, bits, values)
		c.ops.Codes(dst, codes, scales, bits, group)
	}
}

// codes returns the codes and scales of one head's keys, or values, and their
// groups, in a form of few bits.
func (c *cache) codes(src []byte, bits int, values bool) (codes, scales []byte, group int) {
	n := c.head * bits / 8
	keys := n + c.head/c.spec.Class.KeyGroup()*4
	if values {
		return src[keys:][:n], src[keys+n:], c.spec.Class.Group
	}
	return src[:n], src[n:keys], c.spec.Class.KeyGroup()
}

// lower makes the codes of one head of a page from its halves.
func (c *cache) lower(layer int, recent, upper, oldest int32, head int, room []float32) {
	halves := form{&c.recent, recent}
	for _, values := range [2]bool{false, true} {
		x := c.keys(layer, halves, head, room)
		if values {
			x = c.values(layer, halves, head, room)
		}
		codes, scales, group := c.codes(c.oldest.at(layer, oldest, head), c.oldest.bits, values)
		vec.PackCodes(codes, scales, x, c.oldest.bits, group)
		if c.spec.Class.Upper != 0 {
			codes, scales, group = c.codes(c.upper.at(layer, upper, head), c.upper.bits, values)
			vec.PackCodes(codes, scales, x, c.upper.bits, group)
		}
	}
}

// store writes the key and value of one head of a position. Room holds a head.
func (c *cache) store(layer int, f form, head, slot int, key, value, room []float32) {
	dim := c.spec.HeadDim
	switch f.pool.bits {
	case 0:
		page := f.pool.float32s(layer, f.page, head)
		column := page[slot:c.head]
		for d, v := range key {
			column[d*compute.PageTokens] = v
		}
		copy(page[c.head+slot*dim:], value)
	case 16:
		page := f.pool.at(layer, f.page, head)
		row := page[2*(c.head+slot*dim):][:2*dim]
		c.ops.ToHalves(row, key) // on the way to their columns
		for d := range dim {
			copy(page[2*(d*compute.PageTokens+slot):][:2], row[2*d:])
		}
		c.ops.ToHalves(row, value)
	default: // 8
		c.storeCodes(f.pool.at(layer, f.page, head), slot, key, value, room)
	}
}

// storeCodes writes the key and value of one head of a position in 8 bits.
func (c *cache) storeCodes(page []byte, slot int, key, value, room []float32) {
	dim, group := c.spec.HeadDim, c.spec.Class.Group
	keys, values := page[:len(page)/2], page[len(page)/2:]
	x := room[:dim]
	copy(x, key)
	c.turn(x)
	var codes [128]byte
	for g := 0; g < dim; g += group {
		scale, least := packGroup(codes[:group], x[g:g+group])
		for i, code := range codes[:group] {
			keys[(g+i)*compute.PageTokens+slot] = code
		}
		scales := keys[c.head+g/group*4*compute.PageTokens:]
		binary.LittleEndian.PutUint16(scales[2*slot:], scale)
		binary.LittleEndian.PutUint16(scales[2*(compute.PageTokens+slot):], least)
	}
	copy(x, value)
	c.turn(x)
	for g := 0; g < dim; g += group {
		at := slot*dim + g
		scale, least := packGroup(values[at:], x[g:g+group])
		binary.LittleEndian.PutUint16(values[c.head+at/group*4:], scale)
		binary.LittleEndian.PutUint16(values[c.head+at/group*4+2:], least)
	}
}

// turn multiplies a head by the normalised Hadamard matrix, its own inverse, if
// the class stores heads so.
func (c *cache) turn(x []float32) {
	if c.spec.Class.Bits != 8 {
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

// packGroup writes codes from 0 to 255 and returns the halves that make values of
// them: scale·code + least. A group that halves do not hold reads as NaN.
func packGroup(dst []byte, x []float32) (scale, least uint16) {
	low, high, levels := x[0], x[0], float32(255)
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
	for i, v := range x {
		dst[i] = 0
		if step > 0 {
			dst[i] = byte(math.RoundToEven(float64(min(max((v-start)/step, 0), levels))))
		}
	}
	return scale, least
}

// needHead makes room for heads of a cache.
func (p *pass) needHead(spec compute.CacheSpec) {
	p.need.headDim = max(p.need.headDim, spec.HeadDim)
	if spec.Class != (compute.KVClass{}) {
		p.need.page = max(p.need.page, spec.HeadDim*compute.PageTokens)
	}
}
