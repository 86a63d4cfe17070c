package kv

import (
	"fmt"
	"testing"

	"github.com/shoal-llm/shoal/pkg/frame"
)

// TestStepsOutliveLaterFrames: a device may still read the tables of the last
// compute.MaxPasses steps.
func TestStepsOutliveLaterFrames(t *testing.T) {
	log := NewLog(Config{Pages: 8, Slots: 1, Rows: 64, Context: 512})
	var kept []*Step
	for i := range 5 {
		f := &frame.Frame{Step: log.Next(), Spans: []frame.Span{{Start: int32(64 * i), Tokens: make([]int32, 64)}}}
		if i == 0 {
			f.Ops = []frame.Op{{Open: &frame.Open{}}}
		}
		step, err := log.Apply(f)
		if err != nil {
			t.Fatal(err)
		}
		kept = append(kept, step)
	}
	for i, step := range kept {
		if got := step.Spans[0]; got.Start != 64*i || len(got.Pages) != i+1 {
			t.Errorf("step %d now reads %+v", i+1, got)
		}
	}
}

// TestSteadyStateDoesNotAllocate: a decode step within pages costs no memory.
func TestSteadyStateDoesNotAllocate(t *testing.T) {
	log := NewLog(Config{Pages: 64, Slots: 1, Rows: 64, Context: 4096})
	f := &frame.Frame{Step: 1, Ops: []frame.Op{{Open: &frame.Open{}}}}
	if _, err := log.Apply(f); err != nil {
		t.Fatal(err)
	}
	f.Ops = nil
	f.Spans = []frame.Span{{Tokens: []int32{1}}}
	apply := func() {
		f.Step = log.Next()
		n, _ := log.Len(0, 0)
		f.Spans[0].Start = int32(n)
		if _, err := log.Apply(f); err != nil {
			t.Fatal(err)
		}
	}
	for range 1100 { // past the growth of the steps that are used again
		apply()
	}
	if n := testing.AllocsPerRun(50, apply); n > 0 {
		t.Errorf("%v allocations a step", n)
	}
}

// TestIdentitiesKeepDomainsApart: nothing that changes a page's contents or
// owner may leave its identity alone.
func TestIdentitiesKeepDomainsApart(t *testing.T) {
	seen := map[[32]byte]string{}
	for _, salt := range []string{"", "a", "ab"} {
		for _, adapter := range []string{"", "b", "ab"} {
			for _, class := range []frame.KVClass{{}, {Bits: 8}, {Bits: 8, GroupSize: 1}, {Bits: 8, GroupSize: 256}, {Progressive: true}} {
				name := fmt.Sprintf("%q %q %+v", salt, adapter, class)
				id := Root([]byte(salt), class, adapter)
				if other, ok := seen[id]; ok {
					t.Errorf("%s and %s have one identity", name, other)
				}
				seen[id] = name
			}
		}
	}
	ids := make([]int32, 128)
	for i := range ids {
		ids[i] = int32(i)
	}
	whole := Chain([32]byte{}, ids, nil)
	if len(whole) != 2 || whole[1] != Extend(whole[0], ids[64:]) {
		t.Errorf("chain of 128 ids is %x", whole)
	}
	ids[0]++
	if changed := Chain([32]byte{}, ids, nil); changed[0] == whole[0] || changed[1] == whole[1] {
		t.Error("a changed id left an identity alone")
	}
}

// TestPicturesAreOfTheName: pages with rows of pictures have the same ids and other
// identities, whichever rows of which picture lie where.
func TestPicturesAreOfTheName(t *testing.T) {
	ids := make([]int32, 3*PageTokens) // placeholders all
	seen := map[[32]byte]string{}
	for name, pictures := range map[string][]frame.Picture{
		"none":            nil,
		"a picture":       {{Start: 70, Count: 40, Hash: [32]byte{1}}},
		"another":         {{Start: 70, Count: 40, Hash: [32]byte{2}}},
		"one row later":   {{Start: 71, Count: 40, Hash: [32]byte{1}}},
		"one row less":    {{Start: 70, Count: 39, Hash: [32]byte{1}}},
		"from before":     {{Start: 30, Count: 80, Hash: [32]byte{1}}},
		"and another":     {{Start: 70, Count: 10, Hash: [32]byte{1}}, {Start: 80, Count: 30, Hash: [32]byte{2}}},
		"the other round": {{Start: 70, Count: 10, Hash: [32]byte{2}}, {Start: 80, Count: 30, Hash: [32]byte{1}}},
	} {
		chain := Chain([32]byte{}, ids, pictures)
		if other, ok := seen[chain[1]]; ok {
			t.Errorf("%s has the identity of %s", name, other)
		}
		seen[chain[1]] = name
		if plain := Chain([32]byte{}, ids, nil); name != "from before" && chain[0] != plain[0] {
			t.Errorf("%s changes the page before", name)
		}
		if chain[2] != Name(chain[1], ids, 2*PageTokens, nil) {
			t.Errorf("%s changes the page behind by more than what came before", name)
		}
	}
}
