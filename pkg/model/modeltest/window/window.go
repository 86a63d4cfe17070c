// Package window adds to a model file what its converter left out: files of
// Mistral do not tell their sliding window.
package window

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/shoal-llm/shoal/pkg/model"
)

// Of returns src with the sliding window of the config.json at path, if there is
// such a file and it has one.
func Of(src model.Source, path string) (model.Source, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return src, nil // quantised files come without
	}
	var config struct {
		Window uint64 `json:"sliding_window"`
	}
	if err := errors.Join(err, json.Unmarshal(b, &config)); err != nil {
		return nil, fmt.Errorf("read the window of %s: %w", path, err)
	}
	if config.Window == 0 {
		return src, nil
	}
	arch, _ := src.Meta().String("general.architecture")
	return source{src, arch + ".attention.sliding_window", config.Window}, nil
}

type source struct {
	model.Source
	key       string
	positions uint64
}

// Meta adds the key.
func (s source) Meta() model.Meta { return meta{s.Source.Meta(), s} }

type meta struct {
	model.Meta
	source source
}

// Uint64 adds the key.
func (m meta) Uint64(key string) (uint64, bool) {
	if key == m.source.key {
		return m.source.positions, true
	}
	return m.Meta.Uint64(key)
}
