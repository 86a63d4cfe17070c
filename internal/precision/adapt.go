package precision

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/shoal-llm/shoal/internal/library"
)

// ErrBudget says that no precisions fit a budget.
var ErrBudget = errors.New("the budget is too small")

// Unit is matrices that get one precision, because they are of one kind and of
// neighbouring layers.
type Unit struct {
	Rules   []string // of a recipe, one for each matrix
	Options []Option // from the finest to the one with the fewest bits
}

// Option is a precision that a unit may have.
type Option struct {
	Precision string
	Bytes     uint64  // on a device
	KL        float64 // of a model in which this unit alone is rounded so
}

// bits is the number of bits of a value.
func (o Option) bits() int { return int(o.Precision[len(o.Precision)-1] - '0') }

// bands is into how many groups of neighbouring layers units are cut at most.
const bands = 8

// kinds are matrices that are rounded alike: they are multiplied by the same values.
var kinds = map[string]string{"attn_q": "attn_q, attn_k", "attn_k": "attn_q, attn_k", "ffn_gate": "ffn_gate, ffn_up", "ffn_up": "ffn_gate, ffn_up"}

// Units returns the parts of a model that may be rounded, with what they take, and
// nothing yet of what rounding does.
func Units(m *library.Model) ([]Unit, error) {
	type kind struct {
		band int
		name string
	}
	index := map[kind]int{}
	var units []Unit
	var matrices [][]string
	exact := m.Held(library.Recipe{})
	names := make([]string, 0, len(exact))
	for name := range exact {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		_, x := library.Rule(a)
		_, y := library.Rule(b)
		return cmp.Or(cmp.Compare(x, y), cmp.Compare(a, b))
	})
	per := (m.Spec.Layers + bands - 1) / bands
	for _, name := range names {
		rule, layer := library.Rule(name)
		if rule == "" {
			continue
		}
		k := kind{-1, rule}
		if layer >= 0 {
			_, matrix, _ := strings.Cut(rule, ".")
			k = kind{layer / per, cmp.Or(kinds[matrix], matrix)}
		}
		i, ok := index[k]
		if !ok {
			i = len(units)
			index[k] = i
			units, matrices = append(units, Unit{}), append(matrices, nil)
		}
		units[i].Rules = append(units[i].Rules, rule)
		if rule == "embedding" && m.Spec.TiedHead { // it is the head too, whose rule would hold else
			units[i].Rules = append(units[i].Rules, "lmhead")
		}
		matrices[i] = append(matrices[i], name)
	}
	for _, p := range library.Precisions() {
		for i := range units {
			r, err := units[i].recipe(p)
			if err != nil {
				return nil, err
			}
			held := m.Held(r)
			o := Option{Precision: p}
			for _, name := range matrices[i] {
				o.Bytes += held[name]
			}
			// What takes no less than a finer one has no use.
			if n := len(units[i].Options); n == 0 || o.Bytes < units[i].Options[n-1].Bytes {
				units[i].Options = append(units[i].Options, o)
			}
		}
	}
	return units, nil
}

// recipe rounds one unit and leaves the rest.
func (u *Unit) recipe(precision string) (r library.Recipe, err error) {
	for _, rule := range u.Rules {
		if err := r.Set(rule, precision); err != nil {
			return r, err
		}
	}
	return r, nil
}

// measured is the finest precision that is measured. What finer ones do is too little
// to be seen in a short text: a bit more halves errors, and the divergence goes with
// their squares.
const measured = 4

// Measure finds out what each option of each unit does by itself. Report is called
// before each; the model stays open.
func Measure(ctx context.Context, j *Judge, m *library.Model, imp library.Importance, units []Unit, report func(done, of int)) error {
	of, done := 0, 0
	for _, u := range units {
		for _, o := range u.Options {
			if o.bits() <= measured {
				of++
			}
		}
	}
	for i := range units {
		u := &units[i]
		for k := range slices.Backward(u.Options) { // the coarsest first
			if bits := u.Options[k].bits(); bits > measured && k+1 < len(u.Options) {
				coarser := u.Options[k+1]
				u.Options[k].KL = coarser.KL * math.Pow(4, float64(coarser.bits()-bits))
				continue
			}
			report(done, of)
			done++
			r, err := u.recipe(u.Options[k].Precision)
			if err != nil {
				return err
			}
			felt, err := m.Felt(r, imp)
			if err != nil {
				return err
			}
			q, err := j.Of(ctx, felt)
			if err != nil {
				return fmt.Errorf("round %s to %s: %w", strings.Join(u.Rules, ", "), u.Options[k].Precision, err)
			}
			u.Options[k].KL = max(q[0].KL, 0)
		}
	}
	return nil
}

// Choice is how bits are dealt out.
type Choice struct {
	Recipe library.Recipe
	Bytes  uint64  // of the units on a device
	KL     float64 // predicted: what the units do by themselves, added up
}

// steps is into how many parts a budget is cut: each unit's bytes are rounded up to
// whole ones.
const steps = 1 << 14

// Choose deals out bits so that the sum of divergences is least and the bytes fit the
// budget: an exact solution of the knapsack in which each unit takes one of its options.
// The error wraps ErrBudget and says what would fit.
func Choose(units []Unit, budget uint64) (Choice, error) {
	var fewest uint64
	for _, u := range units {
		fewest += u.Options[len(u.Options)-1].Bytes
	}
	// Only what goes beyond the fewest bytes is dealt out.
	if budget < fewest {
		return Choice{}, fmt.Errorf("%w: matrices take %d bytes at least, in %s", ErrBudget, fewest, library.Precisions()[len(library.Precisions())-1])
	}
	step := (budget-fewest)/steps + 1
	room := int((budget - fewest) / step)
	best := make([]float64, room+1)
	taken := make([][]uint8, len(units))
	for i, u := range units {
		next := make([]float64, room+1)
		taken[i] = make([]uint8, room+1)
		for at := range next {
			next[at] = math.Inf(1)
			for k, o := range u.Options {
				cost := int((o.Bytes - u.Options[len(u.Options)-1].Bytes + step - 1) / step)
				if cost > at {
					continue
				}
				if kl := best[at-cost] + o.KL; kl < next[at] {
					next[at], taken[i][at] = kl, uint8(k)
				}
			}
		}
		best = next
	}
	chosen := make([]Option, len(units))
	at := room
	for i, u := range slices.Backward(units) {
		chosen[i] = u.Options[taken[i][at]]
		at -= int((chosen[i].Bytes - u.Options[len(u.Options)-1].Bytes + step - 1) / step)
	}
	return choiceOf(units, chosen)
}

// choiceOf writes options as a recipe: the precision of most bytes, and rules for what
// has another.
func choiceOf(units []Unit, chosen []Option) (c Choice, err error) {
	bytes := map[string]uint64{}
	for i, o := range chosen {
		if strings.Contains(units[i].Rules[0], ".") {
			bytes[o.Precision] += o.Bytes
		}
		c.Bytes, c.KL = c.Bytes+o.Bytes, c.KL+o.KL
	}
	base := library.Precisions()[0]
	for _, p := range library.Precisions() {
		if bytes[p] > bytes[base] {
			base = p
		}
	}
	if c.Recipe, err = library.Uniform(base); err != nil {
		return c, err
	}
	for i, o := range chosen {
		for _, rule := range units[i].Rules {
			if o.Precision == base && strings.Contains(rule, ".") {
				continue
			}
			if err := c.Recipe.Set(rule, o.Precision); err != nil {
				return c, err
			}
		}
	}
	return c, nil
}
