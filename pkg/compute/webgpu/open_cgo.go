//go:build cgo && ((linux && amd64) || darwin || (windows && amd64))

package webgpu

import (
	"fmt"

	"github.com/shoal-llm/shoal/pkg/compute"
)

// Adapters lists the adapters of this machine.
func Adapters() ([]Adapter, error) { return nil, ErrUnavailable }

// Open opens an adapter.
func Open(Config) (compute.Backend, error) { return nil, fmt.Errorf("open webgpu: %w", ErrUnavailable) }
