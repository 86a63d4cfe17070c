package fit

import (
	"iter"
	"math"

	"github.com/shoal-llm/shoal/pkg/tensor"
)

// Super is a super-block: values in sub-blocks, whose scales (and minimums) are
// levels of the super-block's own. A format lays it out as bits. The zero value is
// ready; it is filled by one of the two methods, for as many values as it is given.
type Super struct {
	D, Min           uint16 // binary16: what the scales and the minimums are levels of
	Scales, Minimums [16]int8
	Levels           [256]int8
}

// Range are the levels of something: least may be negative.
type Range struct{ Least, Most int }

// Scaled fits values as level·scale·D, for sub-blocks of sub values. The scale of
// the super-block is fitted anew once its levels are known.
func (s *Super) Scaled(x, w []float32, sub int, values, scales Range) {
	*s = Super{}
	var wanted [16]float32
	var heavy [16]float32 // what errors of a sub-block's scale cost
	n := len(x) / sub
	for j := range n {
		part, weights := x[j*sub:][:sub], part(w, j*sub, sub)
		wanted[j] = Scale(part, weights, values.Least, values.Most)
		for i, v := range part {
			heavy[j] += float32(weightOf(weights, i) * float32(v*v))
		}
		if wanted[j] != 0 {
			heavy[j] /= float32(wanted[j] * wanted[j])
		}
	}
	best := float32(math.Inf(1))
	try := func(d float32) {
		t := Super{D: tensor.F32ToF16(d)}
		if d = tensor.F16ToF32(t.D); d-d != 0 {
			return
		}
		var sum float32
		for j := range n {
			e, code := scaleNear(x[j*sub:][:sub], part(w, j*sub, sub), d, wanted[j], values, scales)
			t.Scales[j], sum = int8(code), sum+e
		}
		if sum < best {
			best = sum
			t.round(x, sub, values)
			*s = t
		}
	}
	first := Scale(wanted[:n], heavy[:n], scales.Least, scales.Most)
	for d := range coarser(first) {
		try(first * d)
	}
	for range 2 {
		before := s.D
		try(s.refitScale(x, w, sub))
		if s.D == before {
			return
		}
	}
}

// coarser yields the multiples of a scale that are worth a try: 1, and where a half
// holds the scale with few bits alone, larger ones, which leave fewer levels.
func coarser(scale float32) iter.Seq[float32] {
	return func(yield func(float32) bool) {
		for k := float32(1); yield(k) && k < 32 && abs(scale*k) < leastFine; k *= 2 {
		}
	}
}

// leastFine is the least magnitude that a half holds with six bits and more.
const leastFine = 0x1p-18

// scaleNear returns the least error of a sub-block with levels of its scale near a
// wanted one, and that level.
func scaleNear(x, w []float32, d, wanted float32, values, scales Range) (least float32, best int) {
	if d == 0 {
		for i, v := range x {
			least += float32(weightOf(w, i) * float32(v*v))
		}
		return least, 0
	}
	least = float32(math.Inf(1))
	first := Level(wanted/d, scales.Least, scales.Most)
	for code := max(first-1, scales.Least); code <= min(first+1, scales.Most); code++ {
		scale := d * float32(code)
		var sum float32
		for i, v := range x {
			e := v - float32(scale*float32(levelOf(v, scale, values)))
			sum += float32(weightOf(w, i) * float32(e*e))
		}
		if sum < least {
			least, best = sum, code
		}
	}
	return least, best
}

func levelOf(v, scale float32, values Range) int {
	if scale == 0 {
		return 0
	}
	return Level(v/scale, values.Least, values.Most)
}

// round sets the levels by the scales.
func (s *Super) round(x []float32, sub int, values Range) {
	d := tensor.F16ToF32(s.D)
	for i, v := range x {
		s.Levels[i] = int8(levelOf(v, d*float32(s.Scales[i/sub]), values))
	}
}

