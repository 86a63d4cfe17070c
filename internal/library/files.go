package library

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/shoal-llm/shoal/internal/library/checkpoint"
	"github.com/shoal-llm/shoal/pkg/gguf"
	"github.com/shoal-llm/shoal/pkg/model"
	"github.com/shoal-llm/shoal/pkg/quant/formats"
	"github.com/shoal-llm/shoal/pkg/safetensors"
)

// Files are the files of a model that is not a local one: they are read where and
// when bytes are needed.
type Files interface {
	// Names returns the names of all files.
	Names() []string
	// Size returns the bytes of a file.
	Size(name string) uint64
	// Head returns at least the first n bytes of a file, or all of a shorter one.
	Head(name string, n uint64) ([]byte, error)
	// Read returns bytes of a file.
	Read(r Range) ([]byte, error)
}

// Bounds of what is read of a file before its weights.
const (
	firstHead = 1 << 20
	maxHead   = 256 << 20
)

// OpenFiles opens a model of which only what lies before the weights is read now.
// Files is used until the model is closed.
func OpenFiles(name string, files Files) (*Model, error) {
	open := openGGUF
	if slices.Contains(files.Names(), checkpoint.ConfigName) {
		open = openFolder
	}
	c, err := open(files)
	if err != nil {
		return nil, fmt.Errorf("read model %s: %w", name, err)
	}
	m, err := newModel(name, "", c)
	if err != nil {
		return nil, err
	}
	m.copies = true
	return m, nil
}

func openGGUF(files Files) (container, error) {
	names := slices.DeleteFunc(slices.Clone(files.Names()), func(s string) bool { return !strings.HasSuffix(strings.ToLower(s), ".gguf") })
	slices.Sort(names) // parts of a split model are numbered with five digits
	if len(names) == 0 {
		return nil, fmt.Errorf("among %s there is neither a GGUF file nor %s", strings.Join(files.Names(), ", "), checkpoint.ConfigName)
	}
	opts := gguf.Options{Formats: formats.All()}
	heads := make([]gguf.Head, len(names))
	for i, name := range names {
		h, err := headOf(files, name, opts)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		heads[i] = h
	}
	f, err := gguf.ParseHeads(heads, opts)
	if err != nil {
		return nil, err
	}
	return ggufFile{File: f, names: names, read: files.Read}, nil
}

// headOf reads more and more of a file until its head is there.
func headOf(files Files, name string, opts gguf.Options) (gguf.Head, error) {
	size := files.Size(name)
	for n := min(firstHead, size); ; n = min(n+max(n/4, firstHead), size) {
		data, err := files.Head(name, n)
		if err != nil {
			return gguf.Head{}, err
		}
		h := gguf.Head{Data: data, Size: size}
		_, err = gguf.SplitCount(h, opts)
		switch {
		case err == nil:
			return h, nil
		case errors.Is(err, gguf.ErrBadMagic), errors.Is(err, gguf.ErrVersion), uint64(len(data)) >= size, n >= maxHead:
			return h, err
		}
	}
}

func openFolder(files Files) (container, error) {
	small := func(name string, most int64) ([]byte, error) {
		if !slices.Contains(files.Names(), name) {
			return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
		}
		if n := files.Size(name); n > uint64(most) {
			return nil, fmt.Errorf("%w: %s has more than %d bytes", checkpoint.ErrTooBig, name, most)
		}
		return files.Head(name, uint64(most))
	}
	var index []byte
	if slices.Contains(files.Names(), safetensors.IndexName) {
		var err error
		if index, err = files.Head(safetensors.IndexName, files.Size(safetensors.IndexName)); err != nil {
			return nil, err
		}
	}
	names, err := safetensors.Listed(index)
	if err != nil {
		return nil, err
	}
	out := folder{names: names}
	w := checkpoint.Weights{Read: func(file int, offset, n uint64) ([]byte, error) {
		return files.Read(Range{names[file], offset, n})
	}}
	for _, name := range names {
		if !slices.Contains(files.Names(), name) {
			return nil, fmt.Errorf("%w: there is no %s", safetensors.ErrPath, name)
		}
		f, err := tensorHead(files, name)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		w.Heads = append(w.Heads, f)
	}
	for _, name := range files.Names() {
		if !slices.Contains(names, name) {
			out.small = append(out.small, Range{File: name, Size: files.Size(name)})
		}
	}
	out.Checkpoint, err = checkpoint.OpenHeads(small, w, formats.All())
	return out, err
}

// tensorHead reads the description at the start of a file.
func tensorHead(files Files, name string) (*safetensors.File, error) {
	size := files.Size(name)
	data, err := files.Head(name, min(firstHead, size))
	if err != nil {
		return nil, err
	}
	var first [8]byte
	copy(first[:], data)
	n, err := safetensors.HeadBytes(first)
	if err != nil {
		return nil, err
	}
	if n > uint64(len(data)) {
		if data, err = files.Head(name, min(n, size)); err != nil {
			return nil, err
		}
	}
	f, err := safetensors.ParseHead(data, size)
	if err != nil {
		return nil, err
	}
	return f, nil
}

// Heads returns what must be there before a model can be opened by OpenFiles.
func (m *Model) Heads() []Range { return m.file.Heads() }

// Needs returns the bytes of the tensors of a part, by file and offset, each once.
// Vectors outside the layers are among them: the factors of rotations, which a file
// may have, are read for every part and are no weights of a device.
func (m *Model) Needs(p model.Part) []Range {
	names := m.Arch.Tensors(m.Spec, p)
	for _, t := range m.file.Tensors() {
		if t.rows == 1 && !strings.HasPrefix(t.name, "blk.") {
			names = append(names, t.name)
		}
	}
	var out []Range
	for _, name := range names {
		out = append(out, m.file.Ranges(name)...)
	}
	slices.SortFunc(out, func(a, b Range) int { return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Offset, b.Offset)) })
	return slices.Compact(out)
}

// Ranges returns where the bytes of a tensor lie.
func (m *Model) Ranges(tensor string) []Range { return m.file.Ranges(tensor) }

// Bounds returns, by the name of the file, the offsets at which a tensor begins.
func (m *Model) Bounds() map[string][]uint64 {
	out := map[string][]uint64{}
	for _, t := range m.file.Tensors() {
		for _, r := range m.file.Ranges(t.name) {
			out[r.File] = append(out[r.File], r.Offset)
		}
	}
	for _, b := range out {
		slices.Sort(b)
	}
	return out
}
