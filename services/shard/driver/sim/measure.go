package sim

import (
	"fmt"
	"time"

	"github.com/shoal-llm/shoal/services/shard/driver"
)

// Score is what a driver reached with a load.
type Score struct {
	Name string
	Rate float64       // ids a second, of the second half of the run
	Gap  time.Duration // the longest between two ids of a session in that half
}

// Measure runs a load for a time.
func Measure(name string, p Pipeline, cfg driver.Config, load []Request, until time.Duration) (Score, error) {
	r, err := Run(p, cfg, load, until)
	if err != nil {
		return Score{}, fmt.Errorf("%s on %s: %w", name, p.Name, err)
	}
	s := Score{Name: name, Rate: r.Rate(until/2, until)}
	for _, a := range r.Answers {
		if len(a.Times) > 0 && a.Times[0] > until/2 {
			s.Gap = max(s.Gap, a.Gap())
		}
	}
	return s, nil
}

// Best tries fixed numbers of lanes with fixed rows of a step and returns the
// fastest of those that keep every gap within most; 0 is any gap.
func Best(p Pipeline, load []Request, rows []int, most, until time.Duration) (Score, error) {
	var best Score
	for lanes := 1; lanes <= len(p.Devices)+1; lanes++ {
		for _, n := range rows {
			s, err := Measure(fmt.Sprintf("%d lanes × %d rows", lanes, n), p, Fixed(lanes, n), load, until)
			if err != nil {
				return Score{}, err
			}
			if s.Rate > best.Rate && (most == 0 || s.Gap <= most) {
				best = s
			}
		}
	}
	return best, nil
}

// Prefill returns how many times sooner a prompt is computed by stages equal
// devices than by one that does the work of all.
func Prefill(p Pipeline, tokens int) (float64, error) {
	n := time.Duration(len(p.Devices))
	d := p.Devices[0]
	alone := Uniform("alone", 1, Device{Fixed: n * d.Fixed, Row: n * d.Row, Key: n * d.Key}, Link{})
	var took [2]time.Duration
	for i, pipe := range []Pipeline{alone, p} {
		// The second prompt finds what the first has taught.
		r, err := Run(pipe, Adaptive(len(pipe.Devices)), []Request{
			{Prompt: tokens, Answer: 1}, {Prompt: tokens, Answer: 1, Seed: 1, At: time.Hour},
		}, 2*time.Hour)
		if err != nil {
			return 0, err
		}
		took[i] = r.Answers[1].Times[0] - r.Answers[1].Submitted
	}
	return float64(took[0]) / float64(took[1]), nil
}

// Speculation returns how many times faster a text that repeats itself is decoded
// with guesses than without.
func Speculation(p Pipeline) (float64, error) {
	var rates [2]float64
	for i, without := range []bool{true, false} {
		load := []Request{{Prompt: 64, Answer: 2000, Period: 32, Schedule: driver.Schedule{NoDrafts: without}}}
		r, err := Run(p, Adaptive(len(p.Devices)), load, time.Hour)
		if err != nil {
			return 0, err
		}
		times := r.Answers[0].Times
		rates[i] = float64(len(times)-1) / (times[len(times)-1] - times[0]).Seconds()
	}
	return rates[1] / rates[0], nil
}

// Hop returns how much longer than links and devices a token of one session takes.
func Hop(p Pipeline) (time.Duration, error) {
	r, err := Run(p, Adaptive(len(p.Devices)), []Request{{Prompt: 16, Answer: 100}}, time.Hour)
	if err != nil {
		return 0, err
	}
	times := r.Answers[0].Times
	each := (times[len(times)-1] - times[0]) / time.Duration(len(times)-1)
	for i, d := range p.Devices {
		each -= d.Fixed + d.Row + p.Links[i].Latency
	}
	return each, nil
}

// Drafting returns how many times as many ids streams get with a draft model as
// without. Their texts do not repeat themselves.
func Drafting(p Pipeline, d Draft, streams int) (float64, error) {
	var rates [2]float64
	for i, draft := range []Draft{{}, d} {
		p.Draft = draft
		s, err := Measure("drafting", p, Adaptive(len(p.Devices)), Streams(streams, 64, 100_000), 20*time.Second)
		if err != nil {
			return 0, err
		}
		rates[i] = s.Rate
	}
	return rates[1] / rates[0], nil
}
