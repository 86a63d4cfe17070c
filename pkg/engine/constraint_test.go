package engine_test

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/pkg/engine"
	"github.com/shoal-llm/shoal/pkg/frame"
	"github.com/shoal-llm/shoal/pkg/grammar"
	"github.com/shoal-llm/shoal/pkg/sample"
	"github.com/shoal-llm/shoal/pkg/token"
)

// person is a schema with everything that needs an end.
const person = `{"type":"object","properties":{"name":{"type":"string","maxLength":12},
	"age":{"type":"integer","minimum":0,"maximum":120},"tags":{"type":"array","items":{"enum":["a","b"]}}},"required":["name","age","tags"]}`

func compiled(t *testing.T, schema string) []byte {
	t.Helper()
	g, err := grammar.Compile([]byte(schema))
	if err != nil {
		t.Fatal(err)
	}
	return g.Bytes()
}

// spelled is a rig that can constrain, with its vocabulary.
func spelled(t *testing.T) (*rig, *token.Vocab) {
	t.Helper()
	m, err := library.Library{}.Open("tiny")
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	v, err := m.Vocab()
	if err != nil {
		t.Fatal(err)
	}
	spelling, err := m.Spelling()
	if err != nil {
		t.Fatal(err)
	}
	return newRig(t, engine.Config{Vocabulary: spelling}), v
}

func TestAnswersFollowTheirGrammar(t *testing.T) {
	r, v := spelled(t)
	for seed := range uint64(12) {
		spec := sample.Spec{Temperature: 1, Seed: seed, MaxTokens: 80, Stop: []int32{2}, LogProbs: true, TopLogProbs: 20}
		open := &frame.Open{Attempt: 1, Sampling: spec, Grammar: compiled(t, person)}
		var ids []int32
		var fin frame.Finish
		for s, err := range r.local.Generate(context.Background(), open, hello) {
			if err != nil {
				t.Fatal(err)
			}
			ids, fin = append(ids, s.IDs...), s.Finish
			for _, lp := range s.LogProbs {
				if _, err := json.Marshal(lp.Top); err != nil {
					t.Fatalf("alternatives %v: %v", lp.Top, err)
				}
			}
		}
		var doc struct {
			Name *string
			Age  *int
			Tags *[]string
		}
		text := v.Decode(ids)
		err := json.Unmarshal([]byte(text), &doc)
		if fin != frame.FinishStop || err != nil || doc.Name == nil || doc.Age == nil || *doc.Age > 120 || doc.Tags == nil {
			t.Errorf("seed %d: %v after %q: %v", seed, fin, text, err)
		}
	}
}

// TestDraftsFollowTheGrammar checks drafts of every quality against an answer
// without drafts.
func TestDraftsFollowTheGrammar(t *testing.T) {
	r, _ := spelled(t)
	r.grammar = compiled(t, person)
	spec := sample.Spec{Temperature: 1, Seed: 3, MaxTokens: 60, Stop: []int32{2}}
	want, _ := r.generate(spec, hello)
	for right := range 4 {
		if got := r.drafted(spec, want, right); !slices.Equal(got, want) {
			t.Errorf("with %d right drafts of 3 the answer is %v, want %v", right, got, want)
		}
	}
}

// TestBadGrammarsFailTheirSession opens sessions that cannot be constrained.
func TestBadGrammarsFailTheirSession(t *testing.T) {
	spelledRig, _ := spelled(t)
	good := compiled(t, `{}`)
	stop := sample.Spec{Stop: []int32{2}, MaxTokens: 9}
	for name, c := range map[string]struct {
		r     *rig
		bytes []byte
		spec  sample.Spec
		want  string
	}{
		"damaged":       {spelledRig, good[:20], stop, "invalid grammar"},
		"no vocabulary": {newRig(t, engine.Config{}), good, stop, "no vocabulary"},
		"no end":        {spelledRig, good, sample.Spec{MaxTokens: 9}, "no id to end with"},
	} {
		var failed error
		for _, err := range c.r.local.Generate(context.Background(), &frame.Open{Attempt: 1, Sampling: c.spec, Grammar: c.bytes}, hello) {
			failed = err
		}
		if failed == nil || !strings.Contains(failed.Error(), c.want) {
			t.Errorf("%s: %v", name, failed)
		}
	}
}
