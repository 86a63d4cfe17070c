package main

import (
	"context"
	"fmt"
	"regexp"

	"github.com/shoal-llm/shoal/internal/measure"
)

// pipelines measures the driver and pipelines of several stages.
func (r *report) pipelines(ctx context.Context, s settings, only *regexp.Regexp) error {
	for _, part := range []struct {
		name string
		run  func(context.Context, settings) error
	}{
		{"simulated", func(context.Context, settings) error { return r.simulate() }},
		{"hop", r.hops},
		{"split", r.splits},
		{"batch16", r.crowds},
		{"long_prompt", r.longPrompts},
		{"speculation", r.speculate},
		{"replan", r.replans},
	} {
		if !only.MatchString(part.name) {
			continue
		}
		if err := part.run(ctx, s); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	return nil
}

// hops reports the hop between two stages.
func (r *report) hops(ctx context.Context, _ settings) error {
	var p50, p99, round []float64
	for range r.rounds {
		took, steps, err := measureHops(ctx)
		if err != nil {
			return err
		}
		round = append(round, percentile(steps, 0.5))
		p50, p99 = append(p50, percentile(took, 0.5)), append(p99, percentile(took, 0.99))
	}
	const unit = "µs from a stage to the next, 8 KiB, mutual TLS, loopback, both in one process"
	r.note("hop_overhead_p50_us", measure.Median(p50), unit)
	r.note("hop_overhead_p99_us", measure.Median(p99), unit)
	r.note("token_overhead_2_stages_us", measure.Median(round), "µs of a token's way through two stages that compute nothing, and the driver")
	return nil
}
