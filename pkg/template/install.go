package template

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ardanlabs/jinja"
)

// args are the arguments of a guarded function.
type args struct {
	pos   []jinja.Value
	named map[string]jinja.Value
}

// at returns an argument by its position or name, or Undefined.
func (a args) at(i int, name string) jinja.Value {
	if i < len(a.pos) {
		return a.pos[i]
	}
	return a.named[name]
}

// function is a guarded function. The budget is that of the rendering.
type function func(b *budget, a args) (jinja.Value, error)

// guarded are the functions that rewritten templates call.
var guarded = map[string]function{
	"__out":        out,
	"__tick":       func(b *budget, _ args) (jinja.Value, error) { return jinja.None(), b.spend(1) },
	"__enter":      func(b *budget, _ args) (jinja.Value, error) { return jinja.None(), b.enter() },
	"__leave":      func(b *budget, _ args) (jinja.Value, error) { b.depth--; return jinja.None(), nil },
	"__items":      iterate,
	"__concat":     concat,
	"__binary":     binary,
	"__compare":    compare,
	"__chain":      chain,
	"__sum":        plus,
	"__attribute":  attribute,
	"__item":       item,
	"__slice":      slice,
	"__dictionary": dictionary,
	"__invoke":     invoke,
	"__method":     method,
	"__filter":     filter,
	"__test":       test,

	"range":           rangeOf,
	"namespace":       namespace,
	"dict":            namespace,
	"joiner":          joiner,
	"raise_exception": raise,
}

// blocked are globals of the engine that would go around the budget.
var blocked = []string{"cycler"}

// install adds the functions to the variables of a rendering.
func (b *budget) install(vars map[string]jinja.Value, now time.Time) {
	for name, f := range guarded {
		vars[name] = b.bind(name, f)
	}
	for _, name := range blocked {
		vars[name] = jinja.Undefined()
	}
	vars["strftime_now"] = b.bind("strftime_now", func(b *budget, a args) (jinja.Value, error) {
		return strftime(b, now, a)
	})
}

// bind makes a value of a function.
func (b *budget) bind(name string, f function) jinja.Value {
	return jinja.NewCallable(name, func(pos []jinja.Value, named map[string]jinja.Value) (jinja.Value, error) {
		if err := b.spend(1); err != nil {
			return jinja.Undefined(), err
		}
		return f(b, args{pos, named})
	})
}

// out prints a value into the output.
func out(b *budget, a args) (jinja.Value, error) {
	s, err := b.print(a.at(0, ""))
	if err != nil {
		return jinja.Undefined(), err
	}
	return b.text(s)
}

// iterate returns the items of a for loop: its second argument is the number of
// the loop's variables.
func iterate(b *budget, a args) (jinja.Value, error) {
	items, err := b.elements(a.at(0, ""))
	if err != nil {
		return jinja.Undefined(), err
	}
	if want := int(a.at(1, "").AsInt()); want > 1 {
		for _, v := range items {
			if !v.IsList() || v.AsList().Len() != want {
				return fail("cannot unpack an item into %d variables", want)
			}
		}
	}
	return jinja.NewList(items), nil
}

// elements returns the items of anything that can be iterated. The caller must
// not change them.
func (b *budget) elements(v jinja.Value) ([]jinja.Value, error) {
	var items []jinja.Value
	switch {
	case v.IsUndefined():
	case v.IsList():
		return v.AsList().Items, b.spend(1)
	case v.IsDict():
		for _, k := range v.AsDict().Keys {
			items = append(items, jinja.NewString(k))
		}
	case v.IsString():
		if err := b.items(len(v.AsString()) / 4); err != nil {
			return nil, err
		}
		items = make([]jinja.Value, 0, len(v.AsString())/4)
		for _, r := range v.AsString() {
			items = append(items, jinja.NewString(string(r)))
		}
	default:
		return nil, fmt.Errorf("%w: %s cannot be iterated", ErrTemplate, kindOf(v))
	}
	return items, b.items(len(items))
}

