package grammar

// Builders of the pieces of JSON text. Each takes the instruction that follows
// and returns the entry.

// bytesOf makes a set of ranges, given as pairs of bounds.
func bytesOf(bounds ...byte) set {
	var s set
	for i := 0; i < len(bounds); i += 2 {
		s.add(bounds[i], bounds[i+1])
	}
	return s
}

func (c *compiler) one(s set, next int32) int32 {
	id, ok := c.setIDs[s]
	if !ok {
		id = int32(len(c.g.sets))
		c.g.sets = append(c.g.sets, s)
		c.setIDs[s] = id
	}
	return c.emit(inst{op: opSet, a: id, b: next})
}

func (c *compiler) literal(text string, next int32) int32 {
	for i := len(text) - 1; i >= 0; i-- {
		next = c.one(bytesOf(text[i], text[i]), next)
	}
	return next
}

func (c *compiler) call(rule, next int32) int32 {
	return c.emit(inst{op: opCall, a: rule, b: next})
}

func (c *compiler) repeat(rule int32, least, most int, next int32) int32 {
	return c.emit(inst{op: opRepeat, a: rule, b: next, min: int32(least), max: int32(most)})
}

// either joins alternatives. There is at least one.
func (c *compiler) either(entries ...int32) int32 {
	out := entries[len(entries)-1]
	for i := len(entries) - 2; i >= 0; i-- {
		if entries[i] != out {
			out = c.emit(inst{op: opSplit, a: entries[i], b: out})
		}
	}
	return out
}

// oneOf is one of given texts, joined where they begin alike.
func (c *compiler) oneOf(texts []string, next int32) int32 {
	if len(texts) == 1 {
		return c.literal(texts[0], next)
	}
	var ways []int32
	var order []byte
	byFirst := map[byte][]string{}
	for _, t := range texts {
		if t == "" {
			ways = []int32{next}
			continue
		}
		if byFirst[t[0]] == nil {
			order = append(order, t[0])
		}
		byFirst[t[0]] = append(byFirst[t[0]], t[1:])
	}
	for _, b := range order {
		ways = append(ways, c.one(bytesOf(b, b), c.oneOf(byFirst[b], next)))
	}
	return c.either(ways...)
}

// maybe is a text or nothing.
func (c *compiler) maybe(text string, next int32) int32 {
	return c.either(c.literal(text, next), next)
}

// maxIndent bounds the spaces after a line break.
const maxIndent = 16

// gap is the white space between members: none, a space, or a line break with
// indentation.
func (c *compiler) gap(next int32) int32 {
	return c.either(next, c.literal(" ", next), c.lineBreak(next))
}

// turn is the white space inside of brackets: none or a line break.
func (c *compiler) turn(next int32) int32 { return c.either(next, c.lineBreak(next)) }

func (c *compiler) lineBreak(next int32) int32 {
	space := c.shared("space", func(ret int32) int32 { return c.literal(" ", ret) })
	return c.literal("\n", c.repeat(space, 0, maxIndent, next))
}

// text is a string of min to max characters.
func (c *compiler) text(least, most int, next int32) int32 {
	return c.literal(`"`, c.repeat(c.character(), least, most, c.literal(`"`, next)))
}

