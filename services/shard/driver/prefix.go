package driver

import (
	"container/list"
	"slices"

	"github.com/shoal-llm/shoal/pkg/frame"
	"github.com/shoal-llm/shoal/pkg/kv"
)

// page is one KV page that sessions hold, counted as the stages' logs count it.
type page struct {
	users int     // sessions that hold it
	entry *prefix // its place among the prefixes; nil is none
}

// prefix is a published page: who begins with the same ids adopts it.
type prefix struct {
	name, parent [32]byte
	page         *page
	children     int // published pages that continue it
	at           *list.Element
}

// prefixes mirrors what the stages have published.
type prefixes struct {
	byName map[[32]byte]*prefix
	order  *list.List // of *prefix, least recently used first; a page stands behind all that continue it
}

func newPrefixes() prefixes { return prefixes{byName: map[[32]byte]*prefix{}, order: list.New()} }

// nameTo makes a session know the identities of its first n pages.
func (s *session) nameTo(n int) {
	parent := kv.Root(s.open.PrefixSalt, s.open.KV, s.open.Adapter)
	if len(s.names) > 0 {
		parent = s.names[len(s.names)-1]
	}
	for i := len(s.names); i < n; i++ {
		parent = kv.Name(parent, s.ids[i*kv.PageTokens:], i*kv.PageTokens, s.open.Pictures)
		s.names = append(s.names, parent)
	}
}

// open puts a session's opening into a step, with the longest published prefix of
// its prompt. At least its last id is computed: it samples the next. Ids of an
// answer are no history to those who count penalties, so they are not adopted.
func (m *Machine) open(st *step, s *session) {
	s.opened = true
	known := min(len(s.ids)-1, int(s.open.AnswerStart), m.cfg.KV.Shared()) / kv.PageTokens
	if m.cfg.Cached == 0 || s.open.Pooling != frame.PoolingNone {
		known = 0
	}
	s.nameTo(known)
	n := 0
	for n < known && m.prefixes.byName[s.names[n]] != nil {
		n++
	}
	if n == 0 {
		st.frame.Ops = append(st.frame.Ops, frame.Op{Open: s.open})
		return
	}
	tokens := n * kv.PageTokens
	o := *s.open
	o.History = s.ids[:tokens:tokens]
	s.open = &o
	st.frame.Ops = append(st.frame.Ops, frame.Op{Open: s.open}, frame.Op{Adopt: &frame.Adopt{
		Slot: o.Slot, Prefix: s.names[n-1], Tokens: int32(tokens),
	}})
	for _, name := range s.names[:n] {
		p := m.prefixes.byName[name].page
		p.users++
		s.pages = append(s.pages, p)
	}
	s.sent, s.sure, s.cached, s.shared = tokens, tokens, tokens, n
	m.stats.Cached += tokens
	m.touch(s.names[:n])
}

// touch makes a chain of pages the most recently used.
func (m *Machine) touch(names [][32]byte) {
	for _, name := range slices.Backward(names) {
		if e := m.prefixes.byName[name]; e != nil {
			m.prefixes.order.MoveToBack(e.at)
		}
	}
}

// publish shares the whole pages of a session of which every id is sure, and
// keeps to the number of pages that may be kept. Once a session has thinned old
// positions out, what it can share has been.
func (m *Machine) publish(st *step, s *session) {
	n := min(s.sure, m.cfg.KV.Shared()) / kv.PageTokens
	if m.cfg.Cached == 0 || s.thinned > 0 || s.open.Pooling != frame.PoolingNone || s.reason == ReasonFailed || n == 0 {
		return
	}
	s.shared = n
	s.nameTo(n)
	news := false
	parent := kv.Root(s.open.PrefixSalt, s.open.KV, s.open.Adapter)
	for i, name := range s.names[:n] {
		if m.prefixes.byName[name] == nil {
			m.insert(name, parent, s.pages[i])
			news = true
		}
		parent = name
	}
	m.touch(s.names[:n])
	if news {
		st.frame.Ops = append(st.frame.Ops, frame.Op{Publish: &frame.Publish{
			Slot: s.open.Slot, Tokens: int32(n * kv.PageTokens),
		}})
	}
	for len(m.prefixes.byName) > m.cfg.Cached && m.evict(st) {
	}
}

func (m *Machine) insert(name, parent [32]byte, p *page) {
	e := &prefix{name: name, parent: parent, page: p}
	e.at = m.prefixes.order.PushBack(e)
	m.prefixes.byName[name] = e
	p.entry = e
	if up := m.prefixes.byName[parent]; up != nil {
		up.children++
	}
}

