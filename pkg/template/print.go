package template

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"

	"github.com/ardanlabs/jinja"
)

// kindOf names the type of a value for messages.
func kindOf(v jinja.Value) string {
	switch {
	case v.IsUndefined():
		return "an undefined value"
	case v.IsNone():
		return "none"
	case v.IsBool():
		return "a boolean"
	case v.IsNumber():
		return "a number"
	case v.IsString():
		return "a string"
	case v.IsList():
		return "a list"
	case v.IsDict():
		return "a dictionary"
	}
	return "a function"
}

// print returns the text of a value as Python's str gives it; that of an
// undefined value is empty.
func (b *budget) print(v jinja.Value) (string, error) {
	switch {
	case v.IsString():
		return v.AsString(), nil
	case v.IsUndefined():
		return "", nil
	}
	w := writer{budget: b}
	err := w.repr(v, 0)
	return w.String(), err
}

// writer builds text under the budget.
type writer struct {
	*budget
	strings.Builder
	indent    string // for JSON: one level, "" is on one line
	separator string // for JSON on one line
	colon     string
	ascii     bool
	sorted    bool
}

// put appends text that is one element of a value.
func (w *writer) put(s string) error {
	if err := w.alloc(len(s)); err != nil {
		return err
	}
	w.WriteString(s)
	return w.fits()
}

func (w *writer) fits() error {
	if w.Len() > 4*MaxString {
		return fmt.Errorf("%w: string over %d characters", ErrBudget, MaxString)
	}
	return nil
}

func tooDeep(depth int) error {
	if depth > maxNested {
		return fmt.Errorf("%w: values nested more than %d deep", ErrBudget, maxNested)
	}
	return nil
}

// repr writes a value as Python's repr does.
func (w *writer) repr(v jinja.Value, depth int) error {
	if err := tooDeep(depth); err != nil {
		return err
	}
	switch {
	case v.IsString():
		return w.put(reprString(v.AsString()))
	case v.IsList():
		return w.sequence("[", "]", v.AsList().Len(), func(i int) error { return w.repr(v.AsList().Get(i), depth+1) })
	case v.IsDict():
		d := v.AsDict()
		return w.sequence("{", "}", d.Len(), func(i int) error {
			if err := w.put(reprString(d.Keys[i]) + ": "); err != nil {
				return err
			}
			return w.repr(d.Data[d.Keys[i]], depth+1)
		})
	}
	return w.put(scalar(v))
}

func (w *writer) sequence(open, end string, n int, element func(int) error) error {
	if err := w.put(open); err != nil {
		return err
	}
	for i := range n {
		if i > 0 {
			w.WriteString(", ")
		}
		if err := element(i); err != nil {
			return err
		}
	}
	return w.put(end)
}

// scalar returns the text of a value without parts that is no string.
func scalar(v jinja.Value) string {
	switch {
	case v.IsBool() && v.AsBool():
		return "True"
	case v.IsBool():
		return "False"
	case v.IsInt():
		return strconv.FormatInt(v.AsInt(), 10)
	case v.IsFloat():
		return floatText(v.AsFloat(), "inf", "nan")
	case v.IsNone():
		return "None"
	}
	return ""
}

