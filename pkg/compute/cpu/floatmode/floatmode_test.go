//go:build amd64 || arm64

package floatmode_test

import (
	"math"
	"runtime"
	"strings"
	"testing"

	"github.com/shoal-llm/shoal/pkg/compute/cpu/floatmode"
)

// in runs f on a thread with some bits of the mode set.
func in(bits floatmode.Mode, f func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	was := floatmode.Read()
	defer floatmode.Write(was)
	floatmode.Write(was | bits)
	f()
}

//go:noinline
func divide(x, y float32) float32 { return x / y }

// TestModesChangeResults holds each field against what the processor does with
// it: that is what the words stand for.
func TestModesChangeResults(t *testing.T) {
	third, denormal := divide(1, 3), math.Float32frombits(1<<22)
	for _, c := range []struct {
		bits   floatmode.Mode
		words  string
		change func() bool
	}{
		{floatmode.RoundDown, "rounding", func() bool { return divide(1, 3) != third }},
		{floatmode.RoundUp, "rounding", func() bool { return divide(-1, 3) != -third }},
		{floatmode.FlushToZero, "flushed", func() bool { return divide(denormal, 2) == 0 }},
	} {
		var changed bool
		var words string
		in(c.bits, func() { changed, words = c.change(), floatmode.Read().Deviations() })
		if !changed || !strings.Contains(words, c.words) {
			t.Errorf("mode %#x: changes results: %t, deviations %q", c.bits, changed, words)
		}
	}
}

// TestGoThreadsBeginRight: nothing of Go's own deviates.
func TestGoThreadsBeginRight(t *testing.T) {
	if words := floatmode.Read().Deviations(); words != "" {
		t.Errorf("this thread has %s", words)
	}
	if words := floatmode.DenormalsAreZero.Deviations(); !strings.Contains(words, "operands") {
		t.Errorf("denormals are zero is called %q", words)
	}
}
