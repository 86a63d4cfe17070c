package main

import (
	"fmt"
	"io"

	"github.com/shoal-llm/shoal/internal/measure"
)

// report prints what was measured and collects the figures.
type report struct {
	out     io.Writer
	rounds  int
	machine string // the processor and its cores
	command string // repeats the figures
	figures []measure.Figure
}

// add collects a figure; baseline and ratio are 0 where there is none.
func (r *report) add(name string, value float64, unit string, baseline, ratio float64) {
	r.figures = append(r.figures, measure.Figure{
		Name: name, Value: value, Unit: unit, Baseline: baseline, Ratio: ratio,
		Runs: r.rounds, Machine: r.machine, Command: r.command,
	})
}

// note prints and collects a figure without a baseline.
func (r *report) note(name string, value float64, unit string) {
	fmt.Fprintf(r.out, "%-32s %8.3f %s\n", name, value, unit)
	r.add(name, value, unit, 0, 0)
}

// contests reports the contests. A figure's baseline is the fastest rival.
func (r *report) contests(list []*contest) {
	fmt.Fprintf(r.out, "%s; tokens/s as least < median < most of %d rounds\n", r.machine, r.rounds)
	for _, c := range list {
		c.print(r.out)
		ours := measure.Median(c.ours.rates)
		var theirs, ratio float64
		if best := c.best(); best != nil {
			theirs = measure.Median(best.rates)
			ratio = ours / theirs
		}
		r.add(c.name, ours, "tokens/s", theirs, ratio)
		for _, rival := range c.rivals {
			if rate := measure.Median(rival.rates); rival.suffix != "" {
				r.add(c.name+rival.suffix, ours, "tokens/s", rate, ours/rate)
			}
		}
		if c.bytes > 0 {
			r.add(shareName(c.name), c.share(ours), "of read bandwidth", c.share(theirs), ratio)
		}
	}
}

// shareName returns the name of the figure that says how much of the read
// bandwidth a contest used.
func shareName(contest string) string {
	if contest == outOfCache {
		return "bandwidth_share_2t"
	}
	return contest + "_bandwidth_share"
}

// serving reports a measurement through the whole system. Its baseline is the
// engine alone.
func (r *report) serving(s *serving) {
	s.print(r.out)
	if s.speed {
		served, alone := measure.Median(s.servedRate), measure.Median(s.rate)
		r.add(s.name, served, "tokens/s", alone, served/alone)
		return
	}
	r.add(s.name, measure.Median(s.work()), "µs of CPU", 0, 0)
}
