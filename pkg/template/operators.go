package template

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/ardanlabs/jinja"
)

// concat is the operator ~.
func concat(b *budget, a args) (jinja.Value, error) {
	w := writer{budget: b}
	for _, v := range a.pos {
		s, err := b.print(v)
		if err != nil {
			return jinja.Undefined(), err
		}
		if err := w.put(s); err != nil {
			return jinja.Undefined(), err
		}
	}
	return jinja.NewString(w.String()), nil
}

// binary are the operators of arithmetic, with the types that Python allows.
func binary(b *budget, a args) (jinja.Value, error) {
	op, x, y := a.pos[0].AsString(), a.pos[1], a.pos[2]
	if x.IsBool() {
		x = number(x)
	}
	if y.IsBool() {
		y = number(y)
	}
	switch {
	case x.IsInt() && y.IsInt() && op != "/":
		return integers(op, x.AsInt(), y.AsInt())
	case x.IsNumber() && y.IsNumber():
		return floats(op, float(x), float(y))
	case op == "+" && x.IsString() && y.IsString():
		return concat(b, args{pos: []jinja.Value{x, y}})
	case op == "+" && x.IsList() && y.IsList():
		return b.list(slices.Concat(x.AsList().Items, y.AsList().Items))
	case op == "*" && x.IsInt():
		return repeat(b, y, x.AsInt())
	case op == "*" && y.IsInt():
		return repeat(b, x, y.AsInt())
	}
	return fail("%s %s %s", kindOf(x), op, kindOf(y))
}

// number returns a boolean as an integer.
func number(v jinja.Value) jinja.Value {
	if v.AsBool() {
		return jinja.NewInt(1)
	}
	return jinja.NewInt(0)
}

func float(v jinja.Value) float64 {
	if v.IsInt() {
		return float64(v.AsInt())
	}
	return v.AsFloat()
}

// integers calculates with integers of 64 bits; Python's are longer, so what
// would not fit is refused.
func integers(op string, x, y int64) (jinja.Value, error) {
	f, err := floats(op, float64(x), float64(y))
	if err != nil {
		return f, err
	}
	if v := f.AsFloat(); math.Abs(v) > 1<<62 || op == "**" && y < 0 {
		if op == "**" && y < 0 {
			return f, nil
		}
		return jinja.Undefined(), fmt.Errorf("%w: integer of more than 62 bits", ErrBudget)
	}
	switch op {
	case "+":
		return jinja.NewInt(x + y), nil
	case "-":
		return jinja.NewInt(x - y), nil
	case "*":
		return jinja.NewInt(x * y), nil
	case "**":
		power := int64(1)
		for range min(y, 64) { // beyond, only 0, 1 and -1 are left
			power *= x
		}
		if y > 64 && x == -1 && y%2 != 0 {
			power = -1
		}
		return jinja.NewInt(power), nil
	}
	quotient, rest := x/y, x%y
	if rest != 0 && (rest < 0) != (y < 0) { // Python rounds down
		quotient, rest = quotient-1, rest+y
	}
	if op == "%" {
		return jinja.NewInt(rest), nil
	}
	return jinja.NewInt(quotient), nil
}

func floats(op string, x, y float64) (jinja.Value, error) {
	if y == 0 && (op == "/" || op == "//" || op == "%") {
		return fail("division by zero")
	}
	var f float64
	switch op {
	case "+":
		f = x + y
	case "-":
		f = x - y
	case "*":
		f = x * y
	case "/":
		f = x / y
	case "//":
		f = math.Floor(x / y)
	case "%":
		f = x - y*math.Floor(x/y)
	case "**":
		f = math.Pow(x, y)
	}
	return jinja.NewFloat(f), nil
}

// repeat is the product of a string or a list and a number.
func repeat(b *budget, v jinja.Value, n int64) (jinja.Value, error) {
	n = max(n, 0)
	size := int64(1)
	switch {
	case v.IsString():
		size = int64(len(v.AsString()))
	case v.IsList():
		size = int64(v.AsList().Len())
	default:
		return fail("%s * a number", kindOf(v))
	}
	if size > 0 && n > 4*MaxString/size {
		return jinja.Undefined(), fmt.Errorf("%w: product of %d", ErrBudget, n)
	}
	if v.IsString() {
		if err := b.alloc(int(n * size)); err != nil {
			return jinja.Undefined(), err
		}
		return jinja.NewString(strings.Repeat(v.AsString(), int(n))), nil
	}
	if err := b.items(int(n * size)); err != nil {
		return jinja.Undefined(), err
	}
	return jinja.NewList(slices.Repeat(v.AsList().Items, int(n))), nil
}

