package profile

import (
	"fmt"
	"io"
	"time"
)

// Limits are what a device can do at most; 0 is unknown.
type Limits struct {
	GBps   float64 // of memory, 1e9 bytes a second
	TFLOPS float64 // float32 multiplications and additions, 1e12 a second
}

// share says how near an operation comes to what limits it.
func (l Limits) share(bytes, flops, seconds float64) string {
	byBytes, byFlops := 0.0, 0.0
	if l.GBps > 0 {
		byBytes = bytes / seconds / 1e9 / l.GBps
	}
	if l.TFLOPS > 0 {
		byFlops = flops / seconds / 1e12 / l.TFLOPS
	}
	switch {
	case byBytes == 0 && byFlops == 0:
		return ""
	case byBytes >= byFlops:
		return fmt.Sprintf("%.0f %% of bandwidth", 100*byBytes)
	}
	return fmt.Sprintf("%.0f %% of arithmetic", 100*byFlops)
}

// Print writes a Markdown table of what operations take in one of steps steps.
func Print(w io.Writer, ops []Op, steps int, l Limits) {
	var total time.Duration
	for _, op := range ops {
		total += op.Spent
	}
	fmt.Fprintf(w, "| operation | calls | µs a step | share | GB/s | GFLOP/s | of its limit |\n|---|--:|--:|--:|--:|--:|--:|\n")
	for _, op := range ops {
		seconds := max(op.Spent.Seconds(), 1e-9)
		fmt.Fprintf(w, "| %s %s | %.3g | %.1f | %.1f %% | %.0f | %.0f | %s |\n", op.Name, op.Shape, float64(op.Calls)/float64(steps),
			op.Spent.Seconds()*1e6/float64(steps), 100*op.Spent.Seconds()/total.Seconds(),
			op.Bytes/seconds/1e9, op.Flops/seconds/1e9, l.share(op.Bytes, op.Flops, seconds))
	}
	fmt.Fprintf(w, "| all | | %.1f | | | | |\n", total.Seconds()*1e6/float64(steps))
}
