package kv

import (
	"fmt"
	"math/bits"
)

// pages counts who holds each page and gives out the lowest free one, so that
// every stage chooses alike.
type pages struct {
	refs []uint32
	bits []uint64 // one bit per page: set is free
	low  int      // no word below this one has a free page
	free int
}

func newPages(n int) pages {
	p := pages{refs: make([]uint32, n), bits: make([]uint64, (n+63)/64), free: n}
	for i := range n {
		p.bits[i/64] |= 1 << (i % 64)
	}
	return p
}

// take gives out the lowest free page. There must be one.
func (p *pages) take() int32 {
	for p.bits[p.low] == 0 {
		p.low++
	}
	page := int32(p.low*64 + bits.TrailingZeros64(p.bits[p.low]))
	p.hold(page)
	return page
}

// hold adds a holder to a page.
func (p *pages) hold(page int32) {
	if p.refs[page] == 0 {
		p.bits[page/64] &^= 1 << (page % 64)
		p.free--
	}
	p.refs[page]++
}

// release takes a holder away; a page without holders is free.
func (p *pages) release(page int32) {
	if p.refs[page] == 0 {
		panic(fmt.Sprintf("kv: page %d released twice", page))
	}
	p.refs[page]--
	if p.refs[page] == 0 {
		word := int(page / 64)
		p.bits[word] |= 1 << (page % 64)
		p.low = min(p.low, word)
		p.free++
	}
}

// shared reports whether a page has more than one holder.
func (p *pages) shared(page int32) bool { return p.refs[page] > 1 }
