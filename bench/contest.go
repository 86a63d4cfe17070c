package main

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/shoal-llm/shoal/pkg/compute/cpu/bandwidth"
)

// contest is one thing that both programs do, or our engine alone.
type contest struct {
	name    string
	threads int
	ours    func(context.Context) (float64, error) // tokens a second
	theirs  func(context.Context) (float64, error) // nil if nobody else does it
	bytes   int                                    // of weights read per token and stream; 0 where reading is no limit

	ourRates, theirRates []float64 // tokens a second, by round
	limits               []float64 // bytes a second that the threads can read, by round
}

// round measures both once, the one that comes first alternating.
func (c *contest) round(ctx context.Context, n int, region *bandwidth.Region) error {
	turns := []func(context.Context) error{c.runOurs, c.runTheirs}
	if n%2 == 1 {
		slices.Reverse(turns)
	}
	for _, turn := range turns {
		if err := turn(ctx); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
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

func (c *contest) runOurs(ctx context.Context) error {
	rate, err := c.ours(ctx)
	c.ourRates = append(c.ourRates, rate)
	return err
}

func (c *contest) runTheirs(ctx context.Context) error {
	if c.theirs == nil {
		return nil
	}
	rate, err := c.theirs(ctx)
	if err == nil && rate <= 0 {
		err = fmt.Errorf("the baseline says %g tokens/s", rate)
	}
	c.theirRates = append(c.theirRates, rate)
	return err
}

// ratio returns ours ÷ theirs of the medians, or 0 without theirs.
func (c *contest) ratio() float64 {
	if len(c.theirRates) == 0 {
		return 0
	}
	return median(c.ourRates) / median(c.theirRates)
}

// share returns which part of the read bandwidth our decode uses, or 0 where
// reading is no limit.
func (c *contest) share() float64 {
	if len(c.limits) == 0 {
		return 0
	}
	return median(c.ourRates) * float64(c.bytes) / median(c.limits)
}

// print writes a line: least, median and most of both, the ratio of the medians
// and the range of the ratios of the rounds.
func (c *contest) print(w io.Writer) {
	fmt.Fprintf(w, "%-24s %26s", c.name, spread(c.ourRates))
	if len(c.theirRates) > 0 {
		pairs := make([]float64, len(c.ourRates))
		for i := range pairs {
			pairs[i] = c.ourRates[i] / c.theirRates[i]
		}
		fmt.Fprintf(w, " %26s %7.2f× (%.2f to %.2f)", spread(c.theirRates), c.ratio(), slices.Min(pairs), slices.Max(pairs))
	}
	if share := c.share(); share > 0 {
		fmt.Fprintf(w, "  %3.0f %% of %.1f GB/s", 100*share, median(c.limits)/1e9)
	}
	fmt.Fprintln(w)
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

// spread prints the least, the median and the most.
func spread(v []float64) string {
	return fmt.Sprintf("%.0f < %.0f < %.0f", slices.Min(v), median(v), slices.Max(v))
}
