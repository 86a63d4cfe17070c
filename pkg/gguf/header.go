package gguf

import (
	"fmt"
	"slices"
)

// Head is the beginning of a file whose rest is elsewhere.
type Head struct {
	Data []byte // from the start of the file on, at least to the first tensor's data; more does no harm
	Size uint64 // of the whole file, in bytes
}

// ParseHeads reads a model of whose files only the heads are here, in their order:
// metadata and the descriptions of all tensors, whose Data is nil. An error may mean
// that a head is too short, unless it wraps ErrBadMagic or ErrVersion. The File
// refers to the heads, which must not change while it is in use.
func ParseHeads(heads []Head, opts Options) (*File, error) {
	if len(heads) == 0 {
		return nil, fail(ErrSplit, "files", 0, "there are none")
	}
	var whole *File
	for i, h := range heads {
		if uint64(len(h.Data)) > h.Size {
			return nil, fail(ErrTruncated, "head", 0, "%d bytes of a file of %d", len(h.Data), h.Size)
		}
		f, err := parse(h.Data, h.Size, opts)
		if err != nil {
			return nil, fmt.Errorf("file %d: %w", i+1, err)
		}
		for k := range f.tensors {
			f.tensors[k].Data = nil
		}
		if i == 0 {
			whole = f
			continue
		}
		if err := whole.adopt(f, i, len(heads)); err != nil {
			return nil, fmt.Errorf("%w: file %d %w", ErrSplit, i+1, err)
		}
	}
	n, err := whole.meta.splitCount()
	if err != nil || n != len(heads) {
		return nil, fmt.Errorf("%w: %d files of a model of %d", ErrSplit, len(heads), n)
	}
	if len(heads) > 1 {
		err = whole.complete()
	}
	return whole, err
}

// SplitCount returns how many files the model is split over, of which a head is one.
func SplitCount(h Head, opts Options) (int, error) {
	f, err := parse(h.Data, h.Size, opts)
	if err != nil {
		return 0, err
	}
	return f.meta.splitCount()
}

// PartName returns the file name of part i, from 0, of a model that is split over
// count files; the name of the first ends in PartName("", 0, count).
func PartName(prefix string, i, count int) string { return partName(prefix, i, count) }

// Header returns the bytes before the first tensor's data: the metadata and the
// tensor table, of all files one after the other. They may alias the file and are
// valid until it is closed.
func (f *File) Header() []byte { return f.headers }

// headerOf returns those of one file. What is appended to them is a copy.
func headerOf(data []byte, tensors []Tensor) []byte {
	end := uint64(len(data))
	for i := range tensors {
		end = min(end, tensors[i].Offset)
	}
	return slices.Clip(data[:end])
}
