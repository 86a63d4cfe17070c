//go:build linux

package main

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// TestQuantiles holds the histogram against sorted values.
func TestQuantiles(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var h histogram
	var all []time.Duration
	for range 10_000 {
		d := time.Duration(1) << r.IntN(40)
		d += time.Duration(r.Int64N(int64(d)))
		h.add(d)
		all = append(all, d)
	}
	slices.Sort(all)
	for _, q := range []float64{0.001, 0.25, 0.5, 0.9, 0.99, 0.999, 1} {
		want := all[max(int(q*float64(len(all)))-1, 0)]
		got := h.quantile(q)
		if got < want || float64(got) > 1.04*float64(want)+1 {
			t.Errorf("quantile %v = %v, want %v to 4 %% above", q, got, want)
		}
	}
}

// TestBucketsCoverAllValues walks the bounds of buckets.
func TestBucketsCoverAllValues(t *testing.T) {
	for b := range bucketOf(1 << 60) {
		if v := upper(b); bucketOf(v) != b || bucketOf(v+1) != b+1 {
			t.Fatalf("bucket %d ends at %d, which is in bucket %d and followed by %d", b, v, bucketOf(v), bucketOf(v+1))
		}
	}
}

// One window that something else disturbed does not decide a comparison.
func TestMedianP99ForgetsABlip(t *testing.T) {
	quiet, blip := window{}, window{}
	for range 200 {
		quiet.latency.add(time.Millisecond)
		blip.latency.add(time.Second)
	}
	if got := medianP99([]window{quiet, blip, quiet}); got != time.Millisecond {
		t.Errorf("the median is %v", got)
	}
}
