package main

import (
	"context"
	"fmt"
	"regexp"
)

// Model files, as `make bench-models` names them.
const (
	q41     = "smollm2" // as shipped
	q40     = "smollm2-q4_0"
	q80     = "smollm2-q8_0"
	bigQ40  = "generated-q4_0"
	bigQ4K  = "generated-q4_k"
	bigQ6K  = "generated-q6_k"
	decoded = 128 // tokens of a decode, as llama-bench has it
)

// task is a contest as the table lists it: decode, a prefill of prompt tokens,
// or a decode of several streams after a prompt each.
type task struct {
	name                    string
	model                   string
	threads                 int
	streams, prompt, decode int
}

// tasks are the contests.
var tasks = []task{
	{"decode_q4_1_1t", q41, 1, 1, 0, decoded},
	{"decode_q4_1_2t", q41, 2, 1, 0, decoded},
	{"prefill128_q4_1_1t", q41, 1, 1, 128, 0},
	{"prefill512_q4_1_1t", q41, 1, 1, 512, 0},
	{"decode_q4_0_1t", q40, 1, 1, 0, decoded},
	{"decode_q4_0_2t", q40, 2, 1, 0, decoded},
	{"prefill128_q4_0_1t", q40, 1, 1, 128, 0},
	{"prefill512_q4_0_1t", q40, 1, 1, 512, 0},
	{"decode_q8_0_1t", q80, 1, 1, 0, decoded},
	{"decode_q8_0_2t", q80, 2, 1, 0, decoded},
	{"decode_q4_k_1t", bigQ4K, 1, 1, 0, decoded},
	{"decode_q4_k_2t", bigQ4K, 2, 1, 0, decoded},
	{"prefill128_q4_k_1t", bigQ4K, 1, 1, 128, 0},
	{"decode_q6_k_2t", bigQ6K, 2, 1, 0, decoded},
	{"prefill128_q6_k_1t", bigQ6K, 1, 1, 128, 0},
	{"decode_0.4b_q4_0_1t", bigQ40, 1, 1, 0, decoded},
	{"decode_0.4b_q4_0_2t", bigQ40, 2, 1, 0, decoded},
	{"batch16_q4_0_2t", q40, 2, 16, 64, 64},
	{"batch16_q4_1_2t", q41, 2, 16, 64, 64},
}

// outOfCache is the contest whose share of the read bandwidth is a figure of its
// own.
const outOfCache = "decode_0.4b_q4_0_2t"

// servings are the measurements through the whole system. Work per token shows
// best on a small model; the large one shows what users see.
func servings() []*serving {
	return []*serving{
		{name: "service_us_per_token", model: "tiny", threads: 1, stages: 1, answers: 8, tokens: 300},
		{name: "service_us_per_token_2stages", model: "tiny", threads: 1, stages: 2, answers: 8, tokens: 300},
		{name: "served_q4_0_2t", model: q40, threads: 2, stages: 1, answers: 2, tokens: 128, speed: true},
	}
}

// contests makes the contests whose names match only, and loads their models.
func contests(f *fleet, rivals []llamaCPP, only *regexp.Regexp) ([]*contest, error) {
	var out []*contest
	for _, t := range tasks {
		if !only.MatchString(t.name) {
			continue
		}
		m, err := f.get(t.model, t.threads)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", t.name, err)
		}
		c := &contest{name: t.name, threads: t.threads, ours: &runner{name: "shoal", run: t.ours(m)}}
		for _, l := range rivals {
			c.rivals = append(c.rivals, &runner{name: l.name, suffix: l.suffix, run: t.theirs(l, f.path(t.model))})
		}
		if t.decode > 0 && t.streams == 1 {
			c.bytes = m.weightBytes()
		}
		out = append(out, c)
	}
	return out, nil
}

// ours returns our side, which warms up as the baseline does: by the same prompt
// or by one token.
func (t task) ours(m *machine) func(context.Context) (float64, error) {
	return func(context.Context) (float64, error) {
		if t.decode == 0 {
			if _, err := m.prefill(t.prompt); err != nil {
				return 0, err
			}
			return m.prefill(t.prompt)
		}
		if _, err := m.decode(t.streams, t.prompt, 1); err != nil {
			return 0, err
		}
		return m.decode(t.streams, t.prompt, t.decode)
	}
}

func (t task) theirs(l llamaCPP, path string) func(context.Context) (float64, error) {
	return func(ctx context.Context) (float64, error) {
		if t.streams > 1 {
			return l.batched(ctx, path, t.threads, t.streams, t.prompt, t.decode)
		}
		return l.bench(ctx, path, t.threads, t.prompt, t.decode)
	}
}