// evict drops the least recently used prefix that no other continues and nobody holds,
// or that keeps pages which nobody holds, and
// what nothing else continues of the pages before it. It reports whether there
// was one and the step had room to say so.
func (m *Machine) evict(st *step) bool {
	if len(st.frame.Ops) >= frame.MaxOps-spareOps {
		return false
	}
	for at := m.prefixes.order.Front(); at != nil; at = at.Next() {
		e := at.Value.(*prefix)
		if e.children > 0 || e.page.users > 0 && !m.pins(e) {
			continue
		}
		st.frame.Ops = append(st.frame.Ops, frame.Op{Evict: &frame.Evict{Prefix: e.name}})
		for e != nil && e.children == 0 {
			e = m.forget(e)
		}
		return true
	}
	return false
}

// pins reports whether nobody holds a page before this one, which sessions hold: they
// have thinned it out of their own.
func (m *Machine) pins(e *prefix) bool {
	if m.cfg.KV.Ratio == 0 {
		return false
	}
	for up := m.prefixes.byName[e.parent]; up != nil; up = m.prefixes.byName[up.parent] {
		if up.page.users == 0 {
			return true
		}
	}
	return false
}

// forget takes a page out of the prefixes and returns the one before it.
func (m *Machine) forget(e *prefix) *prefix {
	delete(m.prefixes.byName, e.name)
	m.prefixes.order.Remove(e.at)
	e.page.entry = nil
	if e.page.users == 0 {
		m.free++
	}
	m.stats.Evicted++
	up := m.prefixes.byName[e.parent]
	if up != nil {
		up.children--
	}
	return up
}

// pagesFor returns the pages that the first n positions of a session take.
func (m *Machine) pagesFor(s *session, n int) int {
	if n == 0 {
		return 0
	}
	_, gone := m.cfg.KV.Kept(s.thinned)
	return pagesOf(n) - gone
}

// grow gives a session the pages of its first n positions, from where it has sent
// those before.
func (m *Machine) grow(s *session, from, n int) {
	m.thin(s, from)
	for len(s.pages) < m.pagesFor(s, n) {
		s.pages = append(s.pages, &page{users: 1})
		m.free--
	}
}

// shrink takes from a session the pages behind its first n positions.
func (m *Machine) shrink(s *session, n int) {
	for keep := m.pagesFor(s, n); len(s.pages) > keep; {
		last := len(s.pages) - 1
		p := s.pages[last]
		s.pages = s.pages[:last]
		m.leave(p)
	}
}

// fit returns how many of want rows a session can have pages for. Prefixes that
// nobody holds make room.
func (m *Machine) fit(st *step, s *session, want int) int {
	want = m.cfg.KV.Cut(s.sure, want)
	have := func() int {
		if free := m.free + m.thinGain(s, s.sure); free >= 0 {
			return m.pagesFor(s, s.sent) + free
		}
		return 0
	}
	for have() < m.pagesFor(s, s.sure+want) && m.evict(st) {
	}
	_, gone := m.cfg.KV.Kept(s.thinned)
	return min(want, (have()+gone)*kv.PageTokens-s.sure)
}

// due returns the pages of a session that become kept ones when it goes on from a
// position, as the stages' logs choose them.
func (m *Machine) due(s *session, from int) (pages []*page, first, kept int) {
	if m.cfg.KV.Thinned(from) == s.thinned {
		return nil, 0, 0
	}
	first, _ = m.cfg.KV.Kept(s.thinned)
	kept, gone := m.cfg.KV.Kept(1)
	end := first + kept + gone
	if first == 0 {
		first, kept = 1, kept-1
	}
	return s.pages[first:end], first, kept
}

// thinGain returns how many more pages are free once a session has thinned what is due.
func (m *Machine) thinGain(s *session, from int) int {
	pages, _, kept := m.due(s, from)
	gain := -kept
	for _, p := range pages {
		if p.users == 1 && p.entry == nil {
			gain++
		}
	}
	return gain
}

// thin mirrors that stages thin a block of a session that goes on from a position.
func (m *Machine) thin(s *session, from int) {
	pages, first, kept := m.due(s, from)
	if len(pages) == 0 {
		return
	}
	for _, p := range pages {
		m.leave(p)
	}
	n := len(pages)
	for i := range kept {
		s.pages[first+i] = &page{users: 1}
		m.free--
	}
	s.pages = slices.Delete(s.pages, first+kept, first+n)
	s.thinned++
}

// leave takes a user from a page.
func (m *Machine) leave(p *page) {
	if p.users--; p.users == 0 && p.entry == nil {
		m.free++
	}
}
