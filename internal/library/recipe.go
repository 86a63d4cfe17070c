package library

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/quant/formats"
)

// ErrPrecision says that weights are not held in a precision, or not so.
var ErrPrecision = errors.New("no such precision of weights")

// Adaptive is the precision of a model whose parts have several.
const Adaptive = "adaptive"

// Precisions are those that weights can be rounded to, the finest first.
func Precisions() []string { return []string{"int8", "int6", "int5", "int4", "int3", "int2"} }

// Components are the parts of a model that a recipe names. The embedding of most
// small models is the head too: it then has the finer precision of both.
func Components() []string { return []string{"embedding", "attention", "feedforward", "lmhead"} }

// Recipe says in which precision each matrix is held: a precision for all, and others
// for components, for those of one layer, or for one matrix of a layer. Written as
//
//	int4
//	int4,embedding=int8,attention=int3
//	int3,0.attention=int5,7.ffn_down=int4
//
// The most special rule holds. Where neither the embedding nor the head is named they
// are finer than the rest: every token goes through them, and few bits cost more there
// than anywhere else. Vectors, and routers, which choose among experts by small
// differences, stay as they are. The zero value leaves a model as it is.
type Recipe struct {
	base  string
	rules map[string]string // precisions by component, LAYER.component or LAYER.matrix
}

// Uniform is the recipe of one precision.
func Uniform(precision string) (Recipe, error) { return ParseRecipe(precision) }

// ParseRecipe reads a recipe. The error wraps ErrPrecision.
func ParseRecipe(s string) (Recipe, error) {
	base, rest, more := strings.Cut(s, ",")
	r := Recipe{base: base}
	if err := checkPrecision(base); err != nil || !more {
		return r, err
	}
	for rule := range strings.SplitSeq(rest, ",") {
		key, precision, ok := strings.Cut(rule, "=")
		if !ok {
			return r, fmt.Errorf("%w: %q is no rule: write attention=int3, 0.attention=int5 or 7.ffn_down=int4", ErrPrecision, rule)
		}
		if err := r.Set(key, precision); err != nil {
			return r, err
		}
	}
	return r, nil
}

// Set adds a rule. Of a recipe without a precision for all, what no rule names stays
// as it is. The error wraps ErrPrecision.
func (r *Recipe) Set(key, precision string) error {
	if err := checkPrecision(precision); err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	what := key
	if layer, rest, ok := strings.Cut(key, "."); ok {
		if n, err := strconv.Atoi(layer); err != nil || n < 0 || n >= 1<<16 || strconv.Itoa(n) != layer {
			return fmt.Errorf("%w: %q is no layer", ErrPrecision, layer)
		}
		what = rest
	}
	known := slices.Contains(Components(), what)
	if what != key {
		known = what == "attention" || what == "feedforward" || strings.HasPrefix(what, "attn_") || strings.HasPrefix(what, "ffn_")
	}
	if !known || len(key) > 64 {
		return fmt.Errorf("%w: %q is none of %s, nor one of a layer's", ErrPrecision, key, strings.Join(Components(), ", "))
	}
	if _, twice := r.rules[key]; twice {
		return fmt.Errorf("%w: %s is named twice", ErrPrecision, key)
	}
	if r.rules == nil {
		r.rules = map[string]string{}
	}
	r.rules[key] = precision
	return nil
}

func checkPrecision(p string) error {
	if !slices.Contains(Precisions(), p) {
		return fmt.Errorf("%w: %q; there are %s", ErrPrecision, p, strings.Join(Precisions(), ", "))
	}
	return nil
}

// String is the recipe as ParseRecipe reads it, the same for the same recipe. That of
// a model as it is is empty.
func (r Recipe) String() string {
	var b strings.Builder
	b.WriteString(r.base)
	for _, key := range slices.Sorted(maps.Keys(r.rules)) {
		b.WriteString("," + key + "=" + r.rules[key])
	}
	return b.String()
}

// IsZero reports whether the recipe leaves a model as it is.
func (r Recipe) IsZero() bool { return r.base == "" && len(r.rules) == 0 }

// Precision is what a model of this recipe is called: of one precision by its name,
// else adaptive.
func (r Recipe) Precision() string {
	if len(r.rules) > 0 {
		return Adaptive
	}
	return r.base
}

// routers choose among experts by small differences: they stay as they are.
const routers = "ffn_gate_inp"

const (
	embedding = "token_embd.weight"
	head      = "output.weight"
)

// of returns the precision that a matrix is to have.
func (r Recipe) of(name string, tied bool) string {
	switch {
	case name == embedding && tied:
		e, h := r.end("embedding"), r.end("lmhead")
		if all := Precisions(); e == "" || h != "" && slices.Index(all, h) < slices.Index(all, e) {
			return h
		}
		return e
	case name == embedding:
		return r.end("embedding")
	case name == head:
		return r.end("lmhead")
	}
	layer, matrix, component := place(name)
	for _, key := range []string{layer + "." + matrix, layer + "." + component, component} {
		if p, ok := r.rules[key]; ok {
			return p
		}
	}
	return r.base
}

// end returns the precision of the embedding or the head.
func (r Recipe) end(component string) string {
	if p, ok := r.rules[component]; ok {
		return p
	}
	if r.base == "int8" || r.base == "" {
		return r.base
	}
	return "int6"
}

// place takes the name of a layer's matrix apart, blk.LAYER.MATRIX.weight.
func place(name string) (layer, matrix, component string) {
	rest, ok := strings.CutPrefix(name, "blk.")
	if !ok {
		return "", "", ""
	}
	layer, matrix, _ = strings.Cut(rest, ".")
	matrix = strings.TrimSuffix(matrix, ".weight")
	component = "attention"
	if strings.HasPrefix(matrix, "ffn_") {
		component = "feedforward"
	}
	return layer, matrix, component
}

// isMatrix reports whether a recipe may round a tensor.
func (t description) isMatrix() bool {
	named := t.name == embedding || t.name == head || strings.HasPrefix(t.name, "blk.")
	return named && t.rows > 1 && !strings.Contains(t.name, routers)
}

// formatFor returns the format that a tensor gets, and whether one of a finer
// precision than wished: its rows are not whole blocks of the precision's formats.
func (r Recipe) formatFor(t description, tied bool) (f quant.Format, finer bool) {
	if r.IsZero() || !t.isMatrix() {
		return t.format, false
	}
	all, wanted := Precisions(), r.of(t.name, tied)
	if wanted == "" {
		return t.format, false
	}
	at := slices.Index(all, wanted)
	for i := at; i >= 0; i-- {
		if t.format.Precision == all[i] {
			return t.format, i < at
		}
		f, ok := encoderOf(all[i], int(t.cols))
		if !ok {
			continue
		}
		if bits(f) >= bits(t.format) {
			return t.format, false
		}
		return f, i < at
	}
	return t.format, true
}

// bits is what a value of a format takes.
func bits(f quant.Format) float64 { return 8 * float64(f.BlockBytes) / float64(f.BlockElems) }

// encoderOf returns the format of a precision that is written, whose blocks divide
// rows of cols values, the one with the largest blocks: their scales take least.
func encoderOf(precision string, cols int) (best quant.Format, ok bool) {
	for _, f := range formats.All() {
		if f.Precision == precision && f.Encode != nil && cols%f.BlockElems == 0 && f.BlockElems > best.BlockElems {
			best, ok = f, true
		}
	}
	return best, ok
}
