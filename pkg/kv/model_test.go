package kv

import (
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/shoal-llm/shoal/pkg/frame"
)

// model is the log as a child would write it: ids as strings, pages found by
// scanning, every frame tried on a copy.
type model struct {
	cfg       Config
	slots     map[frame.Slot]modelSlot
	published map[string]int32 // salt and ids up to the page's end → page
}

type modelSlot struct {
	open  frame.Open
	ids   []int32
	pages []int32
	took  bool
}

func (m *model) clone() *model {
	return &model{cfg: m.cfg, slots: maps.Clone(m.slots), published: maps.Clone(m.published)}
}

// key joins a salt and ids, all of which fit a byte.
func key(salt []byte, ids []int32) string {
	b := append(make([]byte, 0, len(ids)+2), byte(len(salt)))
	b = append(b, salt...)
	for _, id := range ids {
		b = append(b, byte(id))
	}
	return string(b)
}

// holders says who holds each page, from scratch.
func (m *model) holders() map[int32]int {
	n := map[int32]int{}
	for _, s := range m.slots {
		for _, p := range s.pages {
			n[p]++
		}
	}
	for _, p := range m.published {
		n[p]++
	}
	return n
}

func (m *model) lowest() (int32, bool) {
	held := m.holders()
	for p := range int32(m.cfg.Pages) {
		if held[p] == 0 {
			return p, true
		}
	}
	return 0, false
}

func (m *model) op(op frame.Op) bool {
	switch {
	case op.Open != nil:
		if _, open := m.slots[op.Open.Slot]; open || int(op.Open.Slot) >= m.cfg.Slots {
			return false
		}
		m.slots[op.Open.Slot] = modelSlot{open: *op.Open}
		return len(op.Open.History)%64 == 0 && len(op.Open.History) <= m.cfg.Context
	case op.Adopt != nil:
		return m.adopt(op.Adopt)
	case op.Publish != nil:
		return m.publish(op.Publish)
	case op.Truncate != nil:
		return m.truncate(op.Truncate)
	case op.Close != nil:
		_, open := m.slots[op.Close.Slot]
		delete(m.slots, op.Close.Slot)
		return open
	}
	return m.evict(op.Evict.Prefix)
}

func (m *model) adopt(a *frame.Adopt) bool {
	s, ok := m.slots[a.Slot]
	if !ok || s.took || len(s.ids) > 0 || a.Tokens == 0 || int(a.Tokens) != len(s.open.History) {
		return false
	}
	names := Chain(Root(s.open.PrefixSalt, s.open.KV, s.open.Adapter), s.open.History, s.open.Pictures)
	if names[len(names)-1] != a.Prefix {
		return false
	}
	for end := 64; end <= len(s.open.History); end += 64 {
		p, ok := m.published[key(s.open.PrefixSalt, s.open.History[:end])]
		if !ok {
			return false
		}
		s.pages = append(s.pages, p)
	}
	s.ids, s.took = slices.Clone(s.open.History), true
	m.slots[a.Slot] = s
	return true
}

func (m *model) publish(p *frame.Publish) bool {
	s, ok := m.slots[p.Slot]
	if !ok || int(p.Tokens) > len(s.ids) || p.Tokens < 64 {
		return false
	}
	for i := range int(p.Tokens) / 64 {
		k := key(s.open.PrefixSalt, s.ids[:(i+1)*64])
		if _, ok := m.published[k]; !ok {
			m.published[k] = s.pages[i]
		}
	}
	return true
}

func (m *model) truncate(t *frame.Truncate) bool {
	s, ok := m.slots[t.Slot]
	n := int(t.Len)
	if !ok || n > len(s.ids) {
		return false
	}
	if n%64 != 0 && n < len(s.ids) && m.holders()[s.pages[n/64]] > 1 {
		return false
	}
	s.ids, s.pages = slices.Clone(s.ids[:n]), slices.Clone(s.pages[:(n+63)/64])
	m.slots[t.Slot] = s
	return true
}

