package bandwidth

import (
	"testing"

	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/quant/p16"
)

// TestKernelsReadAllOfIt sets one byte at a time: a kernel that skips a load
// does not see it. The kernels return the OR of the first word of each register
// of 32 or 64 bytes, the portable one that of all words.
func TestKernelsReadAllOfIt(t *testing.T) {
	for _, l := range []quant.Level{quant.Portable, quant.AVX2, quant.AVX512} {
		if l > p16.Best() {
			t.Logf("no %s here", l)
			continue
		}
		read := kernel(l)
		p := make([]byte, 4096)
		if got := read(p); got != 0 {
			t.Errorf("%s: zeros read as %#x", l, got)
		}
		for at := 0; at < len(p); at += 64 {
			p[at] = 0x40
			if got := read(p); got != 0x40 {
				t.Errorf("%s: byte %d read as %#x, want 0x40", l, at, got)
			}
			p[at] = 0
		}
	}
}

func TestRegion(t *testing.T) {
	r, err := New(8 << 20)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if r.Size() != 8<<20 {
		t.Errorf("size %d", r.Size())
	}
	for _, c := range []struct{ size, threads, passes int }{{8 << 20, 1, 1}, {8 << 20, 3, 2}, {1 << 20, 1, 1}, {5 << 20, 2, 1}} {
		if rate, err := r.Read(c.size, c.threads, c.passes); err != nil || rate <= 0 {
			t.Errorf("%+v: %g bytes/s, %v", c, rate, err)
		}
	}
	for _, c := range []struct{ size, threads, passes int }{{8 << 20, 0, 1}, {8 << 20, 1, 0}, {8 << 20, 9, 1}, {9 << 20, 1, 1}, {0, 1, 1}} {
		if _, err := r.Read(c.size, c.threads, c.passes); err == nil {
			t.Errorf("%+v: no error", c)
		}
	}
	if _, err := New(0); err == nil {
		t.Error("a region of nothing was made")
	}
}
