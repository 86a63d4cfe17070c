package template

import (
	"fmt"
	"unicode/utf8"

	"github.com/ardanlabs/jinja"
)

// lookup finds a key of a dictionary; keys that a user chose are found too.
func (b *budget) lookup(d, name jinja.Value) (jinja.Value, bool, error) {
	s, err := b.print(name)
	if err != nil || len(s) > maxKey {
		return jinja.Undefined(), false, err
	}
	if v, ok := d.AsDict().Get(plain(s)); ok {
		return v, true, nil
	}
	v, ok := d.AsDict().Get(mark(plain(s)))
	return v, ok, nil
}

// attribute is a.name; methods are called by method.
func attribute(b *budget, a args) (jinja.Value, error) {
	object, name := a.pos[0], a.pos[1]
	switch {
	case object.IsUndefined():
		return fail("attribute %s of an undefined value", name.AsString())
	case object.IsDict():
		v, _, err := b.lookup(object, name)
		return v, err
	}
	return jinja.Undefined(), nil
}

// item is a[key].
func item(b *budget, a args) (jinja.Value, error) {
	object, k := a.pos[0], a.pos[1]
	switch {
	case object.IsUndefined():
		return fail("item of an undefined value")
	case object.IsDict():
		v, _, err := b.lookup(object, k)
		return v, err
	case !k.IsInt():
		return jinja.Undefined(), nil
	case object.IsList():
		items := object.AsList().Items
		if i, ok := index(k.AsInt(), len(items)); ok {
			return items[i], nil
		}
	case object.IsString():
		s := object.AsString()
		if err := b.read(s); err != nil {
			return jinja.Undefined(), err
		}
		if i, ok := index(k.AsInt(), utf8.RuneCountInString(s)); ok {
			return jinja.NewString(string(firstRune(s[offset(s, i):]))), nil
		}
	}
	return jinja.Undefined(), nil
}

// index resolves an index that may count from the end.
func index(i int64, n int) (int, bool) {
	if i < 0 {
		i += int64(n)
	}
	return int(i), i >= 0 && i < int64(n)
}

// slice is a[start:stop:step].
func slice(b *budget, a args) (jinja.Value, error) {
	switch object := a.pos[0]; {
	case object.IsString():
		return sliceString(b, object.AsString(), a)
	case object.IsList():
		items := object.AsList().Items
		r, err := sliceRange(a, len(items))
		if err != nil {
			return jinja.Undefined(), err
		}
		return b.list(pick(items, r))
	default:
		return fail("slice of %s", kindOf(object))
	}
}

// sliceString is a slice of a string, counted in runes.
func sliceString(b *budget, s string, a args) (jinja.Value, error) {
	if err := b.read(s); err != nil {
		return jinja.Undefined(), err
	}
	r, err := sliceRange(a, utf8.RuneCountInString(s))
	switch {
	case err != nil:
		return jinja.Undefined(), err
	case r.step == 1:
		from := offset(s, int(r.start))
		return b.text(s[from : from+offset(s[from:], int(max(r.stop-r.start, 0)))])
	}
	if err := b.alloc(4 * len(s)); err != nil { // as runes
		return jinja.Undefined(), err
	}
	return jinja.NewString(string(pick([]rune(s), r))), nil
}

// offset returns the place in bytes of the n-th rune, which may be the end.
func offset(s string, n int) int {
	at := 0
	for ; n > 0 && at < len(s); n-- {
		_, size := utf8.DecodeRuneInString(s[at:])
		at += size
	}
	return at
}

// span is a resolved slice.
type span struct{ start, stop, step int64 }

// sliceRange resolves the bounds, which are the second to fourth argument, for
// n elements.
func sliceRange(a args, n int) (span, error) {
	for _, v := range a.pos[1:] {
		if !v.IsInt() && !v.IsNone() {
			return span{}, fmt.Errorf("%w: slice by %s", ErrTemplate, kindOf(v))
		}
	}
	size, step := int64(n), int64(1)
	if a.pos[3].IsInt() {
		step = a.pos[3].AsInt()
	}
	if step == 0 {
		return span{}, fmt.Errorf("%w: slice with a step of 0", ErrTemplate)
	}
	step = min(max(step, -size-1), size+1)
	low, high, first, last := int64(0), size, int64(0), size
	if step < 0 {
		low, high, first, last = -1, size-1, size-1, -1
	}
	bound := func(v jinja.Value, missing int64) int64 {
		if v.IsNone() {
			return missing
		}
		i := v.AsInt()
		if i < 0 {
			i += size
		}
		return min(max(i, low), high)
	}
	return span{bound(a.pos[1], first), bound(a.pos[2], last), step}, nil
}

// pick returns a copy of the elements of a span.
func pick[T any](all []T, r span) []T {
	var out []T
	for i := r.start; r.step > 0 && i < r.stop || r.step < 0 && i > r.stop; i += r.step {
		out = append(out, all[i])
	}
	return out
}

// dictionary makes a dictionary of keys and values in turn.
func dictionary(b *budget, a args) (jinja.Value, error) {
	d := jinja.NewDict()
	for i := 0; i+1 < len(a.pos); i += 2 {
		k, err := b.print(a.pos[i])
		if err != nil {
			return jinja.Undefined(), err
		}
		d.AsDict().Set(k, a.pos[i+1])
	}
	return d, b.items(len(a.pos))
}
