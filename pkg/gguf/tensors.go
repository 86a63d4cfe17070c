package gguf

import (
	"bytes"
	"cmp"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"strings"

	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/quant/formats"
)

const (
	maxNameBytes = 63 // ggml keeps names in 64 bytes with a final NUL
	maxDims      = 4
)

func (p *parser) tensorInfos() error {
	p.index = map[string]int{}
	for i := range p.infs {
		at := p.at
		t, err := p.tensorInfo(i)
		if err != nil {
			return err
		}
		p.index[t.Name] = len(p.tensors)
		p.tensors = append(p.tensors, t)
		p.infoAt = append(p.infoAt, at)
	}
	return nil
}

// tensorInfo reads the info of tensor i. Offset stays relative to the data
// section; place resolves it.
func (p *parser) tensorInfo(i uint64) (Tensor, error) {
	name, err := p.tensorName(fmt.Sprintf("name of tensor %d", i))
	if err != nil {
		return Tensor{}, err
	}
	t := Tensor{Name: name}
	field := fmt.Sprintf("tensor %q", name)
	shapeAt := p.at
	if t.Dims, err = p.dims(field + " dimensions"); err != nil {
		return Tensor{}, err
	}
	if t.Format, err = p.format(field + " type"); err != nil {
		return Tensor{}, err
	}
	if t.Size, err = tensorBytes(t.Format, t.Dims); err != nil {
		return Tensor{}, fail(ErrShape, field+" dimensions", shapeAt, "%v: %v", t.Dims, err)
	}
	if t.Size > p.size {
		return Tensor{}, fail(ErrShape, field+" dimensions", shapeAt,
			"%v of %s take %d bytes, the file has %d", t.Dims, t.Format.Name, t.Size, p.size)
	}
	at := p.at
	if t.Offset, err = p.uint64(field + " offset"); err != nil {
		return Tensor{}, err
	}
	if t.Offset%p.alignment != 0 {
		return Tensor{}, fail(ErrOffset, field+" offset", at, "%d is not a multiple of %d", t.Offset, p.alignment)
	}
	return t, nil
}

func (p *parser) tensorName(field string) (string, error) {
	at := p.at
	n, err := p.uint64(field)
	if err != nil {
		return "", err
	}
	if n == 0 || n > maxNameBytes {
		return "", fail(ErrTensorName, field, at, "%d bytes long, the most is %d", n, maxNameBytes)
	}
	name, err := p.take(n, field)
	if err != nil {
		return "", err
	}
	if bytes.ContainsFunc(name, notInName) || bytes.Contains(name, []byte("..")) {
		return "", fail(ErrTensorName, field, at, "%s", quoted(name))
	}
	if _, ok := p.index[string(name)]; ok {
		return "", fail(ErrTensorName, field, at, "%s occurs twice", quoted(name))
	}
	return string(name), nil
}

// notInName says whether r cannot stand in a tensor's name, which may become
// part of a path or a log line.
func notInName(r rune) bool { return r <= ' ' || r >= 0x7F || r == '/' || r == '\\' }

func (p *parser) dims(field string) ([]uint64, error) {
	at := p.at
	n, err := p.uint32(field)
	if err != nil {
		return nil, err
	}
	if n < 1 || n > maxDims {
		return nil, fail(ErrDims, field, at, "%d of them, from 1 to %d are read", n, maxDims)
	}
	dims := make([]uint64, n)
	for i := range dims {
		if dims[i], err = p.uint64(field); err != nil {
			return nil, err
		}
	}
	return dims, nil
}

func (p *parser) format(field string) (quant.Format, error) {
	at := p.at
	id, err := p.uint32(field)
	if err != nil {
		return quant.Format{}, err
	}
	for _, f := range p.formats {
		if f.GGML == id {
			return f, nil
		}
	}
	names := make([]string, len(p.formats))
	for i, f := range p.formats {
		names[i] = f.Name
	}
	return quant.Format{}, fail(ErrTensorType, field, at, "%s; read are %s", formats.GGMLName(id), strings.Join(names, ", "))
}

// tensorBytes returns the bytes of a tensor, at most MaxInt64.
func tensorBytes(f quant.Format, dims []uint64) (uint64, error) {
	elems := uint64(1)
	for _, d := range dims {
		if d == 0 {
			return 0, fmt.Errorf("a dimension is zero")
		}
		var ok bool
		if elems, ok = product(elems, d); !ok {
			return 0, fmt.Errorf("too many values")
		}
	}
	if dims[0]%uint64(f.BlockElems) != 0 {
		return 0, fmt.Errorf("a row of %s is not a whole number of blocks of %d", f.Name, f.BlockElems)
	}
	size, ok := product(elems/uint64(f.BlockElems), uint64(f.BlockBytes))
	if !ok {
		return 0, fmt.Errorf("too many bytes")
	}
	return size, nil
}

// product returns a·b, and false where it exceeds MaxInt64.
func product(a, b uint64) (uint64, bool) {
	hi, lo := bits.Mul64(a, b)
	return lo, hi == 0 && lo <= math.MaxInt64
}

// whole reports whether all of the file is there, and not its head alone.
func (p *parser) whole() bool { return uint64(len(p.data)) == p.size }

// place finds the data of every tensor in the data section, which starts at the
// first multiple of the alignment behind the infos.
func (p *parser) place() error {
	start := (p.at + p.alignment - 1) &^ (p.alignment - 1)
	size, first := p.size, p.size
	for i := range p.tensors {
		t := &p.tensors[i]
		end, carry := bits.Add64(t.Offset, t.Size, 0)
		if carry != 0 || start > size || end > size-start {
			return fail(ErrOffset, fmt.Sprintf("tensor %q offset", t.Name), p.infoAt[i],
				"%d bytes at %d of the data, which start at %d, lie beyond the file's %d bytes", t.Size, t.Offset, start, size)
		}
		t.Offset += start
		if p.whole() {
			t.Data = p.data[t.Offset : t.Offset+t.Size : t.Offset+t.Size]
		}
		first = min(first, t.Offset)
	}
	if first > uint64(len(p.data)) {
		return fail(ErrTruncated, "head", p.at, "%d bytes, the first tensor's data start at %d", len(p.data), first)
	}
	return p.checkOverlap()
}

// checkOverlap refuses a file in which two tensors share bytes.
func (p *parser) checkOverlap() error {
	order := make([]int, len(p.tensors))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(p.tensors[a].Offset, p.tensors[b].Offset) })
	for k := 1; k < len(order); k++ {
		before, t := p.tensors[order[k-1]], p.tensors[order[k]]
		if before.Offset+before.Size > t.Offset {
			return fail(ErrOverlap, fmt.Sprintf("tensor %q offset", t.Name), p.infoAt[order[k]],
				"it starts at %d, inside %q", t.Offset, before.Name)
		}
	}
	return nil
}
