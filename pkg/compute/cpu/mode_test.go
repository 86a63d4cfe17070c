//go:build amd64 || arm64

package cpu

import (
	"errors"
	"runtime"
	"strings"
	"testing"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/compute/cpu/floatmode"
)

// inMode runs f on a thread with some bits of the mode set.
func inMode(bits floatmode.Mode, f func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	was := floatmode.Read()
	defer floatmode.Write(was)
	floatmode.Write(was | bits)
	f()
}

// TestWrongFloatModeFailsThePass runs a pass as worker 0, and as another, on a
// thread whose mode another library has changed.
func TestWrongFloatModeFailsThePass(t *testing.T) {
	be := open(t, Config{Threads: 1})
	fresh := func() *pass {
		p := &pass{be: be}
		p.begin(&compute.Batch{})
		return p
	}
	asFirst := func(p *pass) error { return newGang(be, 1).run(p).Err }
	asOther := func(p *pass) error { (&worker{be: be, gang: be.gang}).run(p); return p.modeError() }
	for name, run := range map[string]func(*pass) error{"first": asFirst, "other": asOther} {
		p := fresh()
		if err := run(p); err != nil {
			t.Errorf("%s worker, right mode: %v", name, err)
		}
		for bits, words := range map[floatmode.Mode]string{
			floatmode.RoundUp: "rounding not to nearest", floatmode.FlushToZero: "flushed to zero", floatmode.DenormalsAreZero: "taken as zero",
		} {
			p.begin(&compute.Batch{})
			var err error
			var took bool
			inMode(bits, func() { took, err = floatmode.Read()&bits != 0, run(p) })
			if !took { // this processor has no such mode
				continue
			}
			if !errors.Is(err, ErrFloatMode) || !strings.Contains(err.Error(), words) {
				t.Errorf("%s worker, mode %#x: error %v", name, bits, err)
			}
		}
		p.begin(&compute.Batch{})
		if err := run(p); err != nil {
			t.Errorf("%s worker, after a wrong mode: %v", name, err)
		}
	}
}
