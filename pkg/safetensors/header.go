package safetensors

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Limits of a file. The largest models in use stay far below them.
const (
	lengthBytes    = 8
	maxHeaderBytes = 100 << 20 // as the reference reader has it
	maxTensors     = 1 << 17
	maxNameBytes   = 512
	maxDims        = 8
)

const metadataKey = "__metadata__"

// header is the description of a file's tensors.
type header struct {
	dec     *json.Decoder
	tensors []Tensor
	names   map[string]int
	meta    map[string]string
}

// parseHeader reads the description at the start of data and returns it with the
// place where the tensors' bytes start.
func parseHeader(data []byte) (*header, uint64, error) {
	if len(data) < lengthBytes {
		return nil, 0, fail(ErrHeaderLen, "the file has %d bytes", len(data))
	}
	n := binary.LittleEndian.Uint64(data)
	if left := uint64(len(data) - lengthBytes); n < 2 || n > maxHeaderBytes || n > left {
		return nil, 0, fail(ErrHeaderLen, "%d, from 2 to %d are read and the file has %d more", n, maxHeaderBytes, left)
	}
	text := data[lengthBytes : lengthBytes+n]
	if text[0] != '{' {
		return nil, 0, fail(ErrHeader, "it starts with %q", text[0])
	}
	if !utf8.Valid(text) {
		return nil, 0, fail(ErrHeader, "it is not UTF-8")
	}
	h := &header{dec: json.NewDecoder(bytes.NewReader(text)), names: map[string]int{}}
	h.dec.UseNumber()
	if err := h.object(maxTensors+1, h.entry); err != nil {
		return nil, 0, err
	}
	if rest := text[h.dec.InputOffset():]; len(bytes.Trim(rest, " ")) != 0 {
		return nil, 0, fail(ErrHeader, "%d bytes follow it", len(rest))
	}
	return h, lengthBytes + n, nil
}

// token returns the next token of the text.
func (h *header) token() (json.Token, error) {
	tok, err := h.dec.Token()
	if err == io.EOF {
		return nil, fail(ErrHeader, "it ends too early")
	}
	if err != nil {
		return nil, fail(ErrHeader, "%v", err)
	}
	return tok, nil
}

// object reads an object of at most most keys, each of which occurs once, and calls
// value for what follows each.
func (h *header) object(most int, value func(key string) error) error {
	if err := h.delim('{'); err != nil {
		return err
	}
	seen := map[string]bool{}
	for {
		tok, err := h.token()
		if err != nil {
			return err
		}
		key, ok := tok.(string)
		switch {
		case tok == json.Delim('}'):
			return nil
		case !ok:
			return fail(ErrHeader, "%v where a name was expected", tok)
		case seen[key]:
			return fail(ErrHeader, "%.64q occurs twice", key)
		case len(seen) >= most:
			return fail(ErrHeader, "more than %d entries", most)
		}
		seen[key] = true
		if err := value(key); err != nil {
			return err
		}
	}
}

func (h *header) delim(want json.Delim) error {
	tok, err := h.token()
	if err != nil {
		return err
	}
	if tok != want {
		return fail(ErrHeader, "%.64v where %v was expected", tok, want)
	}
	return nil
}

func (h *header) text() (string, error) {
	tok, err := h.token()
	if err != nil {
		return "", err
	}
	s, ok := tok.(string)
	if !ok {
		return "", fail(ErrHeader, "%.64v where a string was expected", tok)
	}
	return s, nil
}

// numbers reads an array of at most most integers.
func (h *header) numbers(most int) ([]uint64, error) {
	if err := h.delim('['); err != nil {
		return nil, err
	}
	out := []uint64{}
	for {
		tok, err := h.token()
		if err != nil {
			return nil, err
		}
		if tok == json.Delim(']') {
			return out, nil
		}
		digits, ok := tok.(json.Number)
		if !ok {
			return nil, fail(ErrHeader, "%.64v where a number was expected", tok)
		}
		n, err := strconv.ParseUint(digits.String(), 10, 64)
		if err != nil || len(out) == most {
			return nil, fail(ErrTensorInfo, "%.32s is no size, or one of more than %d", digits, most)
		}
		out = append(out, n)
	}
}

// entry reads what stands under a name: a tensor, or the texts about the file.
func (h *header) entry(name string) error {
	if name == metadataKey {
		h.meta = map[string]string{}
		return h.object(maxTensors, func(key string) (err error) {
			h.meta[key], err = h.text()
			return err
		})
	}
	if !goodName(name) {
		return fail(ErrTensorInfo, "name %.64q", name)
	}
	t := Tensor{Name: name}
	var span []uint64
	fields := 0
	err := h.object(3, func(key string) (err error) {
		fields++
		switch key {
		case "dtype":
			var d string
			d, err = h.text()
			t.DType = DType(d)
		case "shape":
			t.Shape, err = h.numbers(maxDims)
		case "data_offsets":
			span, err = h.numbers(2)
		default:
			return fail(ErrTensorInfo, "field %.64q", key)
		}
		return err
	})
	if err != nil {
		return err
	}
	if fields != 3 || len(span) != 2 {
		return fail(ErrTensorInfo, "tensor %q lacks its type, shape or place", name)
	}
	return h.add(t, span[0], span[1])
}

// add notes a tensor whose bytes are [begin, end) of the data.
func (h *header) add(t Tensor, begin, end uint64) error {
	if begin > end {
		return fail(ErrOffset, "tensor %q ends at %d, before its start at %d", t.Name, end, begin)
	}
	size, err := bytesOf(t.DType, t.Shape)
	if err != nil {
		return fmt.Errorf("tensor %q: %w", t.Name, err)
	}
	if size != end-begin {
		return fail(ErrTensorInfo, "tensor %q: %v of %s take %d bytes, not %d", t.Name, t.Shape, t.DType, size, end-begin)
	}
	t.Offset, t.size = begin, size
	h.names[t.Name] = len(h.tensors)
	h.tensors = append(h.tensors, t)
	return nil
}

// goodName says whether a name may stand in messages and paths.
func goodName(name string) bool {
	return name != "" && len(name) <= maxNameBytes && !strings.Contains(name, "..") &&
		!strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r >= 0x7F || r == '/' || r == '\\' })
}

// place finds the bytes of every tensor in a file of all bytes, of which data is the
// head or all. Together they are all of it: the format allows neither holes nor
// overlaps, so nothing hides between or behind them.
func (h *header) place(data []byte, all, start uint64) error {
	order := make([]int, len(h.tensors))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		x, y := h.tensors[a], h.tensors[b]
		return cmp.Or(cmp.Compare(x.Offset, y.Offset), cmp.Compare(x.size, y.size))
	})
	at, size := uint64(0), all-start
	for _, i := range order {
		t := &h.tensors[i]
		if t.Offset < at {
			return fail(ErrOffset, "tensor %q starts at %d, inside another", t.Name, t.Offset)
		}
		if t.Offset > at {
			return fail(ErrIncomplete, "nothing lies from %d to %d", at, t.Offset)
		}
		if t.size > size-at {
			return fail(ErrOffset, "tensor %q has %d bytes at %d of %d", t.Name, t.size, t.Offset, size)
		}
		at += t.size
		t.Offset += start
		if uint64(len(data)) == all {
			t.Data = data[t.Offset : t.Offset+t.size : t.Offset+t.size]
		}
	}
	if at != size {
		return fail(ErrIncomplete, "%d bytes follow the last tensor", size-at)
	}
	return nil
}
