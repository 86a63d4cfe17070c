package kv

import (
	"fmt"
	"slices"

	"github.com/shoal-llm/shoal/pkg/frame"
)

// applyOp applies one operation and notes how to take it back.
func (l *Log) applyOp(op *frame.Op, step *Step) error {
	switch {
	case op.Open != nil:
		return l.openSlot(op.Open, step)
	case op.Adopt != nil:
		return l.adopt(op.Adopt, step)
	case op.Publish != nil:
		return l.publish(op.Publish)
	case op.Truncate != nil:
		return l.truncate(op.Truncate)
	case op.Close != nil:
		return l.closeSlot(op.Close, step)
	case op.Evict != nil:
		return l.evict(op.Evict)
	}
	return invalid("an operation without a field")
}

func (l *Log) openSlot(o *frame.Open, step *Step) error {
	switch {
	case int(o.Slot) >= len(l.slots):
		return invalid("slot %d of %d", o.Slot, len(l.slots))
	case l.slots[o.Slot].open != nil:
		return invalid("slot %d is open", o.Slot)
	case len(o.History)%PageTokens != 0:
		return invalid("history of %d ids is not whole pages", len(o.History))
	case len(o.History) > l.cfg.Context:
		return invalid("history of %d ids, context of %d", len(o.History), l.cfg.Context)
	}
	if err := frame.CheckPictures(o.Pictures, l.cfg.Context); err != nil {
		return invalid("slot %d: %v", o.Slot, err)
	}
	s := &l.slots[o.Slot]
	s.open = o
	s.table = make([]int32, 0, pagesOf(l.cfg.Context)) // it does not grow while the session decodes
	for i := range l.finer {
		s.finer[i] = held{table: make([]int32, 0, pagesOf(l.cfg.Context))}
	}
	l.onUndo(func() { s.open = nil })
	step.Opened = append(step.Opened, o)
	return nil
}

func (l *Log) adopt(a *frame.Adopt, step *Step) error {
	s, err := l.opened(a.Slot)
	if err != nil {
		return err
	}
	switch {
	case len(l.finer) > 0:
		return invalid("slot %d adopts pages whose values step down", a.Slot)
	case len(s.open.History) > l.cfg.KV.Shared():
		return invalid("slot %d adopts %d positions, of which some are thinned by its own queries", a.Slot, len(s.open.History))
	case s.length > 0 || s.adopted:
		return invalid("slot %d is not fresh", a.Slot)
	case a.Tokens == 0 || int(a.Tokens) != len(s.open.History):
		return invalid("slot %d adopts %d positions, with %d ids of history", a.Slot, a.Tokens, len(s.open.History))
	}
	names := Chain(s.root(), s.open.History, s.open.Pictures)
	if names[len(names)-1] != a.Prefix {
		return invalid("slot %d adopts a prefix that is not its history", a.Slot)
	}
	for i, name := range names {
		if l.prefix[name] == nil {
			return invalid("page %d of the prefix is not published", i)
		}
	}
	for _, name := range names {
		s.table = append(s.table, l.prefix[name].page)
		l.pages.hold(l.prefix[name].page)
	}
	s.length, s.names, s.adopted = len(s.open.History), names, true
	l.onUndo(func() {
		for _, page := range s.table {
			l.pages.release(page)
		}
		s.table, s.length, s.names, s.adopted = s.table[:0], 0, nil, false
	})
	step.Adopted = append(step.Adopted, Adopted{Slot: a.Slot, Tokens: int(a.Tokens)})
	return nil
}

func (s *slot) root() [32]byte {
	return Root(s.open.PrefixSalt, s.open.KV, s.open.Adapter)
}

// publish puts the slot's whole pages into the index. A page that is there
// already, made by another slot from the same ids, stays; both are alike.
func (l *Log) publish(p *frame.Publish) error {
	s, err := l.opened(p.Slot)
	if err != nil {
		return err
	}
	if len(l.finer) > 0 {
		return invalid("slot %d publishes pages whose values step down", p.Slot)
	}
	if int(p.Tokens) > l.cfg.KV.Shared() || s.thinned > 0 {
		return invalid("slot %d publishes %d positions, of which some are thinned by its own queries", p.Slot, p.Tokens)
	}
	if int(p.Tokens) > s.length || p.Tokens < PageTokens {
		return invalid("slot %d publishes %d positions of %d", p.Slot, p.Tokens, s.length)
	}
	whole := int(p.Tokens) / PageTokens
	l.nameTo(s, whole) // a function of the ids: nothing to undo
	parent := s.root()
	for i, name := range s.names[:whole] {
		if l.prefix[name] == nil {
			l.insert(name, parent, s.table[i])
		}
		parent = name
	}
	return nil
}

