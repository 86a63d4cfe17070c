package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/shoal-llm/shoal/internal/measure"
)

// Of a live re-plan: streams, their prompts and answers, and for how long at most the
// new stage may take to be there.
const (
	replanStreams = 4
	replanPrompt  = 600
	replanDecode  = 400
	replanSettle  = 30 * time.Second
)

// replans drains a node with half of the layers under four streams, and reports the
// longest pause of any of them beside the longest without, and how many answers
// differ from those of the same questions left alone.
func (r *report) replans(ctx context.Context, s settings) (err error) {
	n, err := startNodes(ctx, s.program, s.models, q41, []string{"--stages", "2", "--steady", "500ms"}, secondCore, firstCore, secondCore, firstCore)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.stop()) }()
	var pauses, usual []float64
	differ, drained := 0, ""
	for range r.rounds {
		if drained != "" { // it may work again
			if err := n.operate(ctx, "undrain", drained); err != nil {
				return err
			}
		}
		prompts := make([]string, replanStreams)
		for i := range prompts {
			prompts[i] = words(replanPrompt)
		}
		alone, err := streams(ctx, n, prompts, func() error { return nil })
		if err != nil {
			return err
		}
		moved, err := streams(ctx, n, prompts, func() error {
			at, err := n.stages(ctx, func(nodes []string) bool { return len(nodes) == 2 })
			if err != nil {
				return err
			}
			drained = at[1]
			if err := n.operate(ctx, "drain", drained); err != nil {
				return err
			}
			settled, stop := context.WithTimeout(ctx, replanSettle)
			defer stop()
			_, err = n.stages(settled, func(nodes []string) bool { return len(nodes) > 0 && !slices.Contains(nodes, drained) })
			return err
		})
		if err != nil {
			return err
		}
		for i := range prompts {
			if moved[i].text != alone[i].text {
				differ++
			}
		}
		pauses, usual = append(pauses, longestGap(moved)), append(usual, longestGap(alone))
	}
	fmt.Fprintf(r.out, "replan: longest gap %s ms, without %s ms, %d answers differ\n", spread(pauses), spread(usual), differ)
	r.add("replan_gap_ms", measure.Median(pauses), "ms at most between two tokens of 4 streams while half of the layers move to another node; baseline: without", measure.Median(usual), 0)
	r.note("replan_differ", float64(differ), "answers that differ from those of the same questions left alone")
	return nil
}

// streams asks questions at once and does something when each has some tokens.
func streams(ctx context.Context, n *nodes, prompts []string, meanwhile func() error) ([]*told, error) {
	out, errs := make([]*told, len(prompts)), make([]error, len(prompts)+1)
	var all sync.WaitGroup
	for i, p := range prompts {
		all.Go(func() { out[i], errs[i] = ask(ctx, n.url, question{prompt: p, tokens: replanDecode}) })
	}
	errs[len(prompts)] = meanwhile()
	all.Wait()
	return out, errors.Join(errs...)
}

// longestGap is the longest time between two tokens of any answer, in milliseconds.
func longestGap(answers []*told) float64 {
	longest := time.Duration(0)
	for _, a := range answers {
		for i := 1; i < len(a.times); i++ {
			longest = max(longest, a.times[i].Sub(a.times[i-1]))
		}
	}
	return float64(longest) / float64(time.Millisecond)
}
