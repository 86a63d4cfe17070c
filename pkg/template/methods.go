package template

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/ardanlabs/jinja"
)

// method calls object.name(...): a value of a dictionary that is a function, or
// one of the methods of Python.
func method(b *budget, a args) (jinja.Value, error) {
	name, object := a.pos[0].AsString(), a.pos[1]
	rest := args{a.pos[2:], a.named}
	switch {
	case object.IsString():
		return stringMethod(b, name, object.AsString(), rest)
	case object.IsList() && name == "append" && len(rest.pos) == 1:
		return appendTo(b, object.AsList(), rest.pos[0])
	case object.IsDict():
		if v, ok := object.AsDict().Get(name); ok && v.IsCallable() {
			return v.AsCallable().Fn(rest.pos, rest.named)
		}
		return dictMethod(b, name, object, rest)
	}
	return fail("%s has no method %s", kindOf(object), name)
}

// appendTo adds an item to a list in place.
func appendTo(b *budget, list *jinja.List, v jinja.Value) (jinja.Value, error) {
	if list.Len() >= MaxRange {
		return jinja.Undefined(), fmt.Errorf("%w: list of more than %d items", ErrBudget, MaxRange)
	}
	list.Append(v)
	return jinja.None(), b.items(1)
}

func dictMethod(b *budget, name string, object jinja.Value, a args) (jinja.Value, error) {
	d := object.AsDict()
	switch name {
	case "get":
		v, ok, err := b.lookup(object, a.at(0, "key"))
		if err != nil || ok {
			return v, err
		}
		if v = a.at(1, "default"); v.IsUndefined() {
			v = jinja.None()
		}
		return v, nil
	case "items":
		return pairs(b, object)
	case "keys", "values":
		items := make([]jinja.Value, 0, d.Len())
		for _, k := range d.Keys {
			if name == "keys" {
				items = append(items, jinja.NewString(k))
			} else {
				items = append(items, d.Data[k])
			}
		}
		return b.list(items)
	case "update":
		return update(b, d, a.at(0, ""))
	}
	return fail("a dictionary has no method %s", name)
}

// update adds the entries of another dictionary in place.
func update(b *budget, d *jinja.Dict, other jinja.Value) (jinja.Value, error) {
	if !other.IsDict() {
		return fail("update of a dictionary by %s", kindOf(other))
	}
	if d.Len()+other.AsDict().Len() > MaxRange {
		return jinja.Undefined(), fmt.Errorf("%w: dictionary of more than %d entries", ErrBudget, MaxRange)
	}
	for _, k := range other.AsDict().OrderedKeys() {
		d.Set(k, other.AsDict().Data[k])
	}
	return jinja.None(), b.items(other.AsDict().Len())
}

// pairs returns the keys and values of a dictionary.
func pairs(b *budget, v jinja.Value) (jinja.Value, error) {
	d := v.AsDict()
	items := make([]jinja.Value, 0, d.Len())
	for _, k := range d.Keys {
		items = append(items, jinja.NewList([]jinja.Value{jinja.NewString(k), d.Data[k]}))
	}
	return b.list(items)
}

func stringMethod(b *budget, name, s string, a args) (jinja.Value, error) {
	cost := len(s)
	for _, v := range a.pos {
		if v.IsString() {
			cost += len(v.AsString())
		}
	}
	if err := b.spend(1 + cost>>5); err != nil {
		return jinja.Undefined(), err
	}
	switch name {
	case "strip", "lstrip", "rstrip":
		return strip(b, name, s, a)
	case "split", "rsplit":
		return split(b, name, s, a)
	case "splitlines":
		return splitLines(b, s)
	case "replace":
		return replace(b, s, a)
	case "join":
		return join(b, args{pos: []jinja.Value{a.at(0, ""), jinja.NewString(s)}})
	case "upper":
		return b.text(mapPlain(s, unicode.ToUpper))
	case "lower":
		return b.text(mapPlain(s, unicode.ToLower))
	case "capitalize":
		return b.text(capitalize(s))
	case "title":
		return b.text(title(s))
	case "startswith", "endswith", "find", "count", "index":
		return search(name, s, a)
	case "isdigit", "isalpha", "isupper", "islower", "isspace":
		return jinja.NewBool(allRunes(plain(s), runeTests[name])), nil
	}
	return fail("a string has no method %s", name)
}

var runeTests = map[string]func(rune) bool{
	"isdigit": unicode.IsDigit, "isalpha": unicode.IsLetter, "isupper": unicode.IsUpper,
	"islower": unicode.IsLower, "isspace": unicode.IsSpace,
}

func allRunes(s string, test func(rune) bool) bool {
	for _, r := range s {
		if !test(r) {
			return false
		}
	}
	return s != ""
}

// textArg returns a string argument without marks.
func textArg(a args, i int, name string) (string, error) {
	v := a.at(i, name)
	if !v.IsString() {
		return "", fmt.Errorf("%w: %s where a string is needed", ErrTemplate, kindOf(v))
	}
	return plain(v.AsString()), nil
}

