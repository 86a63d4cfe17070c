//go:build linux

package main

import (
	"math/bits"
	"time"
)

// histogram counts durations in buckets that are 1/32 of their value wide, as
// an HDR histogram does (http://hdrhistogram.org). The zero value is empty.
type histogram struct {
	counts [buckets]uint64
	n      uint64
	most   time.Duration
}

const (
	subBits = 5 // 32 buckets for each power of two
	buckets = 64 << subBits
)

// add counts one duration; negative ones count as 0.
func (h *histogram) add(d time.Duration) {
	d = max(d, 0)
	h.counts[bucketOf(uint64(d))]++
	h.n++
	h.most = max(h.most, d)
}

// bucketOf keeps values below 64 exact and the upper six bits of larger ones.
func bucketOf(v uint64) int {
	shift := max(bits.Len64(v)-subBits-1, 0)
	return shift<<subBits + int(v>>shift)
}

// upper is the largest value of a bucket.
func upper(bucket int) uint64 {
	shift := max(bucket>>subBits-1, 0)
	return uint64(bucket-shift<<subBits+1)<<shift - 1
}

// quantile returns the least value that a share q of the durations do not
// exceed, to 3 %; 0 of an empty histogram.
func (h *histogram) quantile(q float64) time.Duration {
	rank := uint64(q * float64(h.n))
	var seen uint64
	for i, c := range h.counts {
		if seen += c; c > 0 && seen >= rank {
			return min(time.Duration(upper(i)), h.most)
		}
	}
	return h.most
}
