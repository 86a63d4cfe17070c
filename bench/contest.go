package main

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/shoal-llm/shoal/pkg/compute/cpu/bandwidth"

	"github.com/shoal-llm/shoal/internal/measure"
)

// contest is one thing that our engine and its rivals do.
type contest struct {
	name    string
	threads int
	bytes   int // of weights read per token; 0 where reading is no limit
	ours    *runner
	rivals  []*runner // none: our engine alone
	limits  []float64 // bytes a second that the threads can read, by round
}

// runner is one program in a contest.
type runner struct {
	name   string
	suffix string                                 // of figures against this rival alone; empty for none
	run    func(context.Context) (float64, error) // tokens a second
	rates  []float64                              // by round
}

// round measures all once, the one that comes first alternating.
func (c *contest) round(ctx context.Context, n int, region *bandwidth.Region) error {
	turns := append([]*runner{c.ours}, c.rivals...)
	if n%2 == 1 {
		slices.Reverse(turns)
	}
	for _, r := range turns {
		rate, err := r.run(ctx)
		if err == nil && rate <= 0 {
			err = fmt.Errorf("%g tokens/s", rate)
		}
		if err != nil {
			return fmt.Errorf("%s: %s: %w", c.name, r.name, err)
		}
		r.rates = append(r.rates, rate)
	}
	if c.bytes == 0 {
		return nil
	}
	// As many bytes as the model has: a part of it may stay in caches.
	const enough = 256 << 20
	limit, err := region.Read(c.bytes, c.threads, max(1, enough/c.bytes))
	c.limits = append(c.limits, limit)
	return err
}

// best returns the fastest rival, or nil if there is none.
func (c *contest) best() *runner {
	var best *runner
	for _, r := range c.rivals {
		if best == nil || measure.Median(r.rates) > measure.Median(best.rates) {
			best = r
		}
	}
	return best
}

// share returns which part of the read bandwidth decoding at a rate uses, or 0
// where reading is no limit.
func (c *contest) share(rate float64) float64 {
	if len(c.limits) == 0 {
		return 0
	}
	return rate * float64(c.bytes) / measure.Median(c.limits)
}

// print writes a line of ours and one of each rival: least, median and most, the
// ratio of the medians and the range of the ratios of the rounds.
func (c *contest) print(w io.Writer) {
	ours := measure.Median(c.ours.rates)
	fmt.Fprintf(w, "%-24s %-20s %s", c.name, c.ours.name, spread(c.ours.rates))
	if len(c.limits) > 0 {
		fmt.Fprintf(w, "  %.0f %% of %.1f GB/s", 100*c.share(ours), measure.Median(c.limits)/1e9)
	}
	fmt.Fprintln(w)
	for _, r := range c.rivals {
		pairs := make([]float64, len(r.rates))
		for i := range pairs {
			pairs[i] = c.ours.rates[i] / r.rates[i]
		}
		fmt.Fprintf(w, "%-24s %-20s %s  %.2f× (%.2f to %.2f)\n", "", r.name, spread(r.rates),
			ours/measure.Median(r.rates), slices.Min(pairs), slices.Max(pairs))
	}
}

// spread prints the least, the median and the most.
func spread(v []float64) string {
	return fmt.Sprintf("%.0f < %.0f < %.0f", slices.Min(v), measure.Median(v), slices.Max(v))
}
