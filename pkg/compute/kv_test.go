package compute

import (
	"errors"
	"testing"
)

// TestKVClassIsSpelled: what is read is what is printed, and sizes are those of
// codes, scales and minimums.
func TestKVClassIsSpelled(t *testing.T) {
	for text, want := range map[string]struct {
		class KVClass
		bytes int // of a head of 64: 2 × 4,096 values
	}{
		"float32": {KVClass{}, 4 * 8192}, "16": {KVClass{Bits: 16}, 2 * 8192}, "8/32": {KVClass{Bits: 8, Group: 32}, 8192 + 8192/32*4},
		"4/64@128": {KVClass{Bits: 4, Group: 64, Recent: 128}, 4096 + 8192/64*4}, "3/32@64": {KVClass{Bits: 3, Group: 32, Recent: 64}, 3072 + 8192/32*4},
		"2/32@256": {KVClass{Bits: 2, Group: 32, Recent: 256}, 2048 + 8192/32*4}, "2/128@64": {KVClass{Bits: 2, Group: 128, Recent: 64}, 2048 + 4096/64*4 + 4096/128*4},
		"4@128-3/32@1024": {KVClass{Bits: 3, Group: 32, Recent: 128, Upper: 4, Far: 1024}, 3072 + 8192/32*4},
	} {
		got, err := ParseKVClass(text)
		if err != nil || got != want.class || got.String() != text || got.HeadBytes(64) != want.bytes {
			t.Errorf("%s: %+v of %d bytes, printed %s, %v", text, got, got.HeadBytes(64), got, err)
		}
	}
	for text, want := range map[string]string{
		"4": "4/32@128", "8": "8/32", "3/64": "3/64@128", "16-4": "4/32@128", "16-4@256": "4/32@256",
		"16-4@128-3@1024": "4@128-3/32@1024", "4-2@1024": "4@128-2/32@1024", "4/64@64-2@128": "4@64-2/64@128",
		"16+4:1": "16+4:1@1024", "8+8:1@4096": "8/32+8:1@4096", "4@128-3@1024+4:1": "4@128-3/32@1024+4:1@1024", "4@128-2@1536+4:1": "4@128-2/32@1536+4:1@2048",
	} {
		if got, err := ParseKVClass(text); err != nil || got.String() != want {
			t.Errorf("%s is %s, want %s, %v", text, got, want, err)
		}
	}
	for _, text := range []string{
		"", "0", "5", "4/7", "4/", "16/32", "32", "float32/32", "-4", "four", "4@", "4@0", "4@100", "4@-64", "8@128", "16@128", "16-", "16-16", "float32-4",
		"4-3", "4@128-3@128", "4@128-3@64", "3@128-4@1024", "4@128-4@1024", "8@128-4@1024", "4@64-3@128-2@256", "4/32@64-3/64@128", "16-8", "4@64@128", "16-16-4",
		"float32+4:1", "16+", "16+4", "16+0:1", "16+2:1", "16+4:1@", "16+4:1@0", "16+4:1@100", "16+4:1@1000", "4@2048+4:1@1024", "16+4:1@1024+8:1",
	} {
		if got, err := ParseKVClass(text); !errors.Is(err, ErrKVClass) {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	for dim, class := range map[int]KVClass{96: {Bits: 8, Group: 32}, 64: {Bits: 4, Group: 128, Recent: 64}, 80: {Bits: 2, Group: 32, Recent: 64}, 32: {Bits: 2, Group: 32}} {
		if err := class.CheckHead(dim); !errors.Is(err, ErrKVClass) {
			t.Errorf("heads of %d in %s: %v", dim, class, err)
		}
	}
}

// TestPools: each session has what its rows may see and one page more, a step its
// rows; no pool has more pages than there are.
func TestPools(t *testing.T) {
	class := KVClass{Bits: 3, Group: 32, Recent: 128, Upper: 4, Far: 1024}
	for _, c := range []struct {
		slots, rows, pages int
		want               KVPools
	}{
		{1, 256, 1000, KVPools{Recent: 5 + 4, Upper: 19 + 4}}, {4, 64, 1000, KVPools{Recent: 21, Upper: 77}}, {4, 64, 30, KVPools{Recent: 21, Upper: 30}},
	} {
		if got := class.Pools(c.slots, c.rows, c.pages); got != c.want {
			t.Errorf("%d slots, %d rows, %d pages: %+v, want %+v", c.slots, c.rows, c.pages, got, c.want)
		}
	}
	if got := (KVClass{Bits: 8, Group: 32}).Pools(4, 64, 100); got != (KVPools{}) {
		t.Errorf("8 bits: %+v", got)
	}
	spec := CacheSpec{Layers: 3, Pages: 10, KVHeads: 2, HeadDim: 64, Class: class, Pools: KVPools{Recent: 4, Upper: 6}}
	if got, want := spec.Bytes(), uint64(3*2*(10*4096+4*16384+6*5120)); got != want {
		t.Errorf("%d bytes, want %d", got, want)
	}
}

// TestThinning: where a session has a multiple of 1,024 positions it keeps a fourth,
// or an eighth, of the block that has become old enough; Pages counts what it holds, and what it keeps
// beside the block while it thins it.
func TestThinning(t *testing.T) {
	class := KVClass{Bits: 16, Ratio: 4, Older: 1024}
	for position, want := range map[int]int{0: 0, 2047: 0, 2048: 1, 3071: 1, 3072: 2, 32767: 30} {
		if got := class.Thinned(position); got != want {
			t.Errorf("position %d sees %d thinned blocks, want %d", position, got, want)
		}
	}
	for _, c := range []struct{ n, four, eight int }{
		{0, 0, 0}, {1, 1, 1}, {2048, 32, 32}, {2049, 36, 34}, {3072, 36, 34}, {32768, 152, 92},
	} {
		eight := KVClass{Bits: 16, Ratio: 8, Older: 1024}
		if four, eight := class.Pages(c.n), eight.Pages(c.n); four != c.four || eight != c.eight {
			t.Errorf("%d positions take %d and %d pages, want %d and %d", c.n, four, eight, c.four, c.eight)
		}
	}
	if got := class.Cut(1000, 100); got != 24 {
		t.Errorf("%d rows from 1000 on are in one step", got)
	}
	if got := class.Shared(); got != 1984 {
		t.Errorf("%d positions are shared", got)
	}
}
