package vision

import "math"

// fraction is the number of fraction bits of a weight: 32 less 8 of a channel and 2
// for sums that overshoot, as in Pillow.
const fraction = 32 - 8 - 2

// taps are the sources of one output pixel: weights of pixels first, first+1, …
type taps struct {
	first   int
	weights []int32
}

// resize scales a picture with the antialiased bicubic filter (a = -0.5) in fixed
// point, rows first and 8-bit between the passes, so that results equal Pillow's.
func resize(p *RGB, width, height int) *RGB {
	across := &RGB{Width: width, Height: p.Height, Pix: make([]byte, 3*width*p.Height)}
	columns := bicubic(p.Width, width)
	for y := range p.Height {
		for x, t := range columns {
			weigh(across.Pix[3*(y*width+x):], p.Pix[3*(y*p.Width+t.first):], 3, t.weights)
		}
	}
	out := &RGB{Width: width, Height: height, Pix: make([]byte, 3*width*height)}
	for y, t := range bicubic(p.Height, height) {
		for x := range width {
			weigh(out.Pix[3*(y*width+x):], across.Pix[3*(t.first*width+x):], 3*width, t.weights)
		}
	}
	return out
}

// weigh writes the weighted sum of pixels that lie stride bytes apart.
func weigh(dst, src []byte, stride int, weights []int32) {
	for c := range 3 {
		sum := int64(1) << (fraction - 1)
		for i, w := range weights {
			sum += int64(w) * int64(src[i*stride+c])
		}
		dst[c] = byte(min(max(sum>>fraction, 0), 255))
	}
}

func bicubic(from, to int) []taps {
	scale := float64(from) / float64(to)
	stretch := max(scale, 1)
	support := 2 * stretch
	all := make([]taps, to)
	for i := range all {
		center := float64((float64(i) + 0.5) * scale)
		first := max(int(center-support+0.5), 0)
		end := min(int(center+support+0.5), from)
		exact := make([]float64, end-first)
		total := 0.0
		for j := range exact {
			exact[j] = keys(float64((float64(first+j) - center + 0.5) * (1 / stretch)))
			total += exact[j]
		}
		weights := make([]int32, len(exact))
		for j, w := range exact {
			weights[j] = int32(math.Round(w / total * (1 << fraction)))
		}
		all[i] = taps{first, weights}
	}
	return all
}

// keys is Keys' cubic convolution kernel with a = -0.5.
func keys(x float64) float64 {
	const a = -0.5
	x = math.Abs(x)
	switch {
	case x < 1:
		return float64((float64((a+2)*x)-(a+3))*x*x) + 1
	case x < 2:
		return (float64((float64((x-5)*x)+8)*x) - 4) * a
	}
	return 0
}
