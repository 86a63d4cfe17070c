// Package gguf reads GGUF model files, versions 2 and 3.
//
// A file is mapped, not read: metadata and tensor data are looked up in the
// mapping when they are asked for. Every count, length and offset is checked
// against the bytes that remain before it is used, so a hostile file costs no
// more memory than its own size and is refused with an *Error that names the
// field and its place.
//
// The format is described at https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
package gguf

import (
	"errors"
	"fmt"
	"os"

	"github.com/shoal-llm/shoal/pkg/filemap"
	"github.com/shoal-llm/shoal/pkg/quant"
)

// Options says what a file may contain.
type Options struct {
	// Formats are the tensor formats that may occur. A file with a tensor of
	// another is refused by the type's name.
	Formats []quant.Format
}

// File is an open model file. It is immutable until Close and safe for
// concurrent use.
type File struct {
	path      string
	size      int64
	meta      Metadata
	tensors   []Tensor
	index     map[string]int
	infosAt   uint64 // where the tensor table of the first file begins
	alignment uint64 // of tensors
	headers   []byte // of all files, with which the tensors' descriptions end
	unmaps    []func() error
}

// Tensor is a weight of the file.
type Tensor struct {
	Name   string
	Dims   []uint64 // in ggml order: Dims[0] is the length of a row; one to four of them
	Format quant.Format
	Offset uint64 // of the data, in bytes from the start of the file
	Size   uint64 // of the data, in bytes
	File   int    // which file of a split model, from 0
	Data   []byte // aliases the mapping: valid until the file is closed, never to be written; nil where only the head was read
}

// Rows returns the number of rows: the product of all dimensions but the first.
func (t Tensor) Rows() uint64 {
	rows := uint64(1)
	for _, d := range t.Dims[1:] {
		rows *= d
	}
	return rows
}

// Open maps the file at path and parses it; of a model that is split over several
// files, path is the first and all are mapped. Where the system cannot map a file,
// it is read. The caller closes the file when no tensor is in use. The file must not
// be shortened while it is open: the system ends a process that touches mapped bytes
// that are gone.
func Open(path string, opts Options) (*File, error) {
	f, err := openOne(path, opts)
	if err != nil {
		return nil, err
	}
	count, err := f.meta.splitCount()
	if err == nil && count > 1 {
		err = f.join(path, count, opts)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, errors.Join(err, f.Close()))
	}
	return f, nil
}

// openOne maps one file, which may be a part of a model.
func openOne(path string, opts Options) (*File, error) {
	// Opening something that is no regular file, a pipe perhaps, could block.
	if info, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("open model file: %w", err)
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("open model file: %s is not a regular file", path)
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open model file: %w", err)
	}
	defer file.Close() // a mapping outlives the descriptor
	data, unmap, err := filemap.Map(file)
	if err != nil {
		return nil, fmt.Errorf("open model file: %w", err)
	}
	f, err := parse(data, uint64(len(data)), opts)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, errors.Join(err, unmap()))
	}
	f.path, f.unmaps = path, append(f.unmaps, unmap)
	return f, nil
}

// Parse reads a file from memory, which holds a whole model. The File refers to data,
// which must not change while it is in use.
func Parse(data []byte, opts Options) (*File, error) {
	f, err := parse(data, uint64(len(data)), opts)
	if err != nil {
		return nil, err
	}
	if n, err := f.meta.splitCount(); err != nil || n > 1 {
		return nil, fail(ErrSplit, fmt.Sprintf("metadata %q", keySplitCount), f.meta.values[keySplitCount].at, "one file in memory is not a whole model")
	}
	return f, nil
}

// parse reads a file of size bytes, which may be a part of a model and of which data
// is the head, or all.
func parse(data []byte, size uint64, opts Options) (*File, error) {
	p := parser{cursor: cursor{data: data}, size: size, formats: opts.Formats}
	if err := p.header(); err != nil {
		return nil, err
	}
	if err := p.metadata(); err != nil {
		return nil, err
	}
	if err := p.layout(); err != nil {
		return nil, err
	}
	infosAt := p.at
	if err := p.tensorInfos(); err != nil {
		return nil, err
	}
	if err := p.place(); err != nil {
		return nil, err
	}
	return &File{
		size:    int64(size),
		meta:    p.meta,
		tensors: p.tensors,
		index:   p.index,
		headers: headerOf(data, p.tensors),
		infosAt: infosAt, alignment: p.alignment,
	}, nil
}

// Close releases the mapping: no Data of a tensor and no metadata may be used
// from then on. Closing twice is harmless; Close must not run beside other calls.
func (f *File) Close() error {
	var errs []error
	for _, unmap := range f.unmaps {
		errs = append(errs, unmap())
	}
	*f = File{path: f.path, size: f.size}
	return errors.Join(errs...)
}

// Meta returns the metadata.
func (f *File) Meta() Metadata { return f.meta }

// Tensors returns all tensors in the order of the file. The caller must not
// change the slice.
func (f *File) Tensors() []Tensor { return f.tensors }

// Tensor returns the tensor of that name.
func (f *File) Tensor(name string) (Tensor, bool) {
	i, ok := f.index[name]
	if !ok {
		return Tensor{}, false
	}
	return f.tensors[i], true
}

// Size returns the bytes of all files.
func (f *File) Size() int64 { return f.size }

// Path returns the path that Open was given, or "" for a file in memory.
func (f *File) Path() string { return f.path }
