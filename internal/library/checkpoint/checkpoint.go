// Package checkpoint reads models as frameworks save them: a folder with
// config.json, weights in safetensors, tokenizer.json and tokenizer_config.json.
//
// What it gives are the names and keys of GGUF, so that one implementation of an
// architecture runs both. Weights stay as they lie in the mapped files, but for
// small vectors and for the networks of a mixture, which are joined to one matrix
// each time they are asked for. What this build would not honour — a weight that no
// architecture reads, an activation, a quantisation — is refused by name.
package checkpoint

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/safetensors"
)

var (
	// ErrConfig says that config.json makes no sense or asks for what this build
	// does not do.
	ErrConfig = errors.New("unsupported or invalid config.json")
	// ErrTooBig says that one of the small files is larger than any should be.
	ErrTooBig = errors.New("file is too big")
)

// ConfigName is the file that makes a folder a checkpoint.
const ConfigName = "config.json"

// SmallFiles returns the names of the files that are read whole, where they are there.
func SmallFiles() []string {
	return []string{ConfigName, "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", preprocessorName, safetensors.IndexName,
		poolingName, modulesName}
}

// Bounds of the small files.
const (
	maxConfigBytes    = 1 << 20
	maxTokenizerBytes = 64 << 20
)

// Checkpoint is an open model folder. It is immutable until Close and safe for
// concurrent use.
type Checkpoint struct {
	set     *safetensors.Set
	read    func(file int, offset, n uint64) ([]byte, error) // what is not mapped; nil: all is
	meta    Metadata
	tensors []Tensor
	index   map[string]int
	digest  [32]byte
}

// reader reads the small files of a model: one of at most most bytes, or an error
// that wraps fs.ErrNotExist.
type reader func(name string, most int64) ([]byte, error)

// Is reports whether there is a checkpoint in the folder dir.
func Is(dir string) bool {
	info, err := os.Stat(filepath.Join(dir, ConfigName))
	return err == nil && info.Mode().IsRegular()
}

// Open opens the checkpoint in the folder dir. Formats are those in which weights
// may be stored. The caller closes it when no tensor is in use.
func Open(dir string, formats []quant.Format) (*Checkpoint, error) {
	at, folder := bounds(dir)
	root, err := os.OpenRoot(at)
	if err != nil {
		return nil, fmt.Errorf("open model folder: %w", err)
	}
	defer root.Close() // mappings outlive it
	c, err := within(root, folder).open(formats, func(c *Checkpoint) (err error) {
		c.set, err = safetensors.Open(root, folder)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read model folder %s: %w", dir, err)
	}
	return c, nil
}

// Weights are the files with the weights of a model that is elsewhere.
type Weights struct {
	Heads []*safetensors.File // in the order of their names
	// Read returns n bytes of a file, by its index.
	Read func(file int, offset, n uint64) ([]byte, error)
}

// OpenHeads opens a checkpoint whose small files are read by small and whose weights
// are read when they are asked for. Small returns a file of at most most bytes, or an
// error that wraps fs.ErrNotExist.
func OpenHeads(small func(name string, most int64) ([]byte, error), w Weights, formats []quant.Format) (*Checkpoint, error) {
	return reader(small).open(formats, func(c *Checkpoint) (err error) {
		c.read = w.Read
		c.set, err = safetensors.Join(w.Heads)
		return err
	})
}

// bounds returns the folder that links may not lead out of, and the path of dir in
// it. In a cache of the hub, the files of snapshots/REVISION are links into the
// blobs of the same model.
func bounds(dir string) (root, folder string) {
	dir = filepath.Clean(dir)
	snapshots := filepath.Dir(dir)
	model := filepath.Dir(snapshots)
	if info, err := os.Stat(filepath.Join(model, "blobs")); err == nil && info.IsDir() && filepath.Base(snapshots) == "snapshots" {
		return model, path.Join("snapshots", filepath.Base(dir))
	}
	return dir, "."
}

// open reads the small files; weigh opens the others.
func (r reader) open(formats []quant.Format, weigh func(c *Checkpoint) error) (*Checkpoint, error) {
	cfg, text, err := r.config()
	if err != nil {
		return nil, err
	}
	c := &Checkpoint{meta: Metadata{}, index: map[string]int{}}
	if err := cfg.describe(c.meta); err != nil {
		return nil, err
	}
	if cfg.Vision != nil {
		cfg.Vision.describe(c.meta)
	}
	if err := r.pooling(c.meta); err != nil {
		return nil, err
	}
	if err := r.texts(cfg, c.meta); err != nil {
		return nil, err
	}
	if err := weigh(c); err != nil {
		return nil, err
	}
	if err := c.arrange(cfg, formats); err != nil {
		return nil, errors.Join(err, c.set.Close())
	}
	hash := sha256.New()
	hash.Write(text)
	for _, f := range c.set.Files() {
		hash.Write(f.Header())
	}
	hash.Sum(c.digest[:0])
	return c, nil
}

// config reads config.json.
func (r reader) config() (*config, []byte, error) {
	text, err := r(ConfigName, maxConfigBytes)
	if err != nil {
		return nil, nil, err
	}
	cfg := &config{}
	if err := json.Unmarshal(text, cfg); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	if cfg.Type == llavaType {
		if err := cfg.unwrap(text); err != nil {
			return nil, nil, err
		}
		more, err := r(preprocessorName, maxConfigBytes)
		if err == nil {
			err = cfg.Vision.read(more)
		}
		if err != nil {
			return nil, nil, err
		}
		text = append(text, more...) // for the digest
	}
	return cfg, text, cfg.settle()
}

// within reads the files of a folder below a root that nothing leads out of.
func within(root *os.Root, folder string) reader {
	return func(name string, most int64) ([]byte, error) {
		f, err := root.Open(path.Join(folder, name))
		if err != nil {
			return nil, err
		}
		defer f.Close()
		text, err := io.ReadAll(io.LimitReader(f, most+1))
		if err == nil && int64(len(text)) > most {
			err = fmt.Errorf("%w: %s has more than %d bytes", ErrTooBig, name, most)
		}
		return text, err
	}
}

// optional reads a small JSON file into v, and reports whether there is one.
func (r reader) optional(name string, most int64, v any) (bool, error) {
	text, err := r(name, most)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err == nil {
		err = json.Unmarshal(text, v)
	}
	if err != nil {
		return false, fmt.Errorf("read %s: %w", name, err)
	}
	return true, nil
}

// Meta returns the metadata under the keys of GGUF.
func (c *Checkpoint) Meta() Metadata { return c.meta }

// Tensors returns all tensors by the names of GGUF. The caller must not change the
// slice.
func (c *Checkpoint) Tensors() []Tensor { return c.tensors }

// Tensor returns the tensor of that name.
func (c *Checkpoint) Tensor(name string) (Tensor, bool) {
	i, ok := c.index[name]
	if !ok {
		return Tensor{}, false
	}
	return c.tensors[i], true
}

// Files returns the heads of the weight files, in the order of their names.
func (c *Checkpoint) Files() []*safetensors.File { return c.set.Files() }

// WeightNames returns the names of the weight files of a checkpoint in a folder; none
// of one from elsewhere.
func (c *Checkpoint) WeightNames() []string { return c.set.Names() }

// Size returns the bytes of the weight files.
func (c *Checkpoint) Size() int64 { return c.set.Size() }

// Digest returns the SHA-256 of the configuration and the descriptions of all
// tensors.
func (c *Checkpoint) Digest() [32]byte { return c.digest }

// Close releases the files. No tensor may be in use.
func (c *Checkpoint) Close() error { return c.set.Close() }
