package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/shoal-llm/shoal/internal/measure"
)

// serving is one model answered through the whole system beside the engine
// alone, on the same prompt and number of tokens.
type serving struct {
	name            string
	model           string // a file of the models folder, or an embedded model
	threads, stages int
	answers, tokens int  // answers a round, one after the other, and tokens of each
	speed           bool // the figure is the speed, not the work

	served, alone    []float64 // µs of CPU a token, by round
	servedRate, rate []float64 // tokens a second of decoding, by round
}

// measure starts a server and runs rounds of both.
func (s *serving) measure(ctx context.Context, program, models string, rounds int) (err error) {
	m, err := openMachine(models, s.model, s.threads)
	if err != nil {
		return err
	}
	defer m.close()
	up, err := startServer(ctx, program, models, s.model, s.threads, s.stages)
	if err != nil {
		return err
	}
	defer func() { _ = up.stop() }()
	a, err := ask(ctx, up.url, question{prompt: story, tokens: 16}) // warms up and tells the length of the prompt
	for n := 0; n < rounds && err == nil; n++ {
		if err = s.runServed(ctx, up); err == nil {
			err = s.runAlone(m, a.prompt)
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	return nil
}

// story is asked for, to the same number of tokens by both.
const story = "Tell me a long story about a fox and a hen."

func (s *serving) runServed(ctx context.Context, up *server) error {
	start, err := cpuTime(up.cmd.Process.Pid)
	if err != nil {
		return err
	}
	var rates []float64
	for range s.answers {
		a, err := ask(ctx, up.url, question{prompt: story, tokens: s.tokens})
		if err != nil {
			return err
		}
		rates = append(rates, a.rate())
	}
	end, err := cpuTime(up.cmd.Process.Pid)
	s.served = append(s.served, s.perToken(end-start))
	s.servedRate = append(s.servedRate, measure.Median(rates))
	return err
}

func (s *serving) runAlone(m *machine, prompt int) error {
	start, err := cpuTime(os.Getpid())
	if err != nil {
		return err
	}
	var rates []float64
	for range s.answers {
		rate, err := m.decode(1, prompt, s.tokens-1)
		if err != nil {
			return err
		}
		rates = append(rates, rate)
	}
	end, err := cpuTime(os.Getpid())
	s.alone = append(s.alone, s.perToken(end-start))
	s.rate = append(s.rate, measure.Median(rates))
	return err
}

// perToken returns µs a token.
func (s *serving) perToken(d time.Duration) float64 {
	return float64(d.Nanoseconds()) / 1e3 / float64(s.answers*s.tokens)
}

// work returns what serving a token costs beyond the engine, in µs of CPU, by
// round.
func (s *serving) work() []float64 {
	v := slices.Clone(s.served)
	for i := range v {
		v[i] -= s.alone[i]
	}
	return v
}

func (s *serving) print(w io.Writer) {
	fmt.Fprintf(w, "%-24s CPU a token: served %s µs, engine alone %s µs, service %s µs\n",
		s.name, spread(s.served), spread(s.alone), spread(s.work()))
	fmt.Fprintf(w, "%-24s decoding: served %s tokens/s, engine alone %s tokens/s\n", "", spread(s.servedRate), spread(s.rate))
}
