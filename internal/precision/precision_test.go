package precision

import (
	"errors"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/shoal-llm/shoal/internal/golden"
	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/compute/cpu"
)

// TestChooseIsBest holds the choice against all others, for units of a few options.
func TestChooseIsBest(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		units := make([]Unit, 1+rng.IntN(5))
		var fewest, most uint64
		for i := range units {
			bytes, kl := uint64(400+rng.IntN(400)), rng.Float64()/100
			units[i].Rules = []string{string(rune('0'+i)) + ".attn_q"}
			for _, p := range []string{"int8", "int4", "int3", "int2"} {
				units[i].Options = append(units[i].Options, Option{p, bytes, kl})
				bytes, kl = bytes*2/3, kl*(1+4*rng.Float64())
			}
			fewest, most = fewest+units[i].Options[3].Bytes, most+units[i].Options[0].Bytes
		}
		budget := fewest + rng.Uint64N(most-fewest+100)
		got, err := Choose(units, budget)
		if err != nil {
			t.Fatal(err)
		}
		best := math.Inf(1)
		var all func(i int, bytes uint64, kl float64)
		all = func(i int, bytes uint64, kl float64) {
			switch {
			case bytes > budget:
			case i == len(units):
				best = min(best, kl)
			default:
				for _, o := range units[i].Options {
					all(i+1, bytes+o.Bytes, kl+o.KL)
				}
			}
		}
		all(0, 0, 0)
		if got.Bytes > budget || math.Abs(got.KL-best) > 1e-12 {
			t.Fatalf("%d of %d bytes, divergence %g, best %g", got.Bytes, budget, got.KL, best)
		}
		if _, err := Choose(units, fewest-1); !errors.Is(err, ErrBudget) {
			t.Fatalf("too little: %v", err)
		}
	}
}

// small opens a model of the reference data and a device.
func small(t *testing.T) (*library.Model, compute.Backend) {
	t.Helper()
	m, err := library.Library{}.Open(filepath.Join(golden.Dir(t), "models", "llama", "model-f16.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	be, err := cpu.Open(cpu.Config{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { be.Close() })
	return m, be
}

// TestMeasuredUnits: units cover each matrix once; the exact model diverges from itself
// by nothing, and fewer bits do more; what is chosen for the bytes of one precision is
// predicted to do no more than that precision, fits them, and holds what it says.
func TestMeasuredUnits(t *testing.T) {
	m, be := small(t)
	words, err := Words(t.Context(), be, m, 0, 1, 7)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := Words(t.Context(), be, m, 0, 1, 7); err != nil || !slices.Equal(words[0], again[0]) {
		t.Errorf("a seed gives other words, %v", err)
	}
	exact, err := m.Felt(library.Recipe{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	judge, err := NewJudge(t.Context(), be, exact, words)
	if err != nil {
		t.Fatal(err)
	}
	if q, err := judge.Of(t.Context(), exact); err != nil || math.Abs(q[0].KL) > 1e-6 || q[0].Same != 1 || q[0].Perplexity != judge.Exact[0].Perplexity {
		t.Errorf("the exact model diverges from itself: %+v, %v", q, err)
	}
	units, err := Units(m)
	if err != nil {
		t.Fatal(err)
	}
	rules := map[string]bool{}
	for _, u := range units {
		for _, r := range u.Rules {
			if rules[r] {
				t.Errorf("%s is in two units", r)
			}
			rules[r] = true
		}
	}
	if held := m.Held(library.Recipe{}); len(held) != len(rules) {
		t.Errorf("%d rules for %d matrices", len(rules), len(held))
	}
	if err := Measure(t.Context(), judge, m, nil, units, func(int, int) {}); err != nil {
		t.Fatal(err)
	}
	var uniform Choice
	for _, u := range units {
		first, last := u.Options[0], u.Options[len(u.Options)-1]
		if last.KL < 4*first.KL || last.KL <= 0 || last.Bytes >= first.Bytes {
			t.Errorf("%s: %+v", strings.Join(u.Rules, ", "), u.Options)
		}
		at := slices.IndexFunc(u.Options, func(o Option) bool { return o.Precision == "int4" })
		uniform.Bytes, uniform.KL = uniform.Bytes+u.Options[at].Bytes, uniform.KL+u.Options[at].KL
	}
	choice, err := Choose(units, uniform.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	var bytes uint64
	for _, n := range m.Held(choice.Recipe) {
		bytes += n
	}
	if choice.KL > uniform.KL || choice.Bytes > uniform.Bytes || bytes != choice.Bytes {
		t.Errorf("chosen %d bytes, held %d, divergence %g; int4 alone %d, %g", choice.Bytes, bytes, choice.KL, uniform.Bytes, uniform.KL)
	}
	if again, err := library.ParseRecipe(choice.Recipe.String()); err != nil || again.String() != choice.Recipe.String() {
		t.Errorf("%s is read as %s, %v", choice.Recipe, again, err)
	}
}

// TestImportance: matrices that are multiplied by the same values have one importance,
// with a mean of 1; others have others.
func TestImportance(t *testing.T) {
	m, be := small(t)
	ids := make([]int32, Length)
	for i := range ids {
		ids[i] = int32(i*7%200 + 1)
	}
	imp, err := Importance(t.Context(), be, m, [][]int32{ids})
	if err != nil {
		t.Fatal(err)
	}
	q, k, up := imp["blk.1.attn_q.weight"], imp["blk.1.attn_k.weight"], imp["blk.1.ffn_up.weight"]
	if !slices.Equal(q, k) || slices.Equal(q, up) || len(q) != m.Spec.Hidden {
		t.Errorf("queries %d, keys %d, up %d values", len(q), len(k), len(up))
	}
	var mean float64
	for _, v := range q {
		mean += float64(v) / float64(len(q))
	}
	if math.Abs(mean-1) > 0.01 {
		t.Errorf("a mean of %g", mean)
	}
	if Cut(ids[1:], 3) != nil || len(Cut(append(ids, ids...), 1)) != 1 {
		t.Error("sequences are not cut as asked for")
	}
}

// TestTiedHeadIsCounted: what is chosen takes the bytes that were counted, where the
// embedding is the head too.
func TestTiedHeadIsCounted(t *testing.T) {
	m, err := library.Library{}.Open(library.Default)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if !m.Spec.TiedHead {
		t.Fatal("the model has a head of its own, which proves nothing")
	}
	units, err := Units(m)
	if err != nil {
		t.Fatal(err)
	}
	for _, budget := range []uint64{2_600_000, 3_200_000, 5_000_000} {
		c, err := Choose(units, budget)
		if err != nil {
			t.Fatal(err)
		}
		var held uint64
		for _, n := range m.Held(c.Recipe) {
			held += n
		}
		if held != c.Bytes || held > budget {
			t.Errorf("budget %d: %d bytes are counted, %d held: %s", budget, c.Bytes, held, c.Recipe)
		}
	}
}
