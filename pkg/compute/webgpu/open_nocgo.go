//go:build !cgo || !((linux && amd64) || darwin || (windows && amd64))

package webgpu

import (
	"fmt"

	"github.com/shoal-llm/shoal/pkg/compute"
)

// Adapters says that this program was built without the binding.
func Adapters() ([]Adapter, error) { return nil, errWithout }

// Open says that this program was built without the binding.
func Open(Config) (compute.Backend, error) { return nil, fmt.Errorf("open webgpu: %w", errWithout) }

var errWithout = fmt.Errorf("%w: built without cgo, or for a system that the WebGPU library is not made for", ErrUnavailable)
