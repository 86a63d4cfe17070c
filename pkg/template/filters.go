package template

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/ardanlabs/jinja"
)

// filters are the filters of Jinja that chat templates use. The first argument is
// the filtered value.
var filters = map[string]function{
	"tojson":     toJSON,
	"join":       join,
	"items":      itemsOf,
	"default":    orDefault,
	"d":          orDefault,
	"trim":       textFilter("strip"),
	"upper":      textFilter("upper"),
	"lower":      textFilter("lower"),
	"capitalize": textFilter("capitalize"),
	"title":      textFilter("title"),
	"replace":    textFilter("replace"),
	"string":     out,
	"safe":       func(_ *budget, a args) (jinja.Value, error) { return a.at(0, ""), nil },
	"indent":     indent,
	"first":      edge(0),
	"last":       edge(-1),
	"length":     length,
	"count":      length,
	"list":       list,
	"reverse":    reverse,
	"sort":       sorted,
	"unique":     unique,
	"map":        mapItems,
	"select":     selectItems(false, true),
	"reject":     selectItems(false, false),
	"selectattr": selectItems(true, true),
	"rejectattr": selectItems(true, false),
	"int":        toInt,
	"float":      toFloat,
	"round":      round,
	"abs":        absolute,
	"dictsort":   dictSort,
	"max":        extreme(1),
	"min":        extreme(-1),
	"sum":        sum,
}

// filter calls a filter by its name, which was checked when the template was
// compiled.
func filter(b *budget, a args) (jinja.Value, error) {
	return filters[a.pos[0].AsString()](b, args{a.pos[1:], a.named})
}

// textFilter makes a filter of a method of strings.
func textFilter(name string) function {
	return func(b *budget, a args) (jinja.Value, error) {
		s, err := b.print(a.at(0, ""))
		if err != nil {
			return jinja.Undefined(), err
		}
		return stringMethod(b, name, s, args{a.pos[1:], a.named})
	}
}

func join(b *budget, a args) (jinja.Value, error) {
	items, err := b.elements(a.at(0, ""))
	if err != nil {
		return jinja.Undefined(), err
	}
	sep, err := b.print(a.at(1, "d"))
	if err != nil {
		return jinja.Undefined(), err
	}
	attr := a.at(2, "attribute")
	w := writer{budget: b}
	for i, v := range items {
		if !attr.IsUndefined() {
			if v, err = item(b, args{pos: []jinja.Value{v, attr}}); err != nil {
				return v, err
			}
		}
		s, err := b.print(v)
		if err != nil {
			return jinja.Undefined(), err
		}
		if i > 0 {
			s = sep + s
		}
		if err := w.put(s); err != nil {
			return jinja.Undefined(), err
		}
	}
	return jinja.NewString(w.String()), nil
}

func itemsOf(b *budget, a args) (jinja.Value, error) {
	v := a.at(0, "")
	switch {
	case v.IsUndefined():
		return jinja.NewList(nil), nil
	case v.IsDict():
		return pairs(b, v)
	}
	return fail("items of %s", kindOf(v))
}

func orDefault(_ *budget, a args) (jinja.Value, error) {
	v := a.at(0, "")
	if !v.IsUndefined() && (v.IsTruthy() || !a.at(2, "boolean").IsTruthy()) {
		return v, nil
	}
	other := a.at(1, "default_value")
	if other.IsUndefined() {
		other = jinja.NewString("")
	}
	return other, nil
}

// indent puts white space before every line but the first and blank ones.
func indent(b *budget, a args) (jinja.Value, error) {
	s, err := b.print(a.at(0, ""))
	if err != nil {
		return jinja.Undefined(), err
	}
	pad := "    "
	switch v := a.at(1, "width"); {
	case v.IsString():
		pad = v.AsString()
	case v.IsInt() && (v.AsInt() < 0 || v.AsInt() > MaxString):
		return jinja.Undefined(), fmt.Errorf("%w: indent of %d", ErrBudget, v.AsInt())
	case v.IsInt():
		pad = strings.Repeat(" ", int(v.AsInt()))
	}
	first, blank := a.at(2, "first").IsTruthy(), a.at(3, "blank").IsTruthy()
	w := writer{budget: b}
	for i, line := range cut(s, "\n", -1) {
		if i > 0 {
			line = "\n" + line
			if blank || line != "\n" {
				line = "\n" + pad + line[1:]
			}
		} else if first && (blank || line != "") {
			line = pad + line
		}
		if err := w.put(line); err != nil {
			return jinja.Undefined(), err
		}
	}
	return jinja.NewString(w.String()), nil
}

// edge returns the item at an end, or Undefined.
func edge(at int64) function {
	return func(b *budget, a args) (jinja.Value, error) {
		items, err := b.elements(a.at(0, ""))
		if i, ok := index(at, len(items)); err == nil && ok {
			return items[i], nil
		}
		return jinja.Undefined(), err
	}
}

func length(b *budget, a args) (jinja.Value, error) {
	n := 0
	switch v := a.at(0, ""); {
	case v.IsString():
		n = utf8.RuneCountInString(v.AsString())
	case v.IsList():
		n = v.AsList().Len()
	case v.IsDict():
		n = v.AsDict().Len()
	case v.IsUndefined():
	default:
		return fail("length of %s", kindOf(v))
	}
	return jinja.NewInt(int64(n)), b.spend(n >> 6)
}

func list(b *budget, a args) (jinja.Value, error) {
	items, err := b.elements(a.at(0, ""))
	return jinja.NewList(slices.Clone(items)), err
}

