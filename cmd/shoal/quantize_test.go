package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/shoal-llm/shoal/internal/library"
)

// TestQuantizeFlags: adaptive precision and a budget need each other; what is no
// precision, rule or size is refused by its flag.
func TestQuantizeFlags(t *testing.T) {
	for _, c := range []struct{ precision, budget, refused string }{
		{"int4", "", ""}, {"int4,attention=int3,0.ffn_down=int6", "", ""}, {"adaptive", "2.1GB", ""},
		{"adaptive", "", "--budget"}, {"int4", "1GB", "--budget"}, {"adaptive", "much", "--budget"},
		{"int7", "", "int7"}, {"int4,attention", "", "no rule"}, {"int4,attention=int3,attention=int2", "", "twice"},
		{"int4,heads=int3", "", "heads"}, {"int4,x.attn_q=int3", "", "no layer"}, {"int4,00.attn_q=int3", "", "no layer"}, {"int4,0.lmhead=int3", "", "lmhead"},
	} {
		o := quantizeOptions{precision: c.precision, budget: c.budget}
		_, _, err := o.complete()
		if (err == nil) != (c.refused == "") || err != nil && !strings.Contains(err.Error(), c.refused) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// TestQuantizeOnLoad: a recipe is applied; adaptive precision points at what makes it,
// and int2 of a small model warns and says what to take.
func TestQuantizeOnLoad(t *testing.T) {
	var flag recipeFlag
	if err := flag.Set("adaptive"); err == nil || !strings.Contains(err.Error(), "shoal quantize") {
		t.Errorf("adaptive: %v", err)
	}
	if err := flag.Set("int9"); !errors.Is(err, library.ErrPrecision) {
		t.Errorf("int9: %v", err)
	}
	for recipe, warns := range map[string]bool{"": false, "int3": false, "int2": true, "int2,feedforward=int4": false} {
		m, err := (library.Library{}).Open(library.Default)
		if err != nil {
			t.Fatal(err)
		}
		if err := flag.Set(recipe); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		rounded, err := flag.apply(m, &out)
		if err != nil {
			t.Fatal(err)
		}
		if got := rounded.Recipe().String(); got != recipe {
			t.Errorf("%q became %q", recipe, got)
		}
		if warns != strings.Contains(out.String(), "take int3") {
			t.Errorf("%q: %q", recipe, out.String())
		}
		if err := rounded.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
