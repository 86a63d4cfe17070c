package gguf

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/shoal-llm/shoal/pkg/quant"
)

// ErrNoCopy says that a file cannot be copied: it is split, or was closed.
var ErrNoCopy = errors.New("gguf file that cannot be copied")

// keyFileType is the format of most tensors, as programs number them.
const keyFileType = "general.file_type"

// Changes are what Copy does not take over.
type Changes struct {
	FileType uint32            // general.file_type, where the file has it
	Strings  map[string]string // metadata in addition; the file has none of these keys
	Format   func(Tensor) quant.Format
	Encode   func(Tensor, quant.Format) ([]byte, error) // the data in that format, not changed before the next call
}

// Copy writes f with changes; all else is as it was. Tensors are written one after
// the other in their order.
func Copy(w io.Writer, f *File, c Changes) error {
	if n, err := f.meta.splitCount(); err != nil || n > 1 || len(f.headers) == 0 {
		return fmt.Errorf("%w: %s is one of several files, or closed; join it first", ErrNoCopy, f.path)
	}
	head := append([]byte(nil), f.headers[:f.infosAt]...)
	if v, ok := f.meta.values[keyFileType]; ok && v.kind == kindUint32 {
		binary.LittleEndian.PutUint32(head[v.at:], c.FileType)
	}
	pairs := uint64(0)
	for _, key := range slices.Sorted(maps.Keys(c.Strings)) {
		if f.meta.Has(key) {
			return fmt.Errorf("%w: it has %s already; take the file that it was made of", ErrNoCopy, key)
		}
		head = appendString(head, key, c.Strings[key])
		pairs++
	}
	binary.LittleEndian.PutUint64(head[pairsAt:], binary.LittleEndian.Uint64(head[pairsAt:])+pairs)
	made := make([]quant.Format, len(f.tensors))
	offset := uint64(0)
	for i := range f.tensors {
		t := &f.tensors[i]
		made[i] = c.Format(*t)
		size, err := tensorBytes(made[i], t.Dims)
		if err != nil {
			return fmt.Errorf("tensor %s: %w", t.Name, err)
		}
		head = appendInfo(head, t, made[i], offset)
		offset = padded(offset+size, f.alignment)
	}
	out := bufio.NewWriterSize(w, 1<<20)
	if _, err := out.Write(pad(head, f.alignment)); err != nil {
		return err
	}
	for i := range f.tensors {
		t := &f.tensors[i]
		data, err := c.Encode(*t, made[i])
		if err != nil {
			return fmt.Errorf("tensor %s: %w", t.Name, err)
		}
		if size, _ := tensorBytes(made[i], t.Dims); uint64(len(data)) != size {
			return fmt.Errorf("tensor %s: %d bytes in %s, want %d", t.Name, len(data), made[i].Name, size)
		}
		if _, err := out.Write(data); err != nil {
			return err
		}
		if _, err := out.Write(make([]byte, padded(uint64(len(data)), f.alignment)-uint64(len(data)))); err != nil {
			return err
		}
	}
	return out.Flush()
}

// pairsAt is where a file says how many pairs of metadata it has.
const pairsAt = 16

// appendString writes a pair of metadata.
func appendString(head []byte, key, value string) []byte {
	head = binary.LittleEndian.AppendUint64(head, uint64(len(key)))
	head = append(head, key...)
	head = binary.LittleEndian.AppendUint32(head, uint32(kindString))
	head = binary.LittleEndian.AppendUint64(head, uint64(len(value)))
	return append(head, value...)
}

// appendInfo writes the entry of a tensor in the table.
func appendInfo(head []byte, t *Tensor, f quant.Format, offset uint64) []byte {
	head = binary.LittleEndian.AppendUint64(head, uint64(len(t.Name)))
	head = append(head, t.Name...)
	head = binary.LittleEndian.AppendUint32(head, uint32(len(t.Dims)))
	for _, d := range t.Dims {
		head = binary.LittleEndian.AppendUint64(head, d)
	}
	head = binary.LittleEndian.AppendUint32(head, f.GGML)
	return binary.LittleEndian.AppendUint64(head, offset)
}

func padded(n, alignment uint64) uint64 { return (n + alignment - 1) &^ (alignment - 1) }

func pad(b []byte, alignment uint64) []byte {
	return append(b, make([]byte, padded(uint64(len(b)), alignment)-uint64(len(b)))...)
}
