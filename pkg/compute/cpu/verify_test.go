package cpu

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/quant/formats"
)

// TestVerify: the fast mode passes beside the reference, with the fingerprint of
// the self-test alone.
func TestVerify(t *testing.T) {
	be, ref := open(t, Config{Threads: 1}), open(t, Config{Threads: 1, Reference: true})
	alone, err := compute.SelfTest(be, formats.All())
	if err != nil {
		t.Fatal(err)
	}
	print, err := compute.Verify(be, ref, compute.Int8, formats.All())
	if err != nil || print != alone {
		t.Errorf("fingerprint %x (%v), alone %x", print[:4], err, alone[:4])
	}
	if _, err := compute.Verify(be, ref, compute.Float, formats.All()); !errors.Is(err, compute.ErrWrong) {
		t.Errorf("int8 activations pass for float: %v", err)
	}
	if used := ref.Used(); used.Weights+used.Caches != 0 {
		t.Errorf("the reference still holds %+v", used)
	}
}

// broken is a device that spoils one value of what one operation computes.
type broken struct {
	compute.Backend
	done  chan compute.Completion
	reads [][]compute.Read
	spoil func(reads []compute.Read)
}

type brokenPass struct {
	compute.Pass
	b *broken
}

func (b *broken) Begin(batch *compute.Batch) compute.Pass {
	return brokenPass{b.Backend.Begin(batch), b}
}

func (b *broken) Completions() <-chan compute.Completion {
	c := <-b.Backend.Completions()
	b.spoil(b.reads[0])
	b.reads = b.reads[1:]
	b.done <- c
	return b.done
}

func (p brokenPass) Submit(tag uint64, reads ...compute.Read) {
	p.b.reads = append(p.b.reads, reads)
	p.Pass.Submit(tag, reads...)
}

// TestVerifyWrong: one wrong value is found, and the operation is named.
func TestVerifyWrong(t *testing.T) {
	ref := open(t, Config{Threads: 1, Reference: true})
	for op, c := range map[string]struct {
		reads, read int // of the pass with so many reads, this one
		value       float32
	}{
		"Head is off":                     {1, 0, 1e3},
		"NormLinear and RopeStore is off": {4, 2, -1e4},
		"Attend is off":                   {4, 1, float32(math.NaN())},
		"NormGateUp is off":               {4, 3, float32(math.Inf(1))},
		"Embed and LinearAdd is off":      {4, 0, 1e4},
	} {
		be := &broken{Backend: open(t, Config{Threads: 1}), done: make(chan compute.Completion, 1)}
		be.spoil = func(reads []compute.Read) {
			if len(reads) == c.reads {
				dst := reads[c.read].Dst
				dst[len(dst)/2] = c.value
			}
		}
		_, err := compute.Verify(be, ref, compute.Int8, formats.All()[:3])
		if !errors.Is(err, compute.ErrWrong) || !strings.Contains(err.Error(), op) || !strings.Contains(err.Error(), "self-test with F32") {
			t.Errorf("%s: %v", op, err)
		}
	}
}
