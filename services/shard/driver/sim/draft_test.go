package sim

import (
	"testing"
	"time"
)

// TestDraftsPayOrStop: guesses of a draft model make one stream twice as fast where
// steps are long and rows cheap, and cost next to nothing where rows are dear, guesses
// bad or dear, or many streams share a step.
func TestDraftsPayOrStop(t *testing.T) {
	for _, p := range Profiles(4) {
		good := 2.0
		if p.Name == "compute-bound" { // a row costs what a step does
			good = 0.95
		}
		token := time.Duration(0)
		for i, d := range p.Devices {
			token += d.Fixed + d.Row + p.Links[i].Latency
		}
		for _, c := range []struct {
			name    string
			draft   Draft
			streams int
			least   float64
		}{
			{"good", Draft{Each: token / 20, Right: 0.8}, 1, good},
			{"bad", Draft{Each: token / 20, Right: 0.05}, 1, 0.95},
			{"as dear as the model", Draft{Each: token, Right: 0.9}, 1, 0.95},
			{"many streams", Draft{Each: token / 20, Right: 0.8}, 32, 0.95},
		} {
			times, err := Drafting(p, c.draft, c.streams)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%s, %s: %.2f", p.Name, c.name, times)
			if times < c.least {
				t.Errorf("%s, %s: %.3f times as fast as without, want %.2f or more", p.Name, c.name, times, c.least)
			}
		}
	}
}
