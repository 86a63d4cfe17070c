//go:build cgo && ((linux && amd64) || darwin || (windows && amd64))

package webgpu_test

import (
	"errors"
	"os"
	"testing"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/compute/computetest"
	"github.com/shoal-llm/shoal/pkg/compute/webgpu"
)

// open opens the adapter that SHOAL_GPU names, or else a software one. Without any
// adapter the test is skipped, unless SHOAL_GPU is set.
func open(tb testing.TB) compute.Backend {
	name, named := os.LookupEnv("SHOAL_GPU")
	be, err := webgpu.Open(webgpu.Config{Adapter: name, Software: true})
	if errors.Is(err, webgpu.ErrUnavailable) && !named {
		tb.Skip("no Vulkan adapter: install mesa-vulkan-drivers for a software one")
	}
	if err != nil {
		tb.Fatal(err)
	}
	return be
}

func TestBackend(t *testing.T) { computetest.Run(t, open) }
