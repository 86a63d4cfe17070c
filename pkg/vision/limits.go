// Package vision turns the bytes of a picture into rows that a language model takes in
// place of embeddings: decoded within limits, upright, resized as CLIPImageProcessor
// does, normalised, and run through a vision transformer and a projector.
//
// It computes on the processor, whatever devices the language model is on, and the rows
// are a function of the picture's bytes and the weights alone: sums run in a fixed
// order with the kernels of the weight formats, and what is computed besides rounds
// every product by itself.
package vision

import (
	"errors"
	"fmt"
)

// What is wrong with a picture; Decode wraps one of them for each it refuses.
var (
	ErrFormat     = errors.New("not a picture of a known format: send PNG, JPEG, WebP or GIF")
	ErrBytes      = errors.New("the picture has too many bytes")
	ErrPixels     = errors.New("the picture has too many pixels")
	ErrSmall      = errors.New("the picture is too small")
	ErrProportion = errors.New("the picture is too narrow for its length")
	ErrAnimated   = errors.New("animated WebP is not decoded: send its first frame")
	ErrDamaged    = errors.New("the picture is damaged or truncated")
)

// Limits bound the work and the memory that one picture costs.
type Limits struct {
	Bytes      int // of the file
	Pixels     int // width times height
	MinSide    int // pixels of the shorter side
	Proportion int // the longer side over the shorter one
}

// DefaultLimits admit what cameras and screens make. A pixel costs up to 30 bytes
// at a time (progressive CMYK JPEG: 16 of coefficients, 8 decoded, 6 flat and turned),
// so a picture costs at most 480 MB.
func DefaultLimits() Limits {
	return Limits{Bytes: 10 << 20, Pixels: 16_000_000, MinSide: 2, Proportion: 100}
}

func (l Limits) check(width, height int) error {
	short, long := min(width, height), max(width, height)
	switch {
	case short < l.MinSide:
		return fmt.Errorf("%w: %d×%d; the shorter side must have %d pixels", ErrSmall, width, height, l.MinSide)
	case long > l.Pixels/short:
		return fmt.Errorf("%w: %d×%d; at most %d are decoded", ErrPixels, width, height, l.Pixels)
	case long > l.Proportion*short:
		return fmt.Errorf("%w: %d×%d; at most %d:1", ErrProportion, width, height, l.Proportion)
	}
	return nil
}
