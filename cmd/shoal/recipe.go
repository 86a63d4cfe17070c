package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/pflag"

	"github.com/shoal-llm/shoal/internal/library"
)

// recipeFlag is the flag that says how weights are rounded as they are loaded.
type recipeFlag struct{ library.Recipe }

var _ pflag.Value = (*recipeFlag)(nil)

func (r *recipeFlag) flags(f *pflag.FlagSet) {
	f.Var(r, "quantize", "round weights as they are loaded: int8, int6, int5, int4, int3 or int2, also with rules, like int4,embedding=int8,attention=int3,0.feedforward=int5; empty leaves them as they are")
}

// Set reads the flag.
func (r *recipeFlag) Set(s string) (err error) {
	if s == library.Adaptive {
		return errors.New("what each part of a model bears is measured ahead: `shoal quantize --precision adaptive --budget SIZE` writes the file to serve, or name precisions by rules")
	}
	if r.Recipe = (library.Recipe{}); s == "" {
		return nil
	}
	r.Recipe, err = library.ParseRecipe(s)
	return err
}

// Type names the flag's values for help.
func (r *recipeFlag) Type() string { return "precision" }

// apply rounds a model, and says on out what speaks against its precision.
func (r *recipeFlag) apply(m *library.Model, out io.Writer) (*library.Model, error) {
	if !r.IsZero() {
		rounded, err := m.Rounded(r.Recipe, nil)
		if err != nil {
			return m, err
		}
		m = rounded
	}
	if w := m.Warning(); w != "" {
		fmt.Fprintf(out, "warning: %s\n", w)
	}
	return m, nil
}
