package kv

import "github.com/shoal-llm/shoal/pkg/frame"

// Step is what a frame does to a stage, in the order in which a stage obeys:
// first Closed, then Opened, then Adopted, then the pages of Clear are zeroed,
// then the spans are computed.
//
// Closed and Opened are net: a session that is opened and closed by the same
// frame is in neither.
type Step struct {
	Closed  []frame.Slot
	Opened  []*frame.Open
	Adopted []Adopted
	Clear   []int32 // pages that must read as zero before the spans
	Spans   []Span  // one for each of the frame's, in their order

	arena []int32 // the page tables of all spans, one after another
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
	Pages   []int32 // Pages[i] holds positions 64·i to 64·i+63
}

func (st *Step) reset() {
	clear(st.Opened)
	st.Closed, st.Opened, st.Adopted = st.Closed[:0], st.Opened[:0], st.Adopted[:0]
	st.Clear, st.Spans, st.arena = st.Clear[:0], st.Spans[:0], st.arena[:0]
}

// addSpan copies the table: the slot's own changes with later frames, while the
// device may still read this one.
func (st *Step) addSpan(sp *frame.Span, row int, table []int32) {
	st.arena = append(st.arena, table...)
	st.Spans = append(st.Spans, Span{
		Slot: sp.Slot, Attempt: sp.Attempt, Row: row,
		Start: int(sp.Start), Count: len(sp.Tokens),
	})
}

// setPages points the spans into the arena once it has stopped growing.
func (st *Step) setPages() {
	at := 0
	for i := range st.Spans {
		n := pagesOf(st.Spans[i].Start + st.Spans[i].Count)
		st.Spans[i].Pages = st.arena[at : at+n : at+n]
		at += n
	}
}
