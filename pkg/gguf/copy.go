package gguf

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/shoal-llm/shoal/pkg/quant"
)

// ErrNoCopy says that a file cannot be copied: it is split, or was closed.
var ErrNoCopy = errors.New("gguf file that cannot be copied")

// keyFileType is the format of most tensors, as programs number them.
const keyFileType = "general.file_type"

// Copy writes f with tensors in other formats: format says which, and encode gives
// the data of one in it, which must not be changed before the next call. All else
// is as in f, except general.file_type, which becomes fileType where f has it.
// Tensors are written one after the other in their order.
func Copy(w io.Writer, f *File, fileType uint32, format func(Tensor) quant.Format, encode func(Tensor, quant.Format) ([]byte, error)) error {
	if n, err := f.meta.splitCount(); err != nil || n > 1 || len(f.headers) == 0 {
		return fmt.Errorf("%w: %s is one of several files, or closed; join it first", ErrNoCopy, f.path)
	}
	head := append([]byte(nil), f.headers[:f.infosAt]...)
	if v, ok := f.meta.values[keyFileType]; ok && v.kind == kindUint32 {
		binary.LittleEndian.PutUint32(head[v.at:], fileType)
	}
	made := make([]quant.Format, len(f.tensors))
	offset := uint64(0)
	for i := range f.tensors {
		t := &f.tensors[i]
		made[i] = format(*t)
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
		data, err := encode(*t, made[i])
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
