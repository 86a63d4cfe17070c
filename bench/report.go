package main

import (
	"fmt"
	"io"

	"github.com/shoal-llm/shoal/internal/measure"
)

// command repeats all figures.
const command = "make bench-cpu"

// report prints what was measured and collects the figures.
type report struct {
	out     io.Writer
	rounds  int
	machine string // the processor and its cores
	figures []measure.Figure
}

// add collects a figure; baseline and ratio are 0 where there is none.
func (r *report) add(name string, value float64, unit string, baseline, ratio float64) {
	r.figures = append(r.figures, measure.Figure{
		Name: name, Value: value, Unit: unit, Baseline: baseline, Ratio: ratio,
		Runs: r.rounds, Machine: r.machine, Command: command,
	})
}

// contests reports the contests.
func (r *report) contests(list []*contest) {
	fmt.Fprintf(r.out, "%s; tokens/s as least < median < most of %d rounds\n", r.machine, r.rounds)
	fmt.Fprintf(r.out, "%-24s %26s %26s %8s\n", "", "shoal", "llama.cpp", "ratio")
	for _, c := range list {
		c.print(r.out)
		var baseline float64
		if len(c.theirRates) > 0 {
			baseline = median(c.theirRates)
		}
		r.add(c.name, median(c.ourRates), "tokens/s", baseline, c.ratio())
		share := c.share()
		if share == 0 {
			continue
		}
		name := c.name + "_bandwidth_share"
		if c.name == outOfCache {
			name = "bandwidth_share_2t"
		}
		theirs := baseline * share / median(c.ourRates)
		r.add(name, share, "of read bandwidth", theirs, c.ratio())
	}
}

// serving reports a measurement through the whole system. Its baseline is the
// engine alone.
func (r *report) serving(s *serving) {
	s.print(r.out)
	if s.speed {
		served, alone := median(s.servedRate), median(s.rate)
		r.add(s.name, served, "tokens/s", alone, served/alone)
		return
	}
	r.add(s.name, median(s.work()), "µs of CPU", 0, 0)
}
