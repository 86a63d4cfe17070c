package sample

import "testing"

// The known-answer vectors of the Random123 distribution (kat_vectors).
func TestPhiloxKnownAnswers(t *testing.T) {
	for _, c := range []struct {
		counter [4]uint32
		key     [2]uint32
		want    [4]uint32
	}{
		{
			want: [4]uint32{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
		},
		{
			counter: [4]uint32{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
			key:     [2]uint32{0xffffffff, 0xffffffff},
			want:    [4]uint32{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
		},
		{
			counter: [4]uint32{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
			key:     [2]uint32{0xa4093822, 0x299f31d0},
			want:    [4]uint32{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1},
		},
	} {
		if got := philox(c.counter, c.key); got != c.want {
			t.Errorf("philox(%x, %x) = %x, want %x", c.counter, c.key, got, c.want)
		}
	}
}

func TestUniformDependsOnEveryPartOfItsCounter(t *testing.T) {
	base := uniform(7, 100, 0)
	for name, other := range map[string]float64{
		"seed low": uniform(8, 100, 0), "seed high": uniform(7|1<<40, 100, 0),
		"position low": uniform(7, 101, 0), "position high": uniform(7, 100|1<<40, 0),
		"choice": uniform(7, 100, 1),
	} {
		if other == base {
			t.Errorf("a change of %s changes nothing", name)
		}
	}
	sum := 0.0
	for i := range uint64(10_000) {
		u := uniform(42, i, 0)
		if u < 0 || u >= 1 {
			t.Fatalf("uniform at %d is %v", i, u)
		}
		sum += u
	}
	if mean := sum / 10_000; mean < 0.49 || mean > 0.51 {
		t.Errorf("mean of 10,000 draws is %v", mean)
	}
}