// evict knows only the published ids; it finds the chain by hashing them all.
func (m *model) evict(name [32]byte) bool {
	for _, salt := range salts {
		for _, ids := range corpus() {
			for end := len(ids) / 64 * 64; end >= 64; end -= 64 {
				names := Chain(Root(salt, frame.KVClass{}, ""), ids[:end], nil)
				if _, ok := m.published[key(salt, ids[:end])]; ok && names[len(names)-1] == name {
					return m.evictChain(salt, ids[:end])
				}
			}
		}
	}
	return false
}

func (m *model) evictChain(salt []byte, ids []int32) bool {
	if m.continued(salt, ids) {
		return false
	}
	for len(ids) > 0 && !m.continued(salt, ids) {
		delete(m.published, key(salt, ids))
		ids = ids[:len(ids)-64]
	}
	return true
}

func (m *model) continued(salt []byte, ids []int32) bool {
	for _, c := range corpus() {
		n := len(ids) + 64
		if len(c) >= n && slices.Equal(c[:len(ids)], ids) {
			if _, ok := m.published[key(salt, c[:n])]; ok {
				return true
			}
		}
	}
	return false
}

// spans applies the spans and returns what Apply should say of them.
func (m *model) spans(f *frame.Frame) (spans []Span, fresh []int32, ok bool) {
	rows := 0
	seen := map[frame.Slot]bool{}
	for _, sp := range f.Spans {
		s, open := m.slots[sp.Slot]
		if !open || s.open.Attempt != sp.Attempt || len(s.open.History) > 0 && !s.took || seen[sp.Slot] ||
			int(sp.Start) != len(s.ids) || len(s.ids)+len(sp.Tokens) > m.cfg.Context || rows+len(sp.Tokens) > m.cfg.Rows {
			return nil, nil, false
		}
		seen[sp.Slot] = true
		s.ids, s.pages = append(slices.Clone(s.ids), sp.Tokens...), slices.Clone(s.pages)
		m.slots[sp.Slot] = s
		for len(s.pages)*64 < len(s.ids) {
			p, ok := m.lowest()
			if !ok {
				return nil, nil, false
			}
			s.pages, fresh = append(s.pages, p), append(fresh, p)
			m.slots[sp.Slot] = s
		}
		spans = append(spans, Span{Slot: sp.Slot, Attempt: sp.Attempt, Row: rows, Start: int(sp.Start), Count: len(sp.Tokens), Pages: s.pages})
		rows += len(sp.Tokens)
	}
	return spans, fresh, true
}

var salts = [][]byte{nil, []byte("b")}

// corpus is every text that sessions of the test may hold: two beginnings, each
// with two continuations, so that prefixes are shared and branch.
func corpus() [][]int32 { return texts }

var texts = func() (out [][]int32) {
	for a := range int32(2) {
		for b := range int32(2) {
			ids := make([]int32, 256)
			for i := range ids {
				ids[i] = a
				if i >= 100 {
					ids[i] = 10 + b
				}
			}
			out = append(out, ids)
		}
	}
	return out
}()

// draw makes a frame: mostly one that fits the state, sometimes not.
type draw struct {
	t *rapid.T
	m *model
}

func (d draw) slot() frame.Slot {
	return rapid.SampledFrom([]frame.Slot{0, 1, 2, 3, 4}).Draw(d.t, "slot")
}

// prefix is one that is published, if any is.
func (d draw) prefix() (salt []byte, ids []int32) {
	type prefix struct {
		salt []byte
		ids  []int32
	}
	var all, published []prefix
	for _, salt := range salts {
		for _, text := range corpus() {
			for end := 64; end <= 192; end += 64 {
				p := prefix{salt, text[:end]}
				all = append(all, p)
				if _, ok := d.m.published[key(salt, p.ids)]; ok {
					published = append(published, p)
				}
			}
		}
	}
	if len(published) > 0 {
		all = published
	}
	p := rapid.SampledFrom(all).Draw(d.t, "prefix")
	return p.salt, p.ids
}

