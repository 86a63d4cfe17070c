package sample

import "slices"

// counter counts ids and lists those with a count, all in constant time. The
// zero value counts nothing.
type counter struct {
	count []int32 // by id
	where []int32 // index in ids, by id
	ids   []int32 // ids with a count above 0, in no order
}

func newCounter(vocab int) counter {
	return counter{count: make([]int32, vocab), where: make([]int32, vocab)}
}

// reserve makes room for n more ids, of those there are.
func (c *counter) reserve(n int) {
	c.ids = slices.Grow(c.ids, min(n, len(c.count)-len(c.ids)))
}

func (c *counter) add(id int32) {
	if id < 0 || int(id) >= len(c.count) {
		return
	}
	if c.count[id]++; c.count[id] == 1 {
		c.where[id] = int32(len(c.ids))
		c.ids = append(c.ids, id)
	}
}

// remove undoes one add of the same id.
func (c *counter) remove(id int32) {
	if id < 0 || int(id) >= len(c.count) || c.count[id] == 0 {
		return
	}
	if c.count[id]--; c.count[id] == 0 {
		last := c.ids[len(c.ids)-1]
		c.ids[c.where[id]] = last
		c.where[last] = c.where[id]
		c.ids = c.ids[:len(c.ids)-1]
	}
}