func reverse(b *budget, a args) (jinja.Value, error) {
	v := a.at(0, "")
	if v.IsString() {
		runes := []rune(v.AsString())
		slices.Reverse(runes)
		return b.text(string(runes))
	}
	items, err := b.elements(v)
	items = slices.Clone(items)
	slices.Reverse(items)
	return jinja.NewList(items), err
}

// sortBy sorts by keys, which are all numbers or all strings.
func sortBy[T any](b *budget, items []T, key func(T) (jinja.Value, error), descending bool) error {
	var failed error
	slices.SortStableFunc(items, func(x, y T) int {
		if failed != nil {
			return 0
		}
		left, err := key(x)
		if err != nil {
			failed = err
			return 0
		}
		right, err := key(y)
		if err != nil {
			failed = err
			return 0
		}
		var order int
		if order, failed = b.order(left, right); descending {
			order = -order
		}
		return order
	})
	return failed
}

func sorted(b *budget, a args) (jinja.Value, error) {
	items, err := b.elements(a.at(0, ""))
	if err != nil {
		return jinja.Undefined(), err
	}
	items = slices.Clone(items)
	attr, folds := a.at(3, "attribute"), !a.at(2, "case_sensitive").IsTruthy()
	key := func(v jinja.Value) (jinja.Value, error) {
		var err error
		if attr.IsString() {
			v, err = item(b, args{pos: []jinja.Value{v, attr}})
		}
		if folds && v.IsString() {
			return stringMethod(b, "lower", v.AsString(), args{})
		}
		return v, err
	}
	err = sortBy(b, items, key, a.at(1, "reverse").IsTruthy())
	return jinja.NewList(items), err
}

func dictSort(b *budget, a args) (jinja.Value, error) {
	if !a.at(0, "").IsDict() {
		return fail("dictsort of %s", kindOf(a.at(0, "")))
	}
	entries, err := pairs(b, a.at(0, ""))
	if err != nil {
		return entries, err
	}
	key := func(v jinja.Value) (jinja.Value, error) { return v.AsList().Get(0), nil }
	err = sortBy(b, entries.AsList().Items, key, a.at(3, "reverse").IsTruthy())
	return entries, err
}

func unique(b *budget, a args) (jinja.Value, error) {
	items, err := b.elements(a.at(0, ""))
	if err != nil {
		return jinja.Undefined(), err
	}
	var kept []jinja.Value
	for _, v := range items {
		seen, err := b.contains(jinja.NewList(kept), v)
		if err != nil {
			return jinja.Undefined(), err
		}
		if !seen {
			kept = append(kept, v)
		}
	}
	return jinja.NewList(kept), nil
}

// extreme returns the greatest item for a sign of 1, the least for -1.
func extreme(sign int) function {
	return func(b *budget, a args) (jinja.Value, error) {
		items, err := b.elements(a.at(0, ""))
		best := jinja.Undefined()
		for i, v := range items {
			if i == 0 {
				best = v
				continue
			}
			order, err := b.order(v, best)
			if err != nil {
				return jinja.Undefined(), err
			}
			if order*sign > 0 {
				best = v
			}
		}
		return best, err
	}
}

func sum(b *budget, a args) (jinja.Value, error) {
	items, err := b.elements(a.at(0, ""))
	total := jinja.NewInt(0)
	for _, v := range items {
		if err == nil {
			total, err = binary(b, args{pos: []jinja.Value{jinja.NewString("+"), total, v}})
		}
	}
	return total, err
}

func toInt(_ *budget, a args) (jinja.Value, error) {
	switch v := a.at(0, ""); {
	case v.IsInt():
		return v, nil
	case v.IsBool():
		return number(v), nil
	case v.IsFloat() && math.Abs(v.AsFloat()) < 1<<62:
		return jinja.NewInt(int64(v.AsFloat())), nil
	case v.IsString():
		if n, err := strconv.ParseInt(strings.TrimSpace(plain(v.AsString())), 10, 64); err == nil {
			return jinja.NewInt(n), nil
		}
	}
	if other := a.at(1, "default"); other.IsInt() {
		return other, nil
	}
	return jinja.NewInt(0), nil
}

func toFloat(_ *budget, a args) (jinja.Value, error) {
	switch v := a.at(0, ""); {
	case v.IsNumber():
		return jinja.NewFloat(float(v)), nil
	case v.IsString():
		if f, err := strconv.ParseFloat(strings.TrimSpace(plain(v.AsString())), 64); err == nil {
			return jinja.NewFloat(f), nil
		}
	}
	return jinja.NewFloat(0), nil
}

func round(_ *budget, a args) (jinja.Value, error) {
	v, digits := a.at(0, ""), 0.0
	if !v.IsNumber() {
		return fail("round of %s", kindOf(v))
	}
	if d := a.at(1, "precision"); d.IsInt() {
		digits = float64(min(max(d.AsInt(), -300), 300))
	}
	unit := math.Pow(10, digits)
	return jinja.NewFloat(math.RoundToEven(float(v)*unit) / unit), nil
}

func absolute(_ *budget, a args) (jinja.Value, error) {
	switch v := a.at(0, ""); {
	case v.IsInt():
		return jinja.NewInt(max(v.AsInt(), -v.AsInt())), nil
	case v.IsFloat():
		return jinja.NewFloat(math.Abs(v.AsFloat())), nil
	}
	return fail("abs of %s", kindOf(a.at(0, "")))
}