// op prefers operations that the model accepts: one refusal ends a frame, so
// without that no state grows.
func (d draw) op() []frame.Op {
	for {
		ops := d.anyOp()
		trial := d.m.clone()
		ok := true
		for _, op := range ops {
			ok = ok && trial.op(op)
		}
		if ok || rapid.IntRange(0, 9).Draw(d.t, "wild") == 9 {
			return ops
		}
	}
}

func (d draw) anyOp() []frame.Op {
	slot := d.slot()
	held := len(d.m.slots[slot].ids)
	switch rapid.SampledFrom([]int{0, 2, 6, 1, 5, 4}).Draw(d.t, "op") {
	case 0:
		return []frame.Op{{Open: &frame.Open{Slot: slot, Attempt: 1, PrefixSalt: rapid.SampledFrom(salts).Draw(d.t, "salt")}}}
	case 1:
		salt, text := d.prefix()
		names := Chain(Root(salt, frame.KVClass{}, ""), text, nil)
		return []frame.Op{
			{Open: &frame.Open{Slot: slot, Attempt: 1, PrefixSalt: salt, History: text}},
			{Adopt: &frame.Adopt{Slot: slot, Prefix: names[len(names)-1], Tokens: int32(len(text))}},
		}
	case 2:
		return []frame.Op{{Publish: &frame.Publish{Slot: slot, Tokens: int32(rapid.IntRange(0, held+1).Draw(d.t, "tokens"))}}}
	case 4:
		return []frame.Op{{Truncate: &frame.Truncate{Slot: slot, Len: int32(rapid.IntRange(0, held+1).Draw(d.t, "len"))}}}
	case 5:
		return []frame.Op{{Close: &frame.Close{Slot: slot}}}
	}
	salt, text := d.prefix()
	names := Chain(Root(salt, frame.KVClass{}, ""), text, nil)
	return []frame.Op{{Evict: &frame.Evict{Prefix: names[len(names)-1]}}}
}

// span continues a slot along a text of the corpus that it has followed so far.
func (d draw) span() (frame.Span, bool) {
	slot := d.slot()
	s, open := d.m.slots[slot]
	if !open && rapid.IntRange(0, 9).Draw(d.t, "wild") < 9 {
		return frame.Span{}, false
	}
	held := s.ids
	if len(held) == 0 && !s.took {
		held = s.open.History
	}
	var fits [][]int32
	for _, text := range corpus() {
		if len(text) > len(held) && slices.Equal(text[:len(held)], held) {
			fits = append(fits, text)
		}
	}
	if len(fits) == 0 {
		return frame.Span{}, false
	}
	rest := rapid.SampledFrom(fits).Draw(d.t, "text")[len(held):]
	n := min(len(rest), rapid.SampledFrom([]int{64, 36, 80, 20, 1}).Draw(d.t, "count"))
	skew := int32(rapid.IntRange(0, 20).Draw(d.t, "skew") / 20)
	return frame.Span{Slot: slot, Attempt: 1, Start: int32(len(held)) + skew, Tokens: rest[:n]}, true
}

// TestLogAgainstModel holds the log against the model: same refusals, same
// pages, and a refused frame leaves everything as it was.
func TestLogAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := Config{Epoch: 3, Pipeline: 1, Pages: 7, Slots: 4, Rows: 150, Context: 200}
		log := NewLog(cfg)
		m := &model{cfg: cfg, slots: map[frame.Slot]modelSlot{}, published: map[string]int32{}}
		for range 40 {
			m = applyBoth(t, log, m)
		}
		drain(t, log, m)
	})
}