// isSpace reports what Python strips by default.
func isSpace(r rune) bool { return unicode.IsSpace(r) || r >= 0x1C && r <= 0x1F }

func strip(b *budget, name, s string, a args) (jinja.Value, error) {
	drop := isSpace
	if v := a.at(0, "chars"); !v.IsUndefined() && !v.IsNone() {
		chars, err := textArg(a, 0, "chars")
		if err != nil {
			return jinja.Undefined(), err
		}
		drop = func(r rune) bool { return strings.ContainsRune(chars, r) }
		if err := b.spend(len(s) * len(chars) >> 6); err != nil {
			return jinja.Undefined(), err
		}
	}
	test := func(r rune) bool { return drop(unmarkRune(r)) }
	if name != "rstrip" {
		s = strings.TrimLeftFunc(s, test)
	}
	if name != "lstrip" {
		s = strings.TrimRightFunc(s, test)
	}
	return b.text(s)
}

func split(b *budget, name, s string, a args) (jinja.Value, error) {
	n := -1
	if v := a.at(1, "maxsplit"); v.IsInt() && v.AsInt() >= 0 {
		n = int(min(v.AsInt(), MaxRange)) + 1
	}
	sep := a.at(0, "sep")
	var parts []string
	switch {
	case sep.IsUndefined() || sep.IsNone():
		if n >= 0 {
			return fail("%s of white space with a limit", name)
		}
		parts = strings.FieldsFunc(s, func(r rune) bool { return isSpace(unmarkRune(r)) })
	case !sep.IsString() || sep.AsString() == "":
		return fail("%s by %s", name, kindOf(sep))
	case name == "rsplit" && n >= 0:
		parts = cut(s, sep.AsString(), -1)
		for len(parts) > n { // join again from the left
			parts = append([]string{parts[0] + sep.AsString() + parts[1]}, parts[2:]...)
			if err := b.alloc(len(parts[0])); err != nil {
				return jinja.Undefined(), err
			}
		}
	default:
		parts = cut(s, sep.AsString(), n)
	}
	return b.strings(parts)
}

// splitLines splits without the line breaks; the last one ends no empty line.
func splitLines(b *budget, s string) (jinja.Value, error) {
	if s == "" {
		return jinja.NewList(nil), nil
	}
	lines := cut(s, "\n", -1)
	if lines[len(lines)-1] == "" {
		lines = lines[:len(lines)-1]
	}
	return b.strings(lines)
}

// strings returns parts of a string as a list.
func (b *budget) strings(parts []string) (jinja.Value, error) {
	items := make([]jinja.Value, len(parts))
	for i, p := range parts {
		items[i] = jinja.NewString(p)
	}
	return b.list(items)
}

func replace(b *budget, s string, a args) (jinja.Value, error) {
	old, err := textArg(a, 0, "old")
	if err != nil {
		return jinja.Undefined(), err
	}
	with := a.at(1, "new")
	if !with.IsString() || old == "" {
		return fail("replace of %q by %s", old, kindOf(with))
	}
	n := -1
	if v := a.at(2, "count"); v.IsInt() && v.AsInt() >= 0 {
		n = int(min(v.AsInt(), MaxRange)) + 1
	}
	parts := cut(s, old, n)
	if err := b.alloc(len(s) + (len(parts)-1)*len(with.AsString())); err != nil {
		return jinja.Undefined(), err
	}
	return jinja.NewString(strings.Join(parts, with.AsString())), nil
}

func search(name, s string, a args) (jinja.Value, error) {
	s = plain(s)
	what := a.at(0, "")
	if what.IsList() && (name == "startswith" || name == "endswith") {
		for _, v := range what.AsList().Items {
			if hit, err := search(name, s, args{pos: []jinja.Value{v}}); err != nil || hit.IsTruthy() {
				return hit, err
			}
		}
		return jinja.NewBool(false), nil
	}
	text, err := textArg(a, 0, "")
	if err != nil {
		return jinja.Undefined(), err
	}
	switch name {
	case "startswith":
		return jinja.NewBool(strings.HasPrefix(s, text)), nil
	case "endswith":
		return jinja.NewBool(strings.HasSuffix(s, text)), nil
	case "count":
		return jinja.NewInt(int64(strings.Count(s, text))), nil
	}
	i := strings.Index(s, text)
	switch {
	case i >= 0:
		i = utf8.RuneCountInString(s[:i])
	case name == "index":
		return fail("substring not found")
	}
	return jinja.NewInt(int64(i)), nil
}

// capitalize raises the first rune and lowers the others.
func capitalize(s string) string {
	first := true
	return mapPlain(s, func(r rune) rune {
		if first {
			first = false
			return unicode.ToUpper(r)
		}
		return unicode.ToLower(r)
	})
}

// title raises the first letter of every word and lowers the others.
func title(s string) string {
	inWord := false
	return mapPlain(s, func(r rune) rune {
		was := inWord
		if inWord = unicode.IsLetter(r); inWord && !was {
			return unicode.ToTitle(r)
		}
		return unicode.ToLower(r)
	})
}
