package library

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/shoal-llm/shoal/internal/library/checkpoint"
	"github.com/shoal-llm/shoal/pkg/gguf"
	"github.com/shoal-llm/shoal/pkg/quant/formats"
	"github.com/shoal-llm/shoal/pkg/token"
	"github.com/shoal-llm/shoal/pkg/vision"
)

// towerPrefix begins the names of GGUF files that hold a vision encoder.
const towerPrefix = "mmproj"

// tower finds the vision encoder that belongs to a GGUF file: mmproj-NAME.gguf beside
// NAME.gguf, or where a folder holds one model alone, the one mmproj file there. Empty
// is none.
func tower(path string) (string, error) {
	folder, name := filepath.Split(path)
	if strings.HasPrefix(name, towerPrefix) {
		return "", nil
	}
	files, err := os.ReadDir(filepath.Clean(folder))
	if err != nil {
		return "", fmt.Errorf("look for a vision encoder beside %s: %w", path, err)
	}
	var towers []string
	models := 0
	for _, f := range files {
		switch base := f.Name(); {
		case !strings.HasSuffix(base, ".gguf"):
		case base == towerPrefix+"-"+name:
			return filepath.Join(folder, base), nil
		case strings.HasPrefix(base, towerPrefix):
			towers = append(towers, filepath.Join(folder, base))
		default:
			models++
		}
	}
	if len(towers) == 1 && models == 1 {
		return towers[0], nil
	}
	return "", nil
}

// pair gives the model of a GGUF file the vision encoder beside it.
func (m *Model) pair() (*Model, error) {
	path, err := tower(m.Path)
	if err != nil || path == "" {
		return m, err
	}
	file, err := gguf.Open(path, gguf.Options{Formats: formats.All()})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the vision encoder of %s: %w", m.Name, err), m.file.Close())
	}
	m.tower = mapped(file, filepath.Base(path))
	digest := m.tower.Digest()
	m.Digest = sha256.Sum256(append(m.Digest[:], digest[:]...))
	m.FileDigest = m.Digest
	m.Size += m.tower.Size()
	return m.see(m.tower)
}

// see makes the encoder of a container.
func (m *Model) see(c container) (*Model, error) {
	plain, _ := formats.ByGGML(0) // float32
	e, err := vision.New(source{c, m.failed}, plain)
	if err == nil && e.Width() != m.Spec.Hidden {
		err = fmt.Errorf("%w: its rows have %d values, the model's %d", vision.ErrEncoder, e.Width(), m.Spec.Hidden)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read the vision encoder of %s: %w", m.Name, err), m.Close())
	}
	m.Vision = e
	return m, nil
}

// placeholders are what vocabularies call the token in whose place a row of a picture
// stands.
var placeholders = []string{"<image>", "<image_soft_token>", "<|image_pad|>"}

// Placeholder is the id that stands in a prompt for a row of a picture: the one that
// the model names, or else of no meaning, since nothing reads its embedding.
func (m *Model) Placeholder(v *token.Vocab) int32 {
	if id, err := m.file.Metadata().Uint64(checkpoint.PlaceholderKey); err == nil && id < uint64(m.Spec.Vocab) {
		return int32(id)
	}
	for _, name := range placeholders {
		for id := range int32(v.Len()) {
			if v.Text(id) == name {
				return id
			}
		}
	}
	return 0
}