// character is the rule of one code point within a string (RFC 8259, section 7;
// UTF-8 as in RFC 3629). Escaped surrogates are left out.
func (c *compiler) character() int32 {
	return c.shared("character", func(ret int32) int32 {
		hex := bytesOf('0', '9', 'a', 'f', 'A', 'F')
		last2 := c.one(hex, c.one(hex, ret))
		code := c.either(
			c.one(bytesOf('0', '9', 'a', 'c', 'e', 'f', 'A', 'C', 'E', 'F'), c.one(hex, last2)),
			c.one(bytesOf('d', 'd', 'D', 'D'), c.one(bytesOf('0', '7'), last2)))
		escape := c.literal(`\`, c.either(
			c.one(bytesOf('"', '"', '\\', '\\', '/', '/', 'b', 'b', 'f', 'f', 'n', 'n', 'r', 'r', 't', 't'), ret),
			c.literal("u", code)))
		return c.either(c.one(bytesOf(' ', '!', '#', '[', ']', 0x7f), ret), escape, c.multibyte(ret))
	})
}

// multibyte is a code point beyond ASCII.
func (c *compiler) multibyte(ret int32) int32 {
	tail := bytesOf(0x80, 0xbf)
	t1 := c.one(tail, ret)
	t2 := c.one(tail, t1)
	return c.either(
		c.one(bytesOf(0xc2, 0xdf), t1),
		c.one(bytesOf(0xe0, 0xe0), c.one(bytesOf(0xa0, 0xbf), t1)),
		c.one(bytesOf(0xe1, 0xec, 0xee, 0xef), t2),
		c.one(bytesOf(0xed, 0xed), c.one(bytesOf(0x80, 0x9f), t1)),
		c.one(bytesOf(0xf0, 0xf0), c.one(bytesOf(0x90, 0xbf), t2)),
		c.one(bytesOf(0xf1, 0xf3), c.one(tail, t2)),
		c.one(bytesOf(0xf4, 0xf4), c.one(bytesOf(0x80, 0x8f), t2)))
}

// array is a list of least to most items; most < 0 is no limit.
func (c *compiler) array(item int32, least, most int, next int32) int32 {
	closing := c.literal("]", next)
	if most == 0 {
		return c.literal("[", closing)
	}
	further := c.newRule(func(ret int32) int32 { return c.literal(",", c.gap(c.call(item, ret))) })
	items := c.turn(c.call(item, c.repeat(further, max(least-1, 0), max(most-1, -1), c.turn(closing))))
	if least == 0 {
		items = c.either(closing, items)
	}
	return c.literal("[", items)
}

// member is the rule of a name, a colon and a value.
func (c *compiler) member(name, value int32) int32 {
	return c.newRule(func(ret int32) int32 {
		return c.call(name, c.literal(":", c.maybe(" ", c.call(value, ret))))
	})
}

// free is the rule of any JSON value.
func (c *compiler) free() int32 {
	return c.shared("value", func(ret int32) int32 {
		return c.either(
			c.freeObject(ret), c.array(c.free(), 0, -1, ret), c.text(0, -1, ret),
			c.number(ret), c.literal("true", ret), c.literal("false", ret), c.literal("null", ret))
	})
}

// freeObject is any object.
func (c *compiler) freeObject(next int32) int32 {
	name := c.shared("name", func(ret int32) int32 { return c.text(0, -1, ret) })
	return c.object(nil, c.member(name, c.free()), -1, next)
}

// property is a member of an object with a fixed name.
type property struct {
	member   int32 // rule
	required bool
}

// object is an object of properties in order, and of up to most further members
// by the rule further. most < 0 is no limit; 0 is none.
func (c *compiler) object(props []property, further int32, most int, next int32) int32 {
	end := c.turn(c.literal("}", next))
	// pick begins with a member, more with what follows one; whole says that no
	// member is missing.
	whole := true
	var pick []int32
	if most != 0 {
		another := c.newRule(func(ret int32) int32 { return c.literal(",", c.gap(c.call(further, ret))) })
		pick = []int32{c.call(further, c.repeat(another, 0, max(most-1, -1), end))}
	}
	for i := len(props) - 1; i >= 0; i-- {
		entry := c.call(props[i].member, c.more(whole, pick, end))
		if props[i].required {
			whole, pick = false, nil
		}
		pick = append([]int32{entry}, pick...)
		pick = []int32{c.either(pick...)}
	}
	var ways []int32
	if whole {
		ways = append(ways, c.literal("}", next))
	}
	if len(pick) > 0 {
		ways = append(ways, c.turn(pick[0]))
	}
	return c.literal("{", c.either(ways...))
}

// more is what follows a member: the end, or one of those that are left.
func (c *compiler) more(whole bool, pick []int32, end int32) int32 {
	var ways []int32
	if whole {
		ways = append(ways, end)
	}
	if len(pick) > 0 {
		ways = append(ways, c.literal(",", c.gap(pick[0])))
	}
	return c.either(ways...)
}

// otherName is the rule of a name of printable ASCII that is none of the given.
func (c *compiler) otherName(names []string) int32 {
	return c.newRule(func(ret int32) int32 { return c.literal(`"`, c.notAny(names, ret)) })
}

// plainByte is what a name may consist of where others are excluded.
var plainByte = bytesOf(' ', '!', '#', '[', ']', '~')

// notAny is the rest of a string, with its quote, that is none of the rests.
func (c *compiler) notAny(rests []string, next int32) int32 {
	byFirst := map[byte][]string{}
	closed := false
	for _, r := range rests {
		if r == "" {
			closed = true
		} else if plainByte.has(r[0]) {
			byFirst[r[0]] = append(byFirst[r[0]], r[1:])
		}
	}
	char := c.shared("plain", func(ret int32) int32 { return c.one(plainByte, ret) })
	free := c.repeat(char, 0, -1, c.literal(`"`, next))
	other := plainByte
	var ways []int32
	for b := byte(' '); b <= '~'; b++ {
		if tails, ok := byFirst[b]; ok {
			other[b>>6] &^= 1 << (b & 63)
			ways = append(ways, c.one(bytesOf(b, b), c.notAny(tails, next)))
		}
	}
	ways = append(ways, c.one(other, free))
	if !closed {
		ways = append(ways, c.literal(`"`, next))
	}
	return c.either(ways...)
}