// floatText writes a float as Python does: the shortest text that reads back, with
// a fraction or an exponent.
func floatText(f float64, inf, nan string) string {
	switch {
	case math.IsNaN(f):
		return nan
	case math.IsInf(f, 1):
		return inf
	case math.IsInf(f, -1):
		return "-" + inf
	}
	if a := math.Abs(f); a != 0 && (a < 1e-4 || a >= 1e16) {
		return strconv.FormatFloat(f, 'e', -1, 64)
	}
	s := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

// reprString quotes a string as Python does; marked runes stay marked.
func reprString(s string) string {
	q := '\''
	if text := plain(s); strings.Contains(text, "'") && !strings.Contains(text, `"`) {
		q = '"'
	}
	var out strings.Builder
	out.WriteRune(q)
	for _, r := range s {
		switch c := unmarkRune(r); {
		case c == q || c == '\\':
			out.WriteRune('\\')
			out.WriteRune(r)
		case c == '\n':
			out.WriteString(`\n`)
		case c == '\r':
			out.WriteString(`\r`)
		case c == '\t':
			out.WriteString(`\t`)
		case c < ' ' || c == 0x7f:
			fmt.Fprintf(&out, `\x%02x`, c)
		default:
			out.WriteRune(r)
		}
	}
	out.WriteRune(q)
	return out.String()
}

// toJSON is the filter that chat templates expect: json.dumps of Python with
// ensure_ascii off.
func toJSON(b *budget, a args) (jinja.Value, error) {
	w := writer{budget: b, separator: ", ", colon: ": "}
	if v := a.at(2, "indent"); v.IsInt() {
		if v.AsInt() < 0 || v.AsInt() > 16 {
			return fail("tojson with an indent of %d", v.AsInt())
		}
		w.indent = strings.Repeat(" ", int(v.AsInt()))
		w.separator = ","
	}
	if v := a.at(3, "separators"); v.IsList() && v.AsList().Len() == 2 {
		first, second := v.AsList().Get(0), v.AsList().Get(1)
		if !first.IsString() || !second.IsString() {
			return fail("tojson with separators that are no strings")
		}
		w.separator, w.colon = first.AsString(), second.AsString()
	}
	w.ascii = a.at(1, "ensure_ascii").IsTruthy()
	w.sorted = a.at(4, "sort_keys").IsTruthy()
	if err := w.json(a.at(0, ""), 0); err != nil {
		return jinja.Undefined(), err
	}
	return b.text(w.String())
}

func (w *writer) json(v jinja.Value, depth int) error {
	if err := tooDeep(depth); err != nil {
		return err
	}
	switch {
	case v.IsString():
		return w.put(jsonString(v.AsString(), w.ascii))
	case v.IsList():
		items := v.AsList().Items
		return w.elements("[", "]", len(items), depth, func(i int) error { return w.json(items[i], depth+1) })
	case v.IsDict():
		d := v.AsDict()
		keys := d.Keys
		if w.sorted {
			keys = slices.Sorted(slices.Values(keys))
		}
		return w.elements("{", "}", len(keys), depth, func(i int) error {
			if err := w.put(jsonString(keys[i], w.ascii) + w.colon); err != nil {
				return err
			}
			return w.json(d.Data[keys[i]], depth+1)
		})
	case v.IsNone():
		return w.put("null")
	case v.IsBool():
		return w.put(strings.ToLower(scalar(v)))
	case v.IsFloat():
		return w.put(floatText(v.AsFloat(), "Infinity", "NaN"))
	case v.IsInt():
		return w.put(scalar(v))
	}
	return fmt.Errorf("%w: %s is not JSON serializable", ErrTemplate, kindOf(v))
}

// elements writes the parts of a list or an object, on lines of their own if there
// is an indent.
func (w *writer) elements(open, end string, n, depth int, element func(int) error) error {
	if n == 0 {
		return w.put(open + end)
	}
	line := func(depth int) string {
		if w.indent == "" {
			return ""
		}
		return "\n" + strings.Repeat(w.indent, depth)
	}
	if err := w.put(open); err != nil {
		return err
	}
	for i := range n {
		if i > 0 {
			w.WriteString(w.separator)
		}
		if err := w.put(line(depth + 1)); err != nil {
			return err
		}
		if err := element(i); err != nil {
			return err
		}
	}
	return w.put(line(depth) + end)
}

// jsonString quotes a string; marked runes stay marked.
func jsonString(s string, ascii bool) string {
	var out strings.Builder
	out.WriteByte('"')
	for _, r := range s {
		c := unmarkRune(r)
		switch {
		case c == '"' || c == '\\':
			out.WriteByte('\\')
			out.WriteRune(r)
		case c == '\n':
			out.WriteString(`\n`)
		case c == '\r':
			out.WriteString(`\r`)
		case c == '\t':
			out.WriteString(`\t`)
		case c == '\b':
			out.WriteString(`\b`)
		case c == '\f':
			out.WriteString(`\f`)
		case c < ' ':
			fmt.Fprintf(&out, `\u%04x`, c)
		case ascii && c > 0xFFFF:
			high, low := utf16.EncodeRune(c)
			fmt.Fprintf(&out, `\u%04x\u%04x`, high, low)
		case ascii && c > 0x7F:
			fmt.Fprintf(&out, `\u%04x`, c)
		default:
			out.WriteRune(r)
		}
	}
	out.WriteByte('"')
	return out.String()
}
