package gguf

import "encoding/binary"

// cursor reads little-endian fields and never past the end of data.
type cursor struct {
	data []byte
	at   uint64
}

func (c *cursor) remaining() uint64 { return uint64(len(c.data)) - c.at }

// take returns the next n bytes, which alias data.
func (c *cursor) take(n uint64, field string) ([]byte, error) {
	if n > c.remaining() {
		return nil, fail(ErrTruncated, field, c.at, "%d bytes wanted, %d left", n, c.remaining())
	}
	b := c.data[c.at : c.at+n : c.at+n]
	c.at += n
	return b, nil
}

func (c *cursor) uint32(field string) (uint32, error) {
	b, err := c.take(4, field)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint32(b), nil
}

func (c *cursor) uint64(field string) (uint64, error) {
	b, err := c.take(8, field)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(b), nil
}

// text returns the bytes of a string of at most most bytes.
func (c *cursor) text(field string, most uint64) ([]byte, error) {
	start := c.at
	n, err := c.uint64(field)
	if err != nil {
		return nil, err
	}
	if n > most {
		return nil, fail(ErrTooBig, field, start, "%d bytes, the most is %d", n, most)
	}
	return c.take(n, field)
}
