package template

import (
	"github.com/ardanlabs/jinja"
)

// predicate is a test of Jinja: value is name(arguments).
type predicate func(b *budget, v jinja.Value, a args) (bool, error)

// of makes a test of a property.
func of(test func(jinja.Value) bool) predicate {
	return func(_ *budget, v jinja.Value, _ args) (bool, error) { return test(v), nil }
}

// by makes a test of an operator of comparison.
func by(op string) predicate {
	return func(b *budget, v jinja.Value, a args) (bool, error) {
		holds, err := compare(b, args{pos: []jinja.Value{jinja.NewString(op), v, a.at(0, "")}})
		return err == nil && holds.AsBool(), err
	}
}

// tests are the tests of Jinja that chat templates use.
var tests = map[string]predicate{
	"defined":   of(func(v jinja.Value) bool { return !v.IsUndefined() }),
	"undefined": of(jinja.Value.IsUndefined),
	"none":      of(jinja.Value.IsNone),
	"boolean":   of(jinja.Value.IsBool),
	"integer":   of(jinja.Value.IsInt),
	"float":     of(jinja.Value.IsFloat),
	"number":    of(func(v jinja.Value) bool { return v.IsNumber() || v.IsBool() }),
	"string":    of(jinja.Value.IsString),
	"mapping":   of(jinja.Value.IsDict),
	"iterable":  of(isSequence),
	"sequence":  of(isSequence),
	"callable":  of(jinja.Value.IsCallable),
	"true":      of(func(v jinja.Value) bool { return v.IsBool() && v.AsBool() }),
	"false":     of(func(v jinja.Value) bool { return v.IsBool() && !v.AsBool() }),
	"odd":       of(func(v jinja.Value) bool { return v.IsInt() && v.AsInt()%2 != 0 }),
	"even":      of(func(v jinja.Value) bool { return v.IsInt() && v.AsInt()%2 == 0 }),

	"divisibleby": func(_ *budget, v jinja.Value, a args) (bool, error) {
		n := a.at(0, "")
		return v.IsInt() && n.IsInt() && n.AsInt() != 0 && v.AsInt()%n.AsInt() == 0, nil
	},
	"sameas": by("=="), "eq": by("=="), "equalto": by("=="), "ne": by("!="), "in": by("in"),
	"lt": by("<"), "lessthan": by("<"), "le": by("<="), "gt": by(">"), "greaterthan": by(">"), "ge": by(">="),
}

// isSequence holds for lists and, as in Python, for strings and dictionaries.
func isSequence(v jinja.Value) bool { return v.IsList() || v.IsString() || v.IsDict() }

// test calls a test by its name, which was checked when the template was compiled.
func test(b *budget, a args) (jinja.Value, error) {
	holds, err := tests[a.pos[0].AsString()](b, a.pos[1], args{a.pos[2:], a.named})
	return jinja.NewBool(holds), err
}

// selectItems makes a filter that keeps the items, or those with an attribute,
// for which a test has the given result. Without a test it is their truth.
func selectItems(byAttribute, result bool) function {
	return func(b *budget, a args) (jinja.Value, error) {
		items, err := b.elements(a.at(0, ""))
		if err != nil {
			return jinja.Undefined(), err
		}
		rest := a.pos[1:]
		attr := jinja.Undefined()
		if byAttribute {
			if len(rest) == 0 {
				return fail("selection by no attribute")
			}
			attr, rest = rest[0], rest[1:]
		}
		check := predicate(of(jinja.Value.IsTruthy))
		if len(rest) > 0 {
			var ok bool
			if check, ok = tests[plain(rest[0].String())]; rest[0].IsString() {
				check, ok = tests[plain(rest[0].AsString())]
			}
			if !ok {
				return fail("unknown test %s", rest[0].String())
			}
			rest = rest[1:]
		}
		var kept []jinja.Value
		for _, v := range items {
			subject := v
			if byAttribute {
				if subject, err = item(b, args{pos: []jinja.Value{v, attr}}); err != nil {
					return subject, err
				}
			}
			holds, err := check(b, subject, args{pos: rest})
			if err != nil {
				return jinja.Undefined(), err
			}
			if holds == result {
				kept = append(kept, v)
			}
		}
		return jinja.NewList(kept), nil
	}
}

// mapItems is the filter map: an attribute of every item, or a filter over it.
func mapItems(b *budget, a args) (jinja.Value, error) {
	items, err := b.elements(a.at(0, ""))
	if err != nil {
		return jinja.Undefined(), err
	}
	attr := a.named["attribute"]
	var apply function
	if attr.IsUndefined() {
		name := a.at(1, "")
		if !name.IsString() {
			return fail("map by %s", kindOf(name))
		}
		if apply = itemFilters[plain(name.AsString())]; apply == nil {
			return fail("map by unknown filter %.40q", plain(name.AsString()))
		}
	}
	out := make([]jinja.Value, 0, len(items))
	for _, v := range items {
		if apply != nil {
			v, err = apply(b, args{pos: append([]jinja.Value{v}, a.pos[2:]...)})
		} else if v, err = item(b, args{pos: []jinja.Value{v, attr}}); v.IsUndefined() {
			v = a.named["default"]
		}
		if err != nil {
			return jinja.Undefined(), err
		}
		out = append(out, v)
	}
	return jinja.NewList(out), nil
}

// itemFilters are the filters that map can apply.
var itemFilters = map[string]function{
	"trim": textFilter("strip"), "upper": textFilter("upper"), "lower": textFilter("lower"),
	"capitalize": textFilter("capitalize"), "title": textFilter("title"), "string": out,
	"tojson": toJSON, "int": toInt, "float": toFloat, "length": length, "first": edge(0), "last": edge(-1),
}
