package safetensors

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/shoal-llm/shoal/pkg/filemap"
)

// Names of a model's files.
const (
	SingleName = "model.safetensors"
	IndexName  = "model.safetensors.index.json"
)

const (
	maxIndexBytes = 64 << 20
	maxFiles      = 4096
	suffix        = ".safetensors"
)

// Set are the files of one model. It is immutable until Close and safe for
// concurrent use.
type Set struct {
	files []*File
	names []string       // of files in a folder
	where map[string]int // file of each tensor
	unmap []func() error
}

// Open maps the model in a folder: the files that an index names, or else one file.
// Names in the index are those of files beside it; what leads out of root, links
// included, is refused. The caller closes the set when no tensor is in use.
func Open(root *os.Root, folder string) (*Set, error) {
	names, weights, err := listed(root, folder)
	if err != nil {
		return nil, err
	}
	s := &Set{where: map[string]int{}, names: names}
	for _, name := range names {
		if err := s.add(root, path.Join(folder, name)); err != nil {
			return nil, errors.Join(fmt.Errorf("read %s: %w", name, err), s.Close())
		}
	}
	for tensor, name := range weights {
		if i, ok := s.where[tensor]; !ok || names[i] != name {
			return nil, errors.Join(fail(ErrIndex, "%.64q is not in %s", tensor, name), s.Close())
		}
	}
	return s, nil
}

// Join makes a set of files that were parsed by themselves, in the order of their
// names. No tensor may be in two of them.
func Join(files []*File) (*Set, error) {
	s := &Set{where: map[string]int{}}
	for _, f := range files {
		if err := s.adopt(f); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// adopt adds a file.
func (s *Set) adopt(f *File) error {
	for _, t := range f.Tensors() {
		if _, twice := s.where[t.Name]; twice {
			return fail(ErrTensorInfo, "%q is in two files", t.Name)
		}
		s.where[t.Name] = len(s.files)
	}
	s.files = append(s.files, f)
	return nil
}

// listed returns the names of the files, and the file of each tensor where there is
// an index.
func listed(root *os.Root, folder string) ([]string, map[string]string, error) {
	text, err := readUpTo(root, path.Join(folder, IndexName), maxIndexBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return []string{SingleName}, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read %s: %w", IndexName, err)
	}
	return namesIn(text)
}

// namesIn reads an index.
func namesIn(text []byte) ([]string, map[string]string, error) {
	var index struct {
		Weights map[string]string `json:"weight_map"`
	}
	if err := json.Unmarshal(text, &index); err != nil {
		return nil, nil, fail(ErrIndex, "%s: %v", IndexName, err)
	}
	var names []string
	for _, name := range index.Weights {
		if !slices.Contains(names, name) {
			if !plainName(name) {
				return nil, nil, fail(ErrPath, "%.128q is not the name of a file beside the index", name)
			}
			names = append(names, name)
		}
		if len(names) > maxFiles {
			return nil, nil, fail(ErrIndex, "more than %d files", maxFiles)
		}
	}
	if len(names) == 0 {
		return nil, nil, fail(ErrIndex, "%s names no weights", IndexName)
	}
	slices.Sort(names)
	return names, index.Weights, nil
}

// plainName says whether a name is one of a file in the same folder.
func plainName(name string) bool {
	return filepath.IsLocal(name) && !strings.ContainsAny(name, `/\:`) && len(name) > len(suffix) && strings.HasSuffix(name, suffix)
}

// readUpTo reads a file that must not be larger than most bytes.
func readUpTo(root *os.Root, name string, most int64) ([]byte, error) {
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(text)) > most {
		err = fail(ErrIndex, "more than %d bytes", most)
	}
	return text, err
}

// add maps a file and notes its tensors.
func (s *Set) add(root *os.Root, name string) error {
	// Opening something that is no regular file, a pipe perhaps, could block.
	info, err := root.Stat(name)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrPath, err)
	}
	if !info.Mode().IsRegular() {
		return fail(ErrPath, "it is not a regular file")
	}
	file, err := root.Open(name)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrPath, err)
	}
	defer file.Close() // a mapping outlives the descriptor
	data, unmap, err := filemap.Map(file)
	if err != nil {
		return err
	}
	s.unmap = append(s.unmap, unmap)
	f, err := Parse(data)
	if err != nil {
		return err
	}
	return s.adopt(f)
}

// Files returns the files in the order of their names. The caller must not change
// the slice.
func (s *Set) Files() []*File { return s.files }

// Names returns the names of files that were opened in a folder, in order; of files
// that were joined it is nil.
func (s *Set) Names() []string { return s.names }

// Tensor returns the tensor of that name, from whichever file has it.
func (s *Set) Tensor(name string) (Tensor, bool) {
	i, ok := s.where[name]
	if !ok {
		return Tensor{}, false
	}
	return s.files[i].Tensor(name)
}

// FileOf returns the index of the file that has a tensor of the set.
func (s *Set) FileOf(name string) int { return s.where[name] }

// Listed returns the names of the files beside an index, given its text, or of the one
// file of a model without an index, whose text is nil.
func Listed(index []byte) ([]string, error) {
	if index == nil {
		return []string{SingleName}, nil
	}
	names, _, err := namesIn(index)
	return names, err
}

// Size returns the bytes of all files.
func (s *Set) Size() (n int64) {
	for _, f := range s.files {
		n += f.Size()
	}
	return n
}

// Close releases the files: no Data of a tensor may be used from then on. Closing
// twice is harmless; Close must not run beside other calls.
func (s *Set) Close() error {
	var errs []error
	for _, unmap := range s.unmap {
		errs = append(errs, unmap())
	}
	*s = Set{}
	return errors.Join(errs...)
}