// invoke calls a macro or a global function.
func invoke(_ *budget, a args) (jinja.Value, error) {
	f := a.at(0, "")
	if !f.IsCallable() {
		return fail("%s is not a function", kindOf(f))
	}
	return f.AsCallable().Fn(a.pos[1:], a.named)
}

func rangeOf(b *budget, a args) (jinja.Value, error) {
	bounds := make([]int64, len(a.pos))
	for i, v := range a.pos {
		if !v.IsInt() {
			return fail("range of %s", kindOf(v))
		}
		bounds[i] = v.AsInt()
	}
	start, step := int64(0), int64(1)
	switch len(bounds) {
	case 1:
		bounds = []int64{0, bounds[0]}
	case 2:
	case 3:
		step = bounds[2]
	default:
		return fail("range takes 1 to 3 arguments")
	}
	start, stop := bounds[0], bounds[1]
	const far = 1 << 40 // so that no sum below overflows
	if step == 0 || max(start, stop, step) > far || min(start, stop, step) < -far {
		return jinja.Undefined(), fmt.Errorf("%w: range(%d, %d, %d)", ErrBudget, start, stop, step)
	}
	n := (stop - start + step - step/max(step, -step)) / step
	if err := b.items(int(max(n, 0))); err != nil {
		return jinja.Undefined(), err
	}
	items := make([]jinja.Value, 0, max(n, 0))
	for i := range max(n, 0) {
		items = append(items, jinja.NewInt(start+i*step))
	}
	return jinja.NewList(items), nil
}

// namespace makes a dictionary of its named arguments, by name, after those of
// its first argument.
func namespace(b *budget, a args) (jinja.Value, error) {
	d := jinja.NewDict()
	if first := a.at(0, ""); first.IsDict() {
		for _, k := range first.AsDict().Keys {
			d.AsDict().Set(k, first.AsDict().Data[k])
		}
	}
	for _, k := range slices.Sorted(maps.Keys(a.named)) {
		d.AsDict().Set(k, a.named[k])
	}
	return d, b.items(d.AsDict().Len())
}

// joiner makes a function that gives nothing at first and then the separator.
func joiner(b *budget, a args) (jinja.Value, error) {
	sep := a.at(0, "sep")
	if sep.IsUndefined() {
		sep = jinja.NewString(", ")
	}
	used := false
	return b.bind("joiner", func(*budget, args) (jinja.Value, error) {
		if !used {
			used = true
			return jinja.NewString(""), nil
		}
		return sep, nil
	}), nil
}

func raise(b *budget, a args) (jinja.Value, error) {
	message, err := b.print(a.at(0, "message"))
	if err != nil {
		return jinja.Undefined(), err
	}
	return jinja.Undefined(), &RaisedError{plain(message)}
}

// dateLayouts are the conversions of strftime in the terms of package time.
var dateLayouts = map[byte]string{
	'Y': "2006", 'y': "06", 'm': "01", 'd': "02", 'e': "_2", 'B': "January", 'b': "Jan", 'A': "Monday", 'a': "Mon",
	'H': "15", 'I': "03", 'M': "04", 'S': "05", 'p': "PM", 'j': "002", 'Z': "MST", 'z': "-0700",
	'F': "2006-01-02", 'T': "15:04:05",
}

// strftime formats the time of the rendering.
func strftime(b *budget, now time.Time, a args) (jinja.Value, error) {
	format := a.at(0, "format")
	if !format.IsString() {
		return fail("strftime_now of %s", kindOf(format))
	}
	var text strings.Builder
	src := plain(format.AsString())
	for i := 0; i < len(src); i++ {
		if src[i] != '%' || i+1 == len(src) {
			text.WriteByte(src[i])
			continue
		}
		i++
		trim := src[i] == '-' && i+1 < len(src)
		if trim {
			i++
		}
		layout, ok := dateLayouts[src[i]]
		switch {
		case src[i] == '%':
			text.WriteByte('%')
		case !ok:
			return fail("strftime_now of %%%c", src[i])
		case trim:
			text.WriteString(strings.TrimLeft(now.Format(layout), "0 "))
		default:
			text.WriteString(now.Format(layout))
		}
	}
	return b.text(text.String())
}
