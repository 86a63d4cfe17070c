package vision

import (
	"errors"
	"fmt"
)

// Preprocess says what a vision tower reads: the fields of CLIPImageProcessor.
type Preprocess struct {
	Size      int        // pixels of the shorter side after resizing
	Crop      int        // side of the square cut from the middle, at most Size
	Mean, Std [3]float32 // per channel, of values 0 to 1
}

// Check reports a description that no picture can follow.
func (p Preprocess) Check() error {
	if p.Size < 1 || p.Crop < 1 || p.Crop > p.Size {
		return fmt.Errorf("a square of %d pixels cannot be cut from a side of %d", p.Crop, p.Size)
	}
	for _, s := range p.Std {
		if !(s > 0) {
			return errors.New("the standard deviation of a channel is not above 0")
		}
	}
	return nil
}

// Square resizes the shorter side to Size and cuts the middle.
func (p Preprocess) Square(src *RGB) *RGB {
	width, height := p.Size, p.Size
	if src.Width <= src.Height {
		height = int(int64(p.Size) * int64(src.Height) / int64(src.Width))
	} else {
		width = int(int64(p.Size) * int64(src.Width) / int64(src.Height))
	}
	scaled := resize(src, width, height)
	out := &RGB{Width: p.Crop, Height: p.Crop, Pix: make([]byte, 0, 3*p.Crop*p.Crop)}
	left, top := (width-p.Crop)/2, (height-p.Crop)/2
	for y := range p.Crop {
		row := scaled.Pix[3*((top+y)*width+left):]
		out.Pix = append(out.Pix, row[:3*p.Crop]...)
	}
	return out
}

// Values are what the tower reads of a picture: 3 planes of Crop × Crop.
func (p Preprocess) Values(src *RGB) []float32 {
	square := p.Square(src)
	plane := p.Crop * p.Crop
	out := make([]float32, 3*plane)
	for i := range plane {
		for c := range 3 {
			v := float32(float64(square.Pix[3*i+c]) / 255)
			out[c*plane+i] = (v - p.Mean[c]) / p.Std[c]
		}
	}
	return out
}
