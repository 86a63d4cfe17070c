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
		row   int // of 64 values
	}{
		"float32": {KVClass{}, 256}, "16": {KVClass{Bits: 16}, 128}, "8/32": {KVClass{8, 32}, 64 + 8}, "4/64": {KVClass{4, 64}, 32 + 4},
		"3/32": {KVClass{3, 32}, 24 + 8}, "2/64": {KVClass{2, 64}, 16 + 4},
	} {
		got, err := ParseKVClass(text)
		if err != nil || got != want.class || got.String() != text || got.RowBytes(64) != want.row {
			t.Errorf("%s: %+v of %d bytes a row, printed %s, %v", text, got, got.RowBytes(64), got, err)
		}
	}
	if got, err := ParseKVClass("4"); err != nil || got != (KVClass{4, DefaultKVGroup}) {
		t.Errorf("4: %+v, %v", got, err)
	}
	for _, text := range []string{"", "0", "5", "4/7", "4/", "16/32", "32", "float32/32", "-4", "four"} {
		if got, err := ParseKVClass(text); !errors.Is(err, ErrKVClass) {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	for dim, class := range map[int]KVClass{96: {4, 32}, 64: {4, 128}, 32: {2, 64}} {
		if err := class.CheckHead(dim); !errors.Is(err, ErrKVClass) {
			t.Errorf("heads of %d in %s: %v", dim, class, err)
		}
	}
}
