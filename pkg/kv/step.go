package kv

import "github.com/shoal-llm/shoal/pkg/frame"

// Step is what a frame does to a stage, in the order in which a stage obeys:
// first Closed, then Opened, then Adopted, then blocks are thinned in the order of
// the spans, then the pages of Clear are zeroed, then the spans are computed.
//
// Closed and Opened are net: a session that is opened and closed by the same
// frame is in neither.
type Step struct {
	Closed  []frame.Slot
	Opened  []*frame.Open
	Adopted []Adopted
	Clear   []int32 // pages that must read as zero before the spans; places of halves where values step down
	Spans   []Span  // one for each of the frame's, in their order

	arena   []int32 // the page tables of all spans, one after another
	tables  []int   // the lengths of the tables, of each span
	thinned []int32 // the pages of all blocks that are thinned
}

// Adopted says that a slot begins with the positions of a published prefix.
type Adopted struct {
	Slot   frame.Slot
	Tokens int // positions
}

// Span is where a run of positions lies.
type Span struct {
	Slot    frame.Slot
	Attempt uint32
	Row     int     // first row in the batch
	Start   int     // position of the first row
	Count   int     // rows
	Pages   []int32 // Pages[i] holds positions 64·i to 64·i+63, behind what thinned blocks kept
	// Where values step down: places of page i in halves and in the step between,
	// -1 where no row from Start on sees them.
	Recent, Upper []int32
	// Where the span begins by thinning a block, the block's pages: what they keep
	// goes to the last thinned ones of Pages.
	Thinned []int32
}

func (st *Step) reset() {
	clear(st.Opened)
	st.Closed, st.Opened, st.Adopted = st.Closed[:0], st.Opened[:0], st.Adopted[:0]
	st.Clear, st.Spans, st.arena = st.Clear[:0], st.Spans[:0], st.arena[:0]
	st.thinned, st.tables = st.thinned[:0], st.tables[:0]
}

// addSpan copies the tables: the slot's own change with later frames, while the
// device may still read these.
func (st *Step) addSpan(sp *frame.Span, row int, s *slot, thinned []int32) {
	st.arena = append(st.arena, s.table...)
	for i := range s.finer {
		st.arena = append(st.arena, s.finer[i].table...)
	}
	st.Spans = append(st.Spans, Span{
		Slot: sp.Slot, Attempt: sp.Attempt, Row: row,
		Start: int(sp.Start), Count: len(sp.Tokens), Thinned: thinned,
	})
	st.tables = append(st.tables, len(s.table))
}

// setPages points the spans into the arena once it has stopped growing. Pages have
// so many finer forms.
func (st *Step) setPages(finer int) {
	at := 0
	for i := range st.Spans {
		s := &st.Spans[i]
		for _, table := range []*[]int32{&s.Pages, &s.Recent, &s.Upper}[:1+finer] {
			n := st.tables[i]
			*table = st.arena[at : at+n : at+n]
			at += n
		}
	}
}