func applyBoth(t *rapid.T, log *Log, m *model) *model {
	f := &frame.Frame{Epoch: m.cfg.Epoch, Pipeline: m.cfg.Pipeline, Step: log.Next()}
	try := m.clone()
	ok := true
	for range rapid.SampledFrom([]int{1, 0, 2, 3}).Draw(t, "ops") {
		for _, op := range (draw{t, try}).op() {
			f.Ops = append(f.Ops, op)
			ok = ok && try.op(op)
		}
	}
	for range rapid.SampledFrom([]int{2, 3, 1, 0}).Draw(t, "spans") {
		sp, some := (draw{t, try}).span()
		again := slices.ContainsFunc(f.Spans, func(o frame.Span) bool { return o.Slot == sp.Slot })
		if some && (!again || sp.Start%2 == 1) {
			f.Spans = append(f.Spans, sp)
		}
	}
	var spans []Span
	var fresh []int32
	if ok {
		spans, fresh, ok = try.spans(f)
	}
	before := log.Next()
	step, err := log.Apply(f)
	if (err == nil) != ok {
		t.Fatalf("frame %+v: log says %v, model says ok=%t", f, err, ok)
	}
	if !ok {
		if log.Next() != before {
			t.Fatalf("a refused frame moved the log")
		}
		checkSame(t, log, m)
		return m
	}
	if diff := cmp.Diff([]any{spans, len(fresh), fresh}, []any{step.Spans, len(step.Clear), append([]int32(nil), step.Clear...)}); diff != "" && len(spans) > 0 {
		t.Fatalf("step differs (-model +log):\n%s", diff)
	}
	checkSame(t, log, try)
	return try
}

// checkSame compares the whole state, and that no page has an owner too many.
func checkSame(t *rapid.T, log *Log, m *model) {
	t.Helper()
	held := m.holders()
	if want := m.cfg.Pages - len(held); log.Free() != want {
		t.Fatalf("%d pages free, model has %d", log.Free(), want)
	}
	for p, n := range log.pages.refs {
		if int(n) != held[int32(p)] {
			t.Fatalf("page %d has %d holders, model has %d", p, n, held[int32(p)])
		}
	}
	if len(log.prefix) != len(m.published) {
		t.Fatalf("%d pages published, model has %d", len(log.prefix), len(m.published))
	}
	for i := range log.slots {
		s, ms := &log.slots[i], m.slots[frame.Slot(i)]
		if s.length != len(ms.ids) || !slices.Equal(s.table, ms.pages) {
			t.Fatalf("slot %d: pages %v for %d ids, model has %v for %d", i, s.table, s.length, ms.pages, len(ms.ids))
		}
		for p, page := range s.table {
			if want := ms.ids[p*64 : min((p+1)*64, len(ms.ids))]; !slices.Equal(log.idsOf(page)[:len(want)], want) {
				t.Fatalf("slot %d, page %d: ids %v, model has %v", i, page, log.idsOf(page)[:len(want)], want)
			}
		}
	}
}

// drain closes and evicts everything: every page must be free again.
func drain(t *rapid.T, log *Log, m *model) {
	f := &frame.Frame{Epoch: m.cfg.Epoch, Pipeline: m.cfg.Pipeline, Step: log.Next()}
	for slot := range m.slots {
		f.Ops = append(f.Ops, frame.Op{Close: &frame.Close{Slot: slot}})
	}
	left := maps.Clone(log.prefix)
	for name := range left {
		if !slices.ContainsFunc(slices.Collect(maps.Values(left)), func(e *entry) bool { return e.parent == name }) {
			f.Ops = append(f.Ops, frame.Op{Evict: &frame.Evict{Prefix: name}})
		}
	}
	if _, err := log.Apply(f); err != nil {
		t.Fatalf("close and evict everything: %v", err)
	}
	if log.Free() != m.cfg.Pages || len(log.prefix) != 0 {
		t.Fatalf("%d of %d pages free, %d published", log.Free(), m.cfg.Pages, len(log.prefix))
	}
}
