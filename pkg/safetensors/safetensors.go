// Package safetensors reads model weights in the safetensors format, single files
// and sets of files with an index.
//
// Files are mapped, not read. Every length and offset is checked before it is used,
// and a file that has a byte which belongs to no tensor is refused, so that what one
// reader accepts is what all see.
//
// The format is described at https://github.com/huggingface/safetensors#format.
package safetensors

import "encoding/binary"

// Tensor is a weight of a file.
type Tensor struct {
	Name   string
	DType  DType
	Shape  []uint64 // rows first, values of a row last; empty for a single value
	Offset uint64   // of the data, in bytes from the start of the file
	Data   []byte   // aliases the file: valid until it is closed, never to be written; nil where only the head was read

	size uint64
}

// Size returns the bytes of the data.
func (t Tensor) Size() uint64 { return t.size }

// File is a parsed file. It is immutable and safe for concurrent use.
type File struct {
	data    []byte // or the head
	size    uint64
	start   uint64 // of the tensors' bytes
	tensors []Tensor
	names   map[string]int
	meta    map[string]string
}

// Parse reads a file from memory. The File refers to data, which must not change
// while it is in use.
func Parse(data []byte) (*File, error) { return parse(data, uint64(len(data))) }

// HeadBytes returns how many bytes a file begins with before its first tensor's, by
// the first eight of them.
func HeadBytes(first [8]byte) (uint64, error) {
	n := binary.LittleEndian.Uint64(first[:])
	if n < 2 || n > maxHeaderBytes {
		return 0, fail(ErrHeaderLen, "%d, from 2 to %d are read", n, maxHeaderBytes)
	}
	return lengthBytes + n, nil
}

// ParseHead reads the description of a file of size bytes, of which data is the
// beginning, at least to the first tensor's data: the tensors have no Data.
func ParseHead(data []byte, size uint64) (*File, error) {
	if uint64(len(data)) > size {
		return nil, fail(ErrHeaderLen, "%d bytes of a file of %d", len(data), size)
	}
	f, err := parse(data, size)
	if err != nil {
		return nil, err
	}
	for i := range f.tensors {
		f.tensors[i].Data = nil
	}
	return f, nil
}

func parse(data []byte, size uint64) (*File, error) {
	h, start, err := parseHeader(data)
	if err != nil {
		return nil, err
	}
	if err := h.place(data, size, start); err != nil {
		return nil, err
	}
	return &File{data: data, size: size, start: start, tensors: h.tensors, names: h.names, meta: h.meta}, nil
}

// Tensors returns all tensors in the order of the header. The caller must not change
// the slice.
func (f *File) Tensors() []Tensor { return f.tensors }

// Tensor returns the tensor of that name.
func (f *File) Tensor(name string) (Tensor, bool) {
	i, ok := f.names[name]
	if !ok {
		return Tensor{}, false
	}
	return f.tensors[i], true
}

// Metadata returns the texts about the file, which may be nil. The caller must not
// change them.
func (f *File) Metadata() map[string]string { return f.meta }

// Header returns the bytes before the first tensor's. They alias the file.
func (f *File) Header() []byte { return f.data[:f.start] }

// Size returns the bytes of the file.
func (f *File) Size() int64 { return int64(f.size) }
