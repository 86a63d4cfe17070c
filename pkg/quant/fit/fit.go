// Package fit chooses the scales with which groups of values are rounded to few
// levels, so that the weighted sum of squared errors is small.
//
// Several scales near the one that spans all values are tried. For the levels that
// each rounds to, the best scale follows by least squares, and the scale with the
// least error is taken: a few large values may be cut so that the many others lie
// closer. Weights say how much an error of each value matters; nil is all the same.
// No product is fused with a sum, so a file is the same wherever it is made.
package fit

import "math"

// How many scales are tried on each side of the first, and how far apart, in parts
// of a level.
const (
	tries = 9
	apart = 0.1
)

// Blocks has each block of elems values of src written to its bytes of dst, which are
// zeros then. weights are those of the values; nil where weight is.
func Blocks(dst []byte, src, weight []float32, bytes, elems int, write func(block []byte, values, weights []float32)) {
	for ; len(src) >= elems; dst, src = dst[bytes:], src[elems:] {
		var w []float32
		if weight != nil {
			w, weight = weight[:elems], weight[elems:]
		}
		block := dst[:bytes]
		clear(block)
		write(block, src[:elems], w)
	}
}

// weightOf is the weight of value i.
func weightOf(w []float32, i int) float32 {
	if w == nil {
		return 1
	}
	return w[i]
}

// part is the weights of n values from at on.
func part(w []float32, at, n int) []float32 {
	if w == nil {
		return nil
	}
	return w[at : at+n]
}

// Scale returns the scale with which levels least (negative) to most stand for x
// best: value = scale·level. It is 0 for zeros alone, and may be negative, where
// the largest value is better served by least.
func Scale(x, w []float32, least, most int) float32 {
	var extreme float32
	for _, v := range x {
		if abs(v) > abs(extreme) {
			extreme = v
		}
	}
	if abs(extreme) < tiny {
		return 0
	}
	var best, bestGain float32
	for k := -tries; k <= tries; k++ {
		inverse := (float32(least) + float32(apart*float32(k))) / extreme
		var products, squares float32
		for i, v := range x {
			level := float32(Level(v*inverse, least, most))
			weighted := weightOf(w, i) * level
			products += float32(v * weighted)
			squares += float32(level * weighted)
		}
		if gain := float32(products*products) / squares; squares > 0 && gain > bestGain {
			best, bestGain = products/squares, gain
		}
	}
	return best
}

// tiny is a magnitude below which values are as good as zeros: halves hold no
// scale of theirs.
const tiny = 1e-30

// Line returns a scale and an offset, at most 0, with which levels 0 to most stand
// for x best: value = scale·level + offset. Both are 0 where all values are.
func Line(x, w []float32, most int) (scale, offset float32) {
	low, high := float32(0), float32(0)
	for _, v := range x {
		low, high = min(low, v), max(high, v)
	}
	if high-low < tiny {
		return 0, 0
	}
	least := float32(math.Inf(1))
	for k := -tries; k <= tries; k++ {
		s := (high - low) / (float32(most) + float32(apart*float32(k)))
		for _, o := range [2]float32{low, low + s/2} {
			s2, o2 := refine(x, w, s, min(o, 0), most)
			if e := Error(x, w, s2, o2, most); e < least {
				least, scale, offset = e, s2, o2
			}
		}
	}
	return scale, offset
}

// refine returns the least-squares line through the levels that a line rounds x to.
func refine(x, w []float32, scale, offset float32, most int) (float32, float32) {
	var n, levels, squares, values, products float32
	inverse := 1 / scale
	for i, v := range x {
		level := float32(Level((v-offset)*inverse, 0, most))
		weight := weightOf(w, i)
		weighted := weight * level
		n, levels, squares = n+weight, levels+weighted, squares+float32(weighted*level)
		values, products = values+float32(weight*v), products+float32(v*weighted)
	}
	determinant := float32(n*squares) - float32(levels*levels)
	if determinant <= 0 {
		return scale, offset
	}
	s := (float32(n*products) - float32(levels*values)) / determinant
	o := (float32(squares*values) - float32(levels*products)) / determinant
	if o > 0 {
		s, o = products/squares, 0
	}
	if s <= 0 {
		return scale, offset
	}
	return s, o
}

// Error returns the weighted sum of squared errors of x rounded to levels 0 to most
// of a line.
func Error(x, w []float32, scale, offset float32, most int) (sum float32) {
	inverse := float32(0)
	if scale > 0 {
		inverse = 1 / scale
	}
	for i, v := range x {
		level := Level((v-offset)*inverse, 0, most)
		e := v - float32(scale*float32(level)) - offset
		sum += float32(weightOf(w, i) * float32(e*e))
	}
	return sum
}

// Level rounds x to the nearest level from least to most, ties to even. Levels are
// few: a sum with 1.5·2^23 rounds them.
func Level(x float32, least, most int) int {
	const whole = 3 << 22
	switch {
	case x <= float32(least):
		return least
	case x < float32(most):
		return int(int32(math.Float32bits(x+whole)) - int32(math.Float32bits(whole)))
	}
	return most
}

func abs(x float32) float32 { return math.Float32frombits(math.Float32bits(x) &^ (1 << 31)) }
