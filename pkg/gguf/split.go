package gguf

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
)

// Keys by which the files of a split model know each other.
const (
	keySplitNo      = "split.no"
	keySplitTensors = "split.tensors.count"
)

// maxSplit is the most files of a model: their names count with five digits.
const maxSplit = 99999

// splitCount returns the number of files that the model is split over, 1 if it
// is whole.
func (m Metadata) splitCount() (int, error) {
	v, ok := m.values[keySplitCount]
	if !ok {
		return 1, nil
	}
	n, err := m.Uint64(keySplitCount)
	if err != nil || n > maxSplit {
		return 0, fail(ErrSplit, fmt.Sprintf("metadata %q", keySplitCount), v.at, "from 1 to %d files are read", maxSplit)
	}
	return max(1, int(n)), nil
}

// partName returns the file name of part i, from 0, of count.
func partName(prefix string, i, count int) string {
	return fmt.Sprintf("%s-%05d-of-%05d.gguf", prefix, i+1, count)
}

// join maps the other files of a split model, which lie beside the first at path,
// and adds their tensors to it. The first has all metadata.
func (f *File) join(path string, count int, opts Options) error {
	if no, err := f.meta.Uint64(keySplitNo); err != nil || no != 0 {
		return fmt.Errorf("%w: this is not the first of %d files; open the one with 00001 in its name", ErrSplit, count)
	}
	prefix, ok := strings.CutSuffix(path, partName("", 0, count))
	if !ok {
		return fmt.Errorf("%w: the first of %d files must be named like %s", ErrSplit, count, partName("model", 0, count))
	}
	for i := 1; i < count; i++ {
		name := partName(prefix, i, count)
		part, err := openOne(name, opts)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrSplit, err)
		}
		// From here on the mapping is released with the first file.
		f.unmaps = append(f.unmaps, part.unmaps...)
		if err := f.adopt(part, i, count); err != nil {
			return fmt.Errorf("%w: %s %w", ErrSplit, filepath.Base(name), err)
		}
	}
	return f.complete()
}

// complete holds the tensors of all files against what the first says.
func (f *File) complete() error {
	if no, err := f.meta.Uint64(keySplitNo); err != nil || no != 0 {
		return fmt.Errorf("%w: the first of the files is another part", ErrSplit)
	}
	total, err := f.meta.Uint64(keySplitTensors)
	if err != nil || total != uint64(len(f.tensors)) {
		return fmt.Errorf("%w: the files have %d tensors, the first says %d", ErrSplit, len(f.tensors), total)
	}
	return nil
}

var (
	errOtherPart = errors.New("is another part, or of another model")
	errTwice     = errors.New("repeats a tensor")
)

// adopt adds the tensors of part i.
func (f *File) adopt(part *File, i, count int) error {
	no, err := part.meta.Uint64(keySplitNo)
	if n, err2 := part.meta.splitCount(); err != nil || err2 != nil || no != uint64(i) || n != count {
		return errOtherPart
	}
	for _, t := range part.tensors {
		if _, ok := f.index[t.Name]; ok {
			return fmt.Errorf("%w: %s", errTwice, t.Name)
		}
		f.index[t.Name] = len(f.tensors)
		t.File = i
		f.tensors = append(f.tensors, t)
	}
	f.size += part.size
	f.headers = append(f.headers, part.headers...)
	return nil
}
