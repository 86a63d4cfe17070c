//go:build !race

// Under the race detector pools of the runtime forget at random, so that what is
// counted here has no meaning.

package engine_test

import (
	"fmt"
	"testing"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/sample"
)

// specs are ways to sample.
var specs = map[string]sample.Spec{
	"greedy":      {},
	"temperature": {Temperature: 0.8, Seed: 7},
	"truncated":   {Temperature: 0.8, TopK: 40, TopP: 0.9, MinP: 0.02, Seed: 7},
	"penalties":   {Temperature: 0.8, RepetitionPenalty: 1.1, PenaltyWindow: 32, FrequencyPenalty: 0.2, Bias: []sample.Bias{{ID: 5, Value: -1}}},
	"logprobs":    {Temperature: 0.8, LogProbs: true, TopLogProbs: 5},
}

// TestDecodeDoesNotAllocate: a token costs no memory, on no stage and for no way
// of sampling but by a grammar, whose automaton grows as answers reach new states.
func TestDecodeDoesNotAllocate(t *testing.T) {
	for name, part := range parts {
		for way, spec := range specs {
			if !part.Head && way != "greedy" {
				continue // it does not sample
			}
			for _, n := range []int{1, 4} {
				t.Run(fmt.Sprintf("%s/%s/%d", name, way, n), func(t *testing.T) {
					d := newDecoder(t, part, n, spec)
					for range 2 * compute.MaxPasses { // every buffer has grown
						d.step()
					}
					if got := testing.AllocsPerRun(60, func() { d.step() }); got != 0 {
						t.Errorf("%v allocations a step of %d tokens", got, n)
					}
				})
			}
		}
	}
}