// nameTo makes a slot's names hold at least n identities.
func (l *Log) nameTo(s *slot, n int) {
	parent := s.root()
	if len(s.names) > 0 {
		parent = s.names[len(s.names)-1]
	}
	for i := len(s.names); i < n; i++ {
		parent = Name(parent, l.idsOf(s.table[i]), i*PageTokens, s.open.Pictures)
		s.names = append(s.names, parent)
	}
}

func (l *Log) insert(name, parent [32]byte, page int32) {
	l.prefix[name] = &entry{page: page, parent: parent}
	l.pages.hold(page)
	up := l.prefix[parent]
	if up != nil {
		up.children++
	}
	l.onUndo(func() {
		delete(l.prefix, name)
		l.pages.release(page)
		if up != nil {
			up.children--
		}
	})
}

// evict takes a page that no published page continues out of the index, and
// then its parents up to one that another published page continues.
func (l *Log) evict(e *frame.Evict) error {
	at := l.prefix[e.Prefix]
	if at == nil {
		return invalid("evicted prefix is not published")
	}
	if at.children > 0 {
		return invalid("evicted prefix is continued by %d published pages", at.children)
	}
	for name := e.Prefix; at != nil && at.children == 0; {
		name, at = l.remove(name, at)
	}
	return nil
}

// remove takes an entry out of the index and returns its parent.
func (l *Log) remove(name [32]byte, e *entry) ([32]byte, *entry) {
	delete(l.prefix, name)
	l.pages.release(e.page)
	up := l.prefix[e.parent]
	if up != nil {
		up.children--
	}
	l.onUndo(func() {
		l.prefix[name] = e
		l.pages.hold(e.page)
		if up != nil {
			up.children++
		}
	})
	return e.parent, up
}

// truncate forgets positions. Pages behind the new end are given back; the page
// the new end lies in will be written again, so it must be the slot's alone.
func (l *Log) truncate(t *frame.Truncate) error {
	s, err := l.opened(t.Slot)
	if err != nil {
		return err
	}
	n := int(t.Len)
	if n < 0 || n > s.length {
		return invalid("slot %d, which holds %d positions, truncated to %d", t.Slot, s.length, n)
	}
	keep, thinned := pagesOf(n), s.thinned
	if n > 0 {
		_, gone := l.cfg.KV.Kept(thinned)
		keep -= gone
	} else {
		thinned = 0
	}
	if thinned > l.cfg.KV.Thinned(n) {
		return invalid("slot %d truncated to %d, from where on positions are seen that are thinned", t.Slot, n)
	}
	if n%PageTokens != 0 && n < s.length && l.pages.shared(s.table[keep-1]) {
		return invalid("slot %d truncated to %d, inside a page that others hold", t.Slot, n)
	}
	if err := l.checkTruncate(s, n); err != nil {
		return fmt.Errorf("slot %d: %w", t.Slot, err)
	}
	l.dropFiner(s, keep)
	gone := slices.Clone(s.table[keep:])
	held, names, was := s.length, s.names, s.thinned
	for _, page := range gone {
		l.pages.release(page)
	}
	s.table, s.length, s.thinned = s.table[:keep], n, thinned
	if len(names) > n/PageTokens {
		s.names = names[: n/PageTokens : n/PageTokens]
	}
	l.onUndo(func() {
		for _, page := range gone {
			l.pages.hold(page)
		}
		s.table, s.length, s.names, s.thinned = append(s.table, gone...), held, names, was
	})
	return nil
}

func (l *Log) closeSlot(c *frame.Close, step *Step) error {
	s, err := l.opened(c.Slot)
	if err != nil {
		return err
	}
	l.dropFiner(s, 0)
	old := *s
	for _, page := range old.table {
		l.pages.release(page)
	}
	*s = slot{seen: old.seen}
	l.onUndo(func() {
		*s = old
		for _, page := range old.table {
			l.pages.hold(page)
		}
	})
	step.closed(c.Slot, old.open)
	return nil
}

// closed notes the end of a session, unless the same frame has opened it.
func (st *Step) closed(n frame.Slot, o *frame.Open) {
	i := slices.Index(st.Opened, o)
	if i < 0 {
		st.Closed = append(st.Closed, n)
		return
	}
	st.Opened = slices.Delete(st.Opened, i, i+1)
	st.Adopted = slices.DeleteFunc(st.Adopted, func(a Adopted) bool { return a.Slot == n })
}
