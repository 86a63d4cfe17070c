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
	} {
		if got, err := ParseKVClass(text); err != nil || got.String() != want {
			t.Errorf("%s is %s, want %s, %v", text, got, want, err)
		}
	}
	for _, text := range []string{
		"", "0", "5", "4/7", "4/", "16/32", "32", "float32/32", "-4", "four", "4@", "4@0", "4@100", "4@-64", "8@128", "16@128", "16-", "16-16", "float32-4",
		"4-3", "4@128-3@128", "4@128-3@64", "3@128-4@1024", "4@128-4@1024", "8@128-4@1024", "4@64-3@128-2@256", "4/32@64-3/64@128", "16-8", "4@64@128", "16-16-4",
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
		{1, 256, 1000, KVPools{5 + 4, 19 + 4}}, {4, 64, 1000, KVPools{21, 77}}, {4, 64, 30, KVPools{21, 30}},
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
