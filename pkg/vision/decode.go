package vision

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"

	"golang.org/x/image/webp"
)

// RGB is a picture of 8-bit red, green and blue, row by row.
type RGB struct {
	Width, Height int
	Pix           []byte // 3 × Width × Height
}

type format struct {
	name   string
	config func(*bytes.Reader) (image.Config, error)
	decode func(*bytes.Reader) (image.Image, error)
}

// sniff finds the format by the first bytes, whatever the sender calls it.
func sniff(data []byte) (format, bool) {
	switch {
	case bytes.HasPrefix(data, []byte("\x89PNG\r\n\x1a\n")):
		return format{"PNG",
			func(r *bytes.Reader) (image.Config, error) { return png.DecodeConfig(r) },
			func(r *bytes.Reader) (image.Image, error) { return png.Decode(r) }}, true
	case bytes.HasPrefix(data, []byte("\xff\xd8\xff")):
		return format{"JPEG",
			func(r *bytes.Reader) (image.Config, error) { return jpeg.DecodeConfig(r) },
			func(r *bytes.Reader) (image.Image, error) { return jpeg.Decode(r) }}, true
	case bytes.HasPrefix(data, []byte("GIF87a")), bytes.HasPrefix(data, []byte("GIF89a")):
		return format{"GIF",
			func(r *bytes.Reader) (image.Config, error) { return gif.DecodeConfig(r) },
			func(r *bytes.Reader) (image.Image, error) { return gif.Decode(r) }}, true
	case len(data) >= 12 && string(data[:4]) == "RIFF" && string(data[8:12]) == "WEBP":
		return format{"WebP",
			func(r *bytes.Reader) (image.Config, error) { return webp.DecodeConfig(r) },
			func(r *bytes.Reader) (image.Image, error) { return webp.Decode(r) }}, true
	}
	return format{}, false
}

// opened is a picture whose header is within limits.
type opened struct {
	format
	width, height int
}

// Check reports what is wrong with a picture as far as its header tells: nothing of
// the size of the picture is allocated. What it lets pass, Decode may still refuse.
func Check(data []byte, limits Limits) error {
	_, err := open(data, limits)
	return err
}

func open(data []byte, limits Limits) (opened, error) {
	if len(data) > limits.Bytes {
		return opened{}, fmt.Errorf("%w: %d; at most %d are read", ErrBytes, len(data), limits.Bytes)
	}
	f, ok := sniff(data)
	if !ok {
		return opened{}, ErrFormat
	}
	if f.name == "WebP" && animatedWebP(data) {
		return opened{}, ErrAnimated
	}
	config, err := f.config(bytes.NewReader(data))
	if err != nil {
		return opened{}, fmt.Errorf("%w: read the %s header: %w", ErrDamaged, f.name, err)
	}
	if err := limits.check(config.Width, config.Height); err != nil {
		return opened{}, err
	}
	if f.name == "WebP" { // its frame may be larger than the canvas that config gave
		if err := checkFrameWebP(data, limits); err != nil {
			return opened{}, err
		}
	}
	return opened{f, config.Width, config.Height}, nil
}

// Decode reads a picture, of a GIF the first frame, and turns it upright. Nothing of
// the size of the picture is allocated before its header is within the limits.
func Decode(data []byte, limits Limits) (*RGB, error) {
	o, err := open(data, limits)
	if err != nil {
		return nil, err
	}
	decoded, err := o.decode(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("%w: decode %s: %w", ErrDamaged, o.name, err)
	}
	return upright(flatten(decoded, o.width, o.height), orientation(data)), nil
}

// animatedWebP reads the animation flag of the extended header (RFC 9649, 2.7).
func animatedWebP(data []byte) bool {
	return len(data) > 20 && string(data[12:16]) == "VP8X" && data[20]&2 != 0
}

// checkFrameWebP reads the size in the header of the first frame (RFC 6386, 9.1, and
// RFC 9649, 3.4).
func checkFrameWebP(data []byte, limits Limits) error {
	const side = 1<<14 - 1
	if b := chunk(data[12:], "VP8L", binary.LittleEndian, 0, 0); len(b) >= 5 {
		bits := binary.LittleEndian.Uint32(b[1:])
		if err := limits.check(int(bits&side)+1, int(bits>>14&side)+1); err != nil {
			return err
		}
	}
	if b := chunk(data[12:], "VP8 ", binary.LittleEndian, 0, 0); len(b) >= 10 {
		return limits.check(int(binary.LittleEndian.Uint16(b[6:])&side), int(binary.LittleEndian.Uint16(b[8:])&side))
	}
	return nil
}

// flatten copies a decoded picture onto a black one of the size in its header. As
// Pillow's convert("RGB"), it drops alpha and the low byte of 16-bit channels.
func flatten(src image.Image, width, height int) *RGB {
	out := &RGB{Width: width, Height: height, Pix: make([]byte, 3*width*height)}
	area := src.Bounds().Intersect(image.Rect(0, 0, width, height))
	for y := area.Min.Y; y < area.Max.Y; y++ {
		for x := area.Min.X; x < area.Max.X; x++ {
			p := out.Pix[3*(y*width+x):]
			p[0], p[1], p[2] = straight(src, x, y)
		}
	}
	return out
}

// straight is a pixel's colour without alpha multiplied in. The decoders' kinds are
// told apart so that no colour is boxed.
func straight(src image.Image, x, y int) (r, g, b byte) {
	switch s := src.(type) {
	case *image.YCbCr:
		c := s.YCbCrAt(x, y)
		return color.YCbCrToRGB(c.Y, c.Cb, c.Cr)
	case *image.NYCbCrA:
		c := s.YCbCr.YCbCrAt(x, y)
		return color.YCbCrToRGB(c.Y, c.Cb, c.Cr)
	case *image.CMYK:
		c := s.CMYKAt(x, y)
		return color.CMYKToRGB(c.C, c.M, c.Y, c.K)
	case *image.NRGBA:
		c := s.NRGBAAt(x, y)
		return c.R, c.G, c.B
	case *image.NRGBA64:
		c := s.NRGBA64At(x, y)
		return byte(c.R >> 8), byte(c.G >> 8), byte(c.B >> 8)
	case *image.Gray:
		v := s.GrayAt(x, y).Y
		return v, v, v
	case image.RGBA64Image: // opaque, or a palette
		if p, ok := src.(*image.Paletted); ok {
			if c, ok := p.Palette[p.ColorIndexAt(x, y)].(color.NRGBA); ok {
				return c.R, c.G, c.B
			}
		}
		c := s.RGBA64At(x, y)
		return byte(c.R >> 8), byte(c.G >> 8), byte(c.B >> 8)
	}
	c := color.NRGBAModel.Convert(src.At(x, y)).(color.NRGBA)
	return c.R, c.G, c.B
}

// Refused reports whether an error says what is wrong with a picture.
func Refused(err error) bool {
	for _, known := range []error{ErrFormat, ErrBytes, ErrPixels, ErrSmall, ErrProportion, ErrAnimated, ErrDamaged} {
		if errors.Is(err, known) {
			return true
		}
	}
	return false
}
