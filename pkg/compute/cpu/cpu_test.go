package cpu

import (
	"fmt"
	"testing"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/quant/formats"
	"github.com/shoal-llm/shoal/pkg/quant/p16"
)

func open(tb testing.TB, cfg Config) *Backend {
	tb.Helper()
	be, err := Open(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := be.Close(); err != nil {
			tb.Errorf("close: %v", err)
		}
	})
	return be
}

// TestOneClass: every instruction set level and number of threads gives the same
// bits.
func TestOneClass(t *testing.T) {
	var want [32]byte
	for level := quant.Portable; level <= p16.Best(); level++ {
		for threads := 1; threads <= 3; threads++ {
			t.Run(fmt.Sprintf("%s/%d", level, threads), func(t *testing.T) {
				be := open(t, Config{Level: &level, Threads: threads})
				got, err := compute.SelfTest(be, formats.All())
				if err != nil {
					t.Fatal(err)
				}
				if want == [32]byte{} {
					want = got
				}
				if got != want {
					t.Errorf("fingerprint %x, want %x", got, want)
				}
			})
		}
	}
}
