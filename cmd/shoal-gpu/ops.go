package main

import (
	"fmt"
	"io"
	"time"

	"github.com/shoal-llm/shoal/pkg/compute/profile"
)

// limits are what a device can do at most; 0 is unknown.
type limits struct{ gbps, tflops float64 }

// share says how near an operation comes to what limits it.
func (l limits) share(bytes, flops, seconds float64) string {
	byBytes, byFlops := 0.0, 0.0
	if l.gbps > 0 {
		byBytes = bytes / seconds / 1e9 / l.gbps
	}
	if l.tflops > 0 {
		byFlops = flops / seconds / 1e12 / l.tflops
	}
	switch {
	case byBytes == 0 && byFlops == 0:
		return ""
	case byBytes >= byFlops:
		return fmt.Sprintf("%.0f %% of bandwidth", 100*byBytes)
	}
	return fmt.Sprintf("%.0f %% of arithmetic", 100*byFlops)
}

// printOps prints a table of what operations take in one of steps steps.
func printOps(w io.Writer, ops []profile.Op, steps int, l limits) {
	var total time.Duration
	for _, op := range ops {
		total += op.Spent
	}
	fmt.Fprintf(w, "| operation | calls | µs a step | share | GB/s | GFLOP/s | of its limit |\n|---|--:|--:|--:|--:|--:|--:|\n")
	for _, op := range ops {
		seconds := max(op.Spent.Seconds(), 1e-9)
		fmt.Fprintf(w, "| %s %s | %.3g | %.1f | %.1f %% | %.0f | %.0f | %s |\n", op.Name, op.Shape, float64(op.Calls)/float64(steps),
			op.Spent.Seconds()*1e6/float64(steps), 100*op.Spent.Seconds()/total.Seconds(), op.Bytes/seconds/1e9, op.Flops/seconds/1e9, l.share(op.Bytes, op.Flops, seconds))
	}
	fmt.Fprintf(w, "| all | | %.1f | | | | |\n", total.Seconds()*1e6/float64(steps))
}
