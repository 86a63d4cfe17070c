package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/shoal-llm/shoal/internal/measure"
)

// Sizes of the crowd: as llama-batched-bench is asked for, but with longer answers,
// because ours do not begin together.
const (
	crowdStreams = 16
	crowdPrompt  = 64
	crowdDecode  = 160
	rivalDecode  = 64
	crowdThreads = 2
)

// crowds compares 16 streams through gateway, scheduler and engine with 16
// sequences of llama-batched-bench, on both cores.
func (r *report) crowds(ctx context.Context, s settings) error {
	for _, c := range []struct{ name, model string }{{"batch16_gateway_q4_1", q41}, {"batch16_gateway_q4_0", q40}} {
		if err := r.crowd(ctx, s, c.name, c.model); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	return nil
}

func (r *report) crowd(ctx context.Context, s settings, name, model string) (err error) {
	up, err := startServer(ctx, s.program, s.models, model, crowdThreads, 1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, up.stop()) }()
	var rivals []llamaCPP
	if s.baseline != "" {
		if rivals, err = builds(s.baseline); err != nil {
			return err
		}
	}
	var ours []float64
	theirs := make([][]float64, len(rivals))
	for round := range r.rounds + 1 {
		rate, err := crowdRate(ctx, up.url)
		if err != nil {
			return err
		}
		if round > 0 { // the first warms up
			ours = append(ours, rate)
		}
		for i, l := range rivals {
			rate, err := l.batched(ctx, filepath.Join(s.models, model+".gguf"), crowdThreads, crowdStreams, crowdPrompt, rivalDecode)
			if err != nil {
				return err
			}
			if round > 0 {
				theirs[i] = append(theirs[i], rate)
			}
		}
	}
	best := []float64{0}
	for _, t := range theirs {
		if measure.Median(t) > measure.Median(best) {
			best = t
		}
	}
	a, b := measure.Median(ours), measure.Median(best)
	fmt.Fprintf(r.out, "%-32s %8.1f tokens/s (%s), llama.cpp %s\n", name, a, spread(ours), spread(best))
	ratio := 0.0
	if b > 0 {
		ratio = a / b
	}
	r.add(name, a, "tokens/s, 16 streams, client on the same cores", b, ratio)
	for i, l := range rivals {
		if b := measure.Median(theirs[i]); l.suffix != "" {
			r.add(name+l.suffix, a, "tokens/s, 16 streams, client on the same cores", b, a/b)
		}
	}
	return nil
}

// crowdRate asks for 16 answers at once and returns the tokens a second of the
// time when all of them decode.
func crowdRate(ctx context.Context, url string) (float64, error) {
	answers, err := together(ctx, url, crowdStreams, question{tokens: crowdDecode})
	if err != nil {
		return 0, err
	}
	var from, to time.Time
	for i, a := range answers {
		if first := a.times[0]; first.After(from) {
			from = first
		}
		if last := a.times[len(a.times)-1]; i == 0 || last.Before(to) {
			to = last
		}
	}
	n := 0
	for _, a := range answers {
		for _, t := range a.times {
			if t.After(from) && !t.After(to) {
				n++
			}
		}
	}
	if !to.After(from) || n < crowdStreams*crowdDecode/2 {
		return 0, fmt.Errorf("the answers overlap for %d tokens only", n)
	}
	return float64(n) / to.Sub(from).Seconds(), nil
}

// together asks n questions at once, each with words of its own.
func together(ctx context.Context, url string, n int, q question) ([]*told, error) {
	answers, errs := make([]*told, n), make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		q.prompt = words(crowdPrompt)
		all.Go(func() { answers[i], errs[i] = ask(ctx, url, q) })
	}
	all.Wait()
	return answers, errors.Join(errs...)
}

// Of a long prompt among sessions that decode.
const (
	longStreams = 8
	longPrompt  = 2000
	longTarget  = 50.0 // ms: what a step with decode rows should take
)

// longPrompts reports the longest time between two tokens of 8 streams while a
// prompt of 2,000 tokens is computed beside them.
func (r *report) longPrompts(ctx context.Context, s settings) (err error) {
	up, err := startServer(ctx, s.program, s.models, q41, crowdThreads, 1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, up.stop()) }()
	var gaps []float64
	for round := range r.rounds + 1 {
		gap, err := longGap(ctx, up.url)
		if err != nil {
			return err
		}
		if round > 0 {
			gaps = append(gaps, gap)
		}
	}
	r.note("long_prompt_gap_ms", measure.Median(gaps), fmt.Sprintf("ms at most between two tokens of 8 streams beside a prompt of 2,000; a step should take %v", longTarget))
	return nil
}

func longGap(ctx context.Context, url string) (float64, error) {
	var answers []*told
	var err error
	var streams sync.WaitGroup
	streams.Go(func() { answers, err = together(ctx, url, longStreams, question{tokens: 400}) })
	time.Sleep(time.Second) // until they decode
	long, longErr := ask(ctx, url, question{prompt: words(longPrompt - 30), tokens: 1})
	streams.Wait()
	if err := errors.Join(err, longErr); err != nil {
		return 0, err
	}
	longest, seen := time.Duration(0), 0
	for _, a := range answers {
		for i := 1; i < len(a.times); i++ {
			if a.times[i].After(long.asked) && a.times[i-1].Before(long.times[0]) {
				longest = max(longest, a.times[i].Sub(a.times[i-1]))
				seen++
			}
		}
	}
	if seen < longStreams {
		return 0, errors.New("the streams had ended before the prompt was computed")
	}
	return float64(longest) / float64(time.Millisecond), nil
}

// speculate compares a text that repeats itself with and without guessed tokens;
// both must say the same.
func (r *report) speculate(ctx context.Context, s settings) (err error) {
	up, err := startServer(ctx, s.program, s.models, q41, crowdThreads, 1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, up.stop()) }()
	var with, without []float64
	for round := range r.rounds + 1 {
		prompt := strings.Repeat(words(20)+".", 6)
		guessed, err := ask(ctx, up.url, question{prompt: prompt, tokens: 200, guess: true})
		if err != nil {
			return err
		}
		plain, err := ask(ctx, up.url, question{prompt: prompt, tokens: 200})
		if err != nil {
			return err
		}
		if guessed.text != plain.text {
			return fmt.Errorf("with guesses %q, without %q", guessed.text, plain.text)
		}
		if round > 0 {
			with, without = append(with, guessed.rate()), append(without, plain.rate())
		}
	}
	r.versus("speculation_repeating", with, without, "of the rate without guesses, a text that repeats itself")
	return nil
}