// refitScale returns the scale of the super-block that is best for its levels.
func (s *Super) refitScale(x, w []float32, sub int) float32 {
	var products, squares float32
	for i, v := range x {
		level := float32(s.Scales[i/sub]) * float32(s.Levels[i])
		weighted := weightOf(w, i) * level
		products += float32(v * weighted)
		squares += float32(level * weighted)
	}
	if squares == 0 {
		return 0
	}
	return products / squares
}

// Lined fits values as level·scale·D − minimum·Min, for sub-blocks of sub values;
// levels go from 0 to values, scales and minimums to codes.
func (s *Super) Lined(x, w []float32, sub, values, codes int) {
	*s = Super{}
	var scales, minimums [16]float32
	var mostS, mostM float32
	n := len(x) / sub
	for j := range n {
		scale, offset := Line(x[j*sub:][:sub], part(w, j*sub, sub), values)
		scales[j], minimums[j] = scale, -offset
		mostS, mostM = max(mostS, scale), max(mostM, -offset)
	}
	best := float32(math.Inf(1))
	try := func(d, m float32) {
		t := Super{D: tensor.F32ToF16(d), Min: tensor.F32ToF16(m)}
		d, m = tensor.F16ToF32(t.D), tensor.F16ToF32(t.Min)
		if d-d != 0 || m-m != 0 || d < 0 || m < 0 {
			return
		}
		var sum float32
		for j := range n {
			sum += t.lineNear(j, x[j*sub:][:sub], part(w, j*sub, sub), d, m, scales[j], minimums[j], values, codes)
		}
		if sum < best {
			best = sum
			t.roundLines(x, sub, values)
			*s = t
		}
	}
	d, m := mostS/float32(codes), mostM/float32(codes)
	for a := range coarser(d) {
		for b := range coarser(m) {
			try(d*a, m*b)
		}
	}
	for range 2 {
		before := [2]uint16{s.D, s.Min}
		try(s.refitLine(x, w, sub))
		if before == [2]uint16{s.D, s.Min} {
			return
		}
	}
}

// lineNear sets the codes of sub-block j near the wanted ones, with the least error,
// which it returns.
func (s *Super) lineNear(j int, x, w []float32, d, m, scale, minimum float32, values, codes int) float32 {
	least := float32(math.Inf(1))
	firstS, firstM := nearest(scale, d, codes), nearest(minimum, m, codes)
	for a := max(firstS-1, 0); a <= min(firstS+1, codes); a++ {
		for b := max(firstM-1, 0); b <= min(firstM+1, codes); b++ {
			if e := Error(x, w, d*float32(a), -m*float32(b), values); e < least {
				least, s.Scales[j], s.Minimums[j] = e, int8(a), int8(b)
			}
		}
	}
	return least
}

// roundLines sets the levels by the scales and minimums.
func (s *Super) roundLines(x []float32, sub, values int) {
	d, m := tensor.F16ToF32(s.D), tensor.F16ToF32(s.Min)
	for i, v := range x {
		scale, minimum := d*float32(s.Scales[i/sub]), m*float32(s.Minimums[i/sub])
		if scale > 0 {
			s.Levels[i] = int8(Level((v+minimum)/scale, 0, values))
		}
	}
}

// refitLine returns the two factors of the super-block that are best for its codes
// and levels.
func (s *Super) refitLine(x, w []float32, sub int) (d, m float32) {
	var aa, ab, bb, ax, bx float32
	for i, v := range x {
		a, b := float32(s.Scales[i/sub])*float32(s.Levels[i]), -float32(s.Minimums[i/sub])
		weight := weightOf(w, i)
		wa, wb := weight*a, weight*b
		aa, ab, bb = aa+float32(wa*a), ab+float32(wa*b), bb+float32(wb*b)
		ax, bx = ax+float32(wa*v), bx+float32(wb*v)
	}
	determinant := float32(aa*bb) - float32(ab*ab)
	if determinant <= 0 {
		return tensor.F16ToF32(s.D), tensor.F16ToF32(s.Min)
	}
	return (float32(bb*ax) - float32(ab*bx)) / determinant, (float32(aa*bx) - float32(ab*ax)) / determinant
}

func nearest(x, step float32, most int) int {
	if step == 0 {
		return 0
	}
	return Level(x/step, 0, most)
}
