package gguf

import (
	"errors"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/shoal-llm/shoal/pkg/gguf/gguftest"
)

// metaOf returns metadata with one pair, "k".
func metaOf(t *testing.T, v any) Metadata {
	t.Helper()
	f, err := Parse(gguftest.New().KV("k", v).Bytes(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	return f.Meta()
}

// checkGet checks a getter on values that it accepts and on ones it refuses.
func checkGet[T any](t *testing.T, get func(Metadata, string) (T, error), accepted map[any]T, refused ...any) {
	t.Helper()
	for in, want := range accepted {
		if got, err := get(metaOf(t, in), "k"); err != nil || !cmp.Equal(got, want) {
			t.Errorf("%T %v: got %v, %v; want %v", in, in, got, err, want)
		}
	}
	for _, in := range refused {
		if got, err := get(metaOf(t, in), "k"); !errors.Is(err, ErrWrongType) {
			t.Errorf("%T %v: got %v, %v; want ErrWrongType", in, in, got, err)
		}
	}
	if got, err := get(metaOf(t, "v"), "other"); !errors.Is(err, ErrMissing) {
		t.Errorf("no such key: got %v, %v; want ErrMissing", got, err)
	}
}

func TestIntegers(t *testing.T) {
	checkGet(t, Metadata.Uint32, map[any]uint32{
		uint8(200): 200, uint16(60000): 60000, uint32(math.MaxUint32): math.MaxUint32, uint64(7): 7,
		int8(7): 7, int16(7): 7, int32(7): 7, int64(7): 7,
	}, uint64(1<<32), int8(-1), int64(-1), float32(7), "7", true, []uint32{7})
	checkGet(t, Metadata.Uint64, map[any]uint64{
		uint64(math.MaxUint64): math.MaxUint64, int64(math.MaxInt64): math.MaxInt64, uint8(1): 1,
	}, int32(-1), float64(7), "7", true)
	checkGet(t, Metadata.Int32, map[any]int32{
		int8(-1): -1, int16(-300): -300, int32(math.MinInt32): math.MinInt32, int64(-5): -5, uint32(5): 5, uint64(math.MaxInt32): math.MaxInt32,
	}, uint32(1<<31), int64(math.MinInt32-1), uint64(math.MaxUint64), float32(1), "1", true)
}

func TestOtherScalars(t *testing.T) {
	checkGet(t, Metadata.Float32, map[any]float32{
		float32(1e-5): 1e-5, float64(0.1): 0.1, float32(math.Inf(1)): float32(math.Inf(1)),
	}, uint32(1), "1", true, []float32{1})
	checkGet(t, Metadata.Bool, map[any]bool{true: true, false: false}, uint8(1), "true", []bool{true})
	checkGet(t, Metadata.String, map[any]string{"": "", "text": "text", "\xff\x00": "\xff\x00"}, uint8(1), []string{"text"})
	f, err := Parse(gguftest.New().RawKV("k", gguftest.Bool, []byte{2}).Bytes(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if b, err := f.Meta().Bool("k"); !errors.Is(err, ErrWrongType) {
		t.Errorf("a bool of 2 is %v, %v; want ErrWrongType", b, err)
	}
}

func TestArrays(t *testing.T) {
	texts := []string{"", "a", "bc", "\xe2\x96\x81"}
	if got, err := metaOf(t, texts).Strings("k"); err != nil || !cmp.Equal(got, texts) {
		t.Errorf("strings: %q, %v", got, err)
	}
	for _, in := range []any{[]int8{1, -2}, []int16{1, -2}, []int32{1, -2}, []int64{1, -2}} {
		if got, err := metaOf(t, in).Int32s("k"); err != nil || !cmp.Equal(got, []int32{1, -2}) {
			t.Errorf("%T: %v, %v", in, got, err)
		}
	}
	for _, in := range []any{[]float32{0.5, -2}, []float64{0.5, -2}} {
		if got, err := metaOf(t, in).Float32s("k"); err != nil || !cmp.Equal(got, []float32{0.5, -2}) {
			t.Errorf("%T: %v, %v", in, got, err)
		}
	}
	if got, err := metaOf(t, []string{}).Strings("k"); err != nil || len(got) != 0 {
		t.Errorf("no strings: %q, %v", got, err)
	}
	if got, err := metaOf(t, []uint32{1 << 31}).Int32s("k"); !errors.Is(err, ErrWrongType) {
		t.Errorf("2^31 as int32: %v, %v", got, err)
	}
	for _, in := range []any{[]float32{1}, []string{"1"}, int32(1), "1"} {
		if got, err := metaOf(t, in).Int32s("k"); !errors.Is(err, ErrWrongType) {
			t.Errorf("%T as Int32s: %v, %v", in, got, err)
		}
	}
	if n, err := metaOf(t, texts).Len("k"); n != 4 || err != nil {
		t.Errorf("Len = %d, %v", n, err)
	}
	if n, err := metaOf(t, "text").Len("k"); !errors.Is(err, ErrWrongType) {
		t.Errorf("Len of a string = %d, %v", n, err)
	}
}

func TestOptional(t *testing.T) {
	m := metaOf(t, uint32(7))
	if v, ok, err := Optional(m.Uint32("k")); v != 7 || !ok || err != nil {
		t.Errorf("present: %d, %v, %v", v, ok, err)
	}
	if v, ok, err := Optional(m.Uint32("other")); v != 0 || ok || err != nil {
		t.Errorf("absent: %d, %v, %v", v, ok, err)
	}
	if _, ok, err := Optional(m.String("k")); ok || !errors.Is(err, ErrWrongType) {
		t.Errorf("another type: %v, %v", ok, err)
	}
	if !m.Has("k") || m.Has("other") {
		t.Error("Has is wrong")
	}
}
