package vision

import (
	"bytes"
	"encoding/binary"
)

const tagOrientation = 0x0112

// orientation finds the Exif orientation (1 to 8) of a JPEG, PNG or WebP; 1 where
// there is none or it makes no sense.
func orientation(data []byte) int {
	switch {
	case bytes.HasPrefix(data, []byte("\xff\xd8")):
		return tiffOrientation(jpegExif(data))
	case bytes.HasPrefix(data, []byte("\x89PNG")):
		return tiffOrientation(chunk(data[8:], "eXIf", binary.BigEndian, 4, 4))
	case bytes.HasPrefix(data, []byte("RIFF")) && len(data) > 12:
		exif := chunk(data[12:], "EXIF", binary.LittleEndian, 0, 0)
		return tiffOrientation(bytes.TrimPrefix(exif, []byte("Exif\x00\x00")))
	}
	return 1
}

// jpegExif is the TIFF in the APP1 segment before the first scan.
func jpegExif(data []byte) []byte {
	for at := 2; at+4 <= len(data) && data[at] == 0xff; {
		marker, size := data[at+1], int(binary.BigEndian.Uint16(data[at+2:]))
		if marker == 0xff { // fill
			at++
			continue
		}
		if marker == 0xda || size < 2 || at+2+size > len(data) {
			return nil
		}
		body := data[at+4 : at+2+size]
		if exif, ok := bytes.CutPrefix(body, []byte("Exif\x00\x00")); ok && marker == 0xe1 {
			return exif
		}
		at += 2 + size
	}
	return nil
}

// chunk finds a chunk of PNG (length, name, body, checksum) or RIFF (name, length,
// body, padded to even): sizeBefore is 4 where the length comes first, tail what
// follows the body.
func chunk(data []byte, name string, order binary.ByteOrder, sizeBefore, tail int) []byte {
	for len(data) >= 8 {
		size, label := uint64(order.Uint32(data[4-sizeBefore:])), string(data[sizeBefore:sizeBefore+4])
		body := data[8:]
		if label == name { // as much of it as there is
			return body[:min(size, uint64(len(body)))]
		}
		if size > uint64(len(body)) {
			return nil
		}
		next := size + uint64(tail)
		if tail == 0 {
			next += size & 1
		}
		data = body[min(next, uint64(len(body))):]
	}
	return nil
}

// tiffOrientation reads the tag from the first directory of a TIFF (TIFF 6.0, section 2).
func tiffOrientation(t []byte) int {
	var order binary.ByteOrder
	switch {
	case len(t) < 8:
		return 1
	case string(t[:4]) == "II*\x00":
		order = binary.LittleEndian
	case string(t[:4]) == "MM\x00*":
		order = binary.BigEndian
	default:
		return 1
	}
	at := uint64(order.Uint32(t[4:]))
	if at+2 > uint64(len(t)) {
		return 1
	}
	entries := t[at+2:]
	for range order.Uint16(t[at:]) {
		if len(entries) < 12 {
			return 1
		}
		if order.Uint16(entries) == tagOrientation {
			if o := int(order.Uint16(entries[8:])); o >= 1 && o <= 8 {
				return o
			}
			return 1
		}
		entries = entries[12:]
	}
	return 1
}

// upright turns and mirrors a picture as its orientation asks.
func upright(p *RGB, orientation int) *RGB {
	if orientation == 1 {
		return p
	}
	out := &RGB{Width: p.Width, Height: p.Height, Pix: make([]byte, len(p.Pix))}
	if orientation >= 5 {
		out.Width, out.Height = p.Height, p.Width
	}
	right, bottom := p.Width-1, p.Height-1
	for y := range out.Height {
		for x := range out.Width {
			sx, sy := x, y
			switch orientation {
			case 2:
				sx = right - x
			case 3:
				sx, sy = right-x, bottom-y
			case 4:
				sy = bottom - y
			case 5:
				sx, sy = y, x
			case 6:
				sx, sy = y, bottom-x
			case 7:
				sx, sy = right-y, bottom-x
			case 8:
				sx, sy = right-y, x
			}
			copy(out.Pix[3*(y*out.Width+x):][:3], p.Pix[3*(sy*p.Width+sx):][:3])
		}
	}
	return out
}