// compare are the operators of comparison. Marks make no difference.
func compare(b *budget, a args) (jinja.Value, error) {
	op, x, y := a.pos[0].AsString(), a.pos[1], a.pos[2]
	var holds bool
	var err error
	switch op {
	case "==", "!=":
		holds, err = b.equal(x, y, 0)
	case "in", "not in":
		holds, err = b.contains(y, x)
	default:
		var order int
		order, err = b.order(x, y)
		holds = op == "<" && order < 0 || op == ">" && order > 0 || op == "<=" && order <= 0 || op == ">=" && order >= 0
	}
	if op == "!=" || op == "not in" {
		holds = !holds
	}
	return jinja.NewBool(holds), err
}

// chain is a chain of comparisons, a < b < c: operands and operators in turn.
func chain(b *budget, a args) (jinja.Value, error) {
	for i := 0; i+2 < len(a.pos); i += 2 {
		holds, err := compare(b, args{pos: []jinja.Value{a.pos[i+1], a.pos[i], a.pos[i+2]}})
		if err != nil || !holds.AsBool() {
			return holds, err
		}
	}
	return jinja.NewBool(true), nil
}

// plus is a chain of +: strings, the common case, are joined at once.
func plus(b *budget, a args) (jinja.Value, error) {
	if !slices.ContainsFunc(a.pos, func(v jinja.Value) bool { return !v.IsString() }) {
		return concat(b, a)
	}
	total, err := a.pos[0], error(nil)
	for _, v := range a.pos[1:] {
		if total, err = binary(b, args{pos: []jinja.Value{jinja.NewString("+"), total, v}}); err != nil {
			return total, err
		}
	}
	return total, nil
}

// equal compares values deeply.
func (b *budget) equal(x, y jinja.Value, depth int) (bool, error) {
	if err := tooDeep(depth); err != nil {
		return false, err
	}
	if err := b.spend(1); err != nil {
		return false, err
	}
	switch {
	case x.IsString() && y.IsString():
		if err := errors.Join(b.read(x.AsString()), b.read(y.AsString())); err != nil {
			return false, err
		}
		return plain(x.AsString()) == plain(y.AsString()), nil
	case x.IsNumber() && y.IsNumber():
		return float(x) == float(y), nil
	case x.IsList() && y.IsList():
		return b.equalLists(x.AsList(), y.AsList(), depth)
	case x.IsDict() && y.IsDict():
		return b.equalDicts(x.AsDict(), y.AsDict(), depth)
	case x.IsCallable() || y.IsCallable():
		return false, nil
	}
	return x.Equals(y), nil // none, undefined, booleans, or of two types
}

func (b *budget) equalLists(x, y *jinja.List, depth int) (bool, error) {
	if x.Len() != y.Len() {
		return false, nil
	}
	for i := range x.Items {
		if same, err := b.equal(x.Items[i], y.Items[i], depth+1); err != nil || !same {
			return false, err
		}
	}
	return true, nil
}

func (b *budget) equalDicts(x, y *jinja.Dict, depth int) (bool, error) {
	if x.Len() != y.Len() {
		return false, nil
	}
	for _, k := range x.Keys {
		other, ok := y.Get(k)
		if !ok {
			return false, nil
		}
		if same, err := b.equal(x.Data[k], other, depth+1); err != nil || !same {
			return false, err
		}
	}
	return true, nil
}

// contains is the operator in.
func (b *budget) contains(container, v jinja.Value) (bool, error) {
	switch {
	case container.IsString() && v.IsString():
		if err := errors.Join(b.read(container.AsString()), b.read(v.AsString())); err != nil {
			return false, err
		}
		return strings.Contains(plain(container.AsString()), plain(v.AsString())), nil
	case container.IsDict():
		_, ok, err := b.lookup(container, v)
		return ok, err
	case container.IsList():
		for _, item := range container.AsList().Items {
			if same, err := b.equal(item, v, 0); err != nil || same {
				return same, err
			}
		}
		return false, nil
	case container.IsUndefined():
		return false, nil
	}
	return false, fmt.Errorf("%w: %s in %s", ErrTemplate, kindOf(v), kindOf(container))
}

// order compares numbers or strings.
func (b *budget) order(x, y jinja.Value) (int, error) {
	switch {
	case x.IsNumber() && y.IsNumber():
		return cmp.Compare(float(x), float(y)), nil
	case x.IsString() && y.IsString():
		if err := errors.Join(b.read(x.AsString()), b.read(y.AsString())); err != nil {
			return 0, err
		}
		return strings.Compare(plain(x.AsString()), plain(y.AsString())), nil
	}
	return 0, fmt.Errorf("%w: %s cannot be ordered with %s", ErrTemplate, kindOf(x), kindOf(y))
}
