// Package library finds model files by name and opens them: the models that the
// program brings along, files in the models folder, and paths.
package library

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/shoal-llm/shoal/internal/library/checkpoint"
	"github.com/shoal-llm/shoal/models/tiny"
	"github.com/shoal-llm/shoal/pkg/gguf"
	"github.com/shoal-llm/shoal/pkg/model"
	"github.com/shoal-llm/shoal/pkg/model/archs"
	"github.com/shoal-llm/shoal/pkg/quant/formats"
	"github.com/shoal-llm/shoal/pkg/vision"
)

// ErrNotFound says that no model has the name.
var ErrNotFound = errors.New("no such model")

// Default is the name of the model that is served when none is named.
const Default = "tiny"

// Library resolves model names. Names are given by operators, never by clients.
type Library struct {
	// Dir is the models folder; empty is none.
	Dir string
	// Paths are files that have names of their own, before all others.
	Paths map[string]string
}

// Open opens a model by name: an embedded model, a GGUF file (with or without
// .gguf) or a checkpoint's folder in the models folder, or the path of either.
func (l Library) Open(name string) (*Model, error) {
	if path, ok := l.Paths[name]; ok {
		return l.openFile(name, path)
	}
	for _, f := range tiny.Files() {
		if f.Name == name {
			file, err := gguf.Parse(f.Data, gguf.Options{Formats: formats.All()})
			if err != nil {
				return nil, fmt.Errorf("open embedded model %s: %w", name, err)
			}
			return newModel(name, "", mapped(file, f.Name+".gguf"))
		}
	}
	path, err := l.find(name)
	if err != nil {
		return nil, err
	}
	return l.openFile(strings.TrimSuffix(filepath.Base(path), ".gguf"), path)
}

func (l Library) openFile(name, path string) (*Model, error) {
	if checkpoint.Is(path) {
		c, err := checkpoint.Open(path, formats.All())
		if err != nil {
			return nil, err
		}
		f := folder{Checkpoint: c, names: c.WeightNames()}
		for _, small := range checkpoint.SmallFiles() {
			if info, err := os.Stat(filepath.Join(path, small)); err == nil {
				f.small = append(f.small, Range{File: small, Size: uint64(info.Size())})
			}
		}
		m, err := newModel(name, path, f)
		if err != nil || !c.Meta().Has(checkpoint.PlaceholderKey) {
			return m, err
		}
		return m.see(m.file)
	}
	file, err := gguf.Open(path, gguf.Options{Formats: formats.All()})
	if err != nil {
		return nil, err
	}
	m, err := newModel(name, path, mapped(file, filepath.Base(path)))
	if err != nil {
		return nil, err
	}
	return m.pair()
}

// find returns the path of a model file or folder.
func (l Library) find(name string) (string, error) {
	places := []string{name}
	if l.Dir != "" && !filepath.IsAbs(name) {
		places = append(places, filepath.Join(l.Dir, name), filepath.Join(l.Dir, name+".gguf"))
	}
	for _, p := range places {
		if info, err := os.Stat(p); err == nil && (info.Mode().IsRegular() || checkpoint.Is(p)) {
			return p, nil
		}
	}
	var known []string
	for _, f := range tiny.Files() {
		known = append(known, f.Name)
	}
	where := "set --models to a folder of models, or name a GGUF file or a folder with config.json"
	if l.Dir != "" {
		where = fmt.Sprintf("it is neither a GGUF file, a folder with config.json, nor in %s", l.Dir)
	}
	return "", fmt.Errorf("%w: %q (embedded models: %s; %s)", ErrNotFound, name, strings.Join(known, ", "), where)
}

// Model is an open model. It is safe for concurrent use until Close.
type Model struct {
	Name        string
	Path        string // empty for an embedded model
	Arch        model.Arch
	Spec        model.Spec
	Source      model.Source
	Size        int64
	Digest      [32]byte       // SHA-256 of metadata and tensor table, and of what weights are rounded by
	FileDigest  [32]byte       // that of metadata and tensor table alone
	Precision   string         // the class that most weight bytes have; of weights by a recipe the recipe's
	TensorTypes map[string]int // how many tensors of each format
	Parameters  uint64         // values that the tensors hold

	// Vision turns pictures into rows; nil: the model reads text alone. It needs the
	// model to be open.
	Vision *vision.Encoder

	copies bool // what is read of file is copied into memory
	file   container
	tower  container // a file of the encoder's own; nil where it is in file, or there is none
	failed *failure
}

func newModel(name, path string, file container) (*Model, error) {
	failed := &failure{}
	m := &Model{
		Name: name, Path: path, Size: file.Size(), file: file, failed: failed,
		Source: source{file, failed}, Digest: file.Digest(), FileDigest: file.Digest(), TensorTypes: map[string]int{},
	}
	err := m.describe()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read model %s: %w", name, err), file.Close())
	}
	return m, nil
}

// describe finds the architecture and counts what the file holds.
func (m *Model) describe() (err error) {
	if m.Arch, err = archs.Find(m.Source.Meta()); err != nil {
		return err
	}
	if m.Spec, err = m.Arch.Parse(outline{m.file}); err != nil {
		return err
	}
	bytes := map[string]uint64{}
	for _, t := range m.file.Tensors() {
		m.TensorTypes[t.format.Name]++
		bytes[t.format.Precision] += t.size
		m.Parameters += t.rows * t.cols
	}
	for p, n := range bytes {
		if most := bytes[m.Precision]; n > most || n == most && p < m.Precision {
			m.Precision = p
		}
	}
	if made, err := m.file.Metadata().String(recipeKey); err == nil {
		if r, err := ParseRecipe(made); err == nil {
			m.Precision = r.Precision()
		}
	}
	return nil
}

// Err returns the first error of reading weights, if there was one.
func (m *Model) Err() error {
	m.failed.mu.Lock()
	defer m.failed.mu.Unlock()
	return m.failed.err
}

// StandIns is the model with made-up bytes in the place of weights, which are as fast
// to compute with and need not be there.
func (m *Model) StandIns() model.Source { return standIns{outline{m.file}} }

// Bytes returns the bytes of the tensors that a part needs.
func (m *Model) Bytes(p model.Part) uint64 {
	var n uint64
	for _, name := range m.Arch.Tensors(m.Spec, p) {
		if t, ok := m.file.Describe(name); ok {
			n += t.size
		}
	}
	return n
}

// Close releases the files. No tensor may be in use, nor the encoder.
func (m *Model) Close() error {
	if m.tower == nil {
		return m.file.Close()
	}
	return errors.Join(m.file.Close(), m.tower.Close())
}
