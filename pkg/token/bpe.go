package token

import "slices"

// shortWord is the longest word, in bytes, that is merged by looking through all
// its pairs again and again.
const shortWord = 24

// encoder holds the scratch of one call of Encode.
type encoder struct {
	v   *Vocab
	out []int32

	ids   []int32 // symbols of the word; None is a byte without a token
	prev  []int32
	next  []int32
	queue bigrams
}

// word appends the ids of one word: as long as any pair of neighbours can be
// merged, the earliest rule is applied, leftmost first (Sennrich, Haddow, Birch,
// Neural machine translation of rare words with subword units, 2016). Bytes that
// have no token are dropped.
func (e *encoder) word(word string) {
	if id, ok := e.v.whole[word]; ok {
		e.out = append(e.out, id)
		return
	}
	e.ids = e.ids[:0]
	for i := range len(word) {
		e.ids = append(e.ids, e.v.byByte[word[i]])
	}
	if len(word) <= shortWord {
		e.mergeShort()
	} else {
		e.mergeLong()
	}
	for _, id := range e.ids {
		if id != None {
			e.out = append(e.out, id)
		}
	}
}

// mergeShort merges e.ids in place, in quadratic time.
func (e *encoder) mergeShort() {
	for {
		at, best := -1, merge{}
		for i := 0; i+1 < len(e.ids); i++ {
			m, ok := e.v.merges[pair{e.ids[i], e.ids[i+1]}]
			if ok && (at < 0 || m.rank < best.rank) {
				at, best = i, m
			}
		}
		if at < 0 {
			return
		}
		e.ids[at] = best.id
		e.ids = append(e.ids[:at+1], e.ids[at+2:]...)
	}
}

// mergeLong does the same in n log n time: symbols are a linked list, candidate
// pairs a heap. An entry of the heap is stale once one of its symbols changed.
func (e *encoder) mergeLong() {
	n := len(e.ids)
	e.prev, e.next = slices.Grow(e.prev[:0], n), slices.Grow(e.next[:0], n)
	e.queue = slices.Grow(e.queue[:0], n)
	for i := range n {
		e.prev = append(e.prev, int32(i-1))
		e.next = append(e.next, int32(i+1))
	}
	for i := range n - 1 {
		if m, ok := e.v.merges[pair{e.ids[i], e.ids[i+1]}]; ok {
			e.queue = append(e.queue, bigram{m, pair{e.ids[i], e.ids[i+1]}, int32(i)})
		}
	}
	e.queue.order()
	for len(e.queue) > 0 {
		b := e.queue.pop()
		left := b.at
		right := e.next[left]
		if int(right) >= n || e.ids[left] != b.left || e.ids[right] != b.right {
			continue
		}
		e.ids[left], e.ids[right] = b.id, dead
		after := e.next[right]
		e.next[left] = after
		if int(after) < n {
			e.prev[after] = left
			e.push(left, after)
		}
		if before := e.prev[left]; before >= 0 {
			e.push(before, left)
		}
	}
	kept := e.ids[:0]
	for i := int32(0); int(i) < n; i = e.next[i] {
		kept = append(kept, e.ids[i])
	}
	e.ids = kept
}

// dead marks a symbol that was merged into the one before it.
const dead int32 = -2

// push queues the pair of two neighbours if it can be merged.
func (e *encoder) push(left, right int32) {
	p := pair{e.ids[left], e.ids[right]}
	if m, ok := e.v.merges[p]; ok {
		e.queue.push(bigram{m, p, left})
	}
}

// bigram is a candidate of mergeLong: the pair whose left symbol is at a
// position.
type bigram struct {
	merge
	pair
	at int32
}

// before orders candidates: the earliest rule first, then the leftmost.
func (b bigram) before(c bigram) bool {
	if b.rank != c.rank {
		return b.rank < c.rank
	}
	return b.at < c.at
}

// bigrams is a binary heap of candidates. It is written out because the heap of
// the standard library allocates for every element.
type bigrams []bigram

// order makes a heap of the elements.
func (q bigrams) order() {
	for i := len(q)/2 - 1; i >= 0; i-- {
		q.down(i)
	}
}

func (q *bigrams) push(b bigram) {
	*q = append(*q, b)
	h := *q
	i := len(h) - 1
	for i > 0 && b.before(h[(i-1)/2]) {
		h[i] = h[(i-1)/2]
		i = (i - 1) / 2
	}
	h[i] = b
}

func (q *bigrams) pop() bigram {
	h := *q
	first, last := h[0], len(h)-1
	h[0] = h[last]
	*q = h[:last]
	q.down(0)
	return first
}

// down restores the heap below index i.
func (q bigrams) down(i int) {
	if i >= len(q) {
		return
	}
	b := q[i]
	for {
		child := 2*i + 1
		if child >= len(q) {
			break
		}
		if child+1 < len(q) && q[child+1].before(q[child]) {
			child++
		}
		if !q[child].before(b) {
			break
		}
		q[i] = q[child]
		i = child
	}
	q[i] = b
}
