package vram

import "testing"

func TestOf(t *testing.T) {
	list := []Device{{"one", 1, 2, 100}, {"two", 1, 3, 200}, {"soft", 0, 0, 300}}
	for _, c := range []struct {
		name           string
		vendor, device uint32
		want           uint64
	}{
		{"another spelling", 1, 3, 200}, {"soft", 0, 0, 300}, {"one", 9, 9, 100}, {"nobody", 9, 9, 0},
	} {
		if got := Of(list, c.name, c.vendor, c.device); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
	if got := Of([]Device{{Bytes: 7}}, "any", 1, 1); got != 7 {
		t.Errorf("shared memory: %d", got)
	}
}

// TestList: whatever has a name has memory.
func TestList(t *testing.T) {
	for _, d := range List() {
		t.Logf("%+v", d)
		if d.Bytes == 0 || d.Bytes > 1<<48 {
			t.Errorf("%s has %d bytes", d.Name, d.Bytes)
		}
	}
}
