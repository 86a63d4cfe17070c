//go:build cgo && ((linux && amd64) || darwin || (windows && amd64))

package webgpu_test

import (
	"errors"
	"os"
	"strconv"
	"testing"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/compute/computetest"
	"github.com/shoal-llm/shoal/pkg/compute/cpu"
	"github.com/shoal-llm/shoal/pkg/compute/webgpu"
	"github.com/shoal-llm/shoal/pkg/model/modeltest"
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

// TestFixtureModel runs models of the reference data whole and in parts: all families.
func TestFixtureModel(t *testing.T) {
	for _, c := range modeltest.Cases(t, "llama", "llama3_rope", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_yarn", "qwen3_moe", "gemma2", "gemma3", "phi3") {
		t.Run(c.Name, func(t *testing.T) { modeltest.Device(t, c, open) })
	}
}

// TestFixtureModelKV runs a model whose keys and values are packed.
func TestFixtureModelKV(t *testing.T) {
	c := modeltest.Cases(t, "llama")[0]
	for _, class := range []compute.KVClass{{Bits: 16}, {Bits: 8, Group: 32}, {Bits: 4, Group: 32, Recent: 64}, {Bits: 2, Group: 32, Recent: 64, Upper: 3, Far: 128}} {
		t.Run(class.String(), func(t *testing.T) { modeltest.DeviceKV(t, c, class, open) })
	}
}

// TestAgreement takes an hour on a software adapter: SHOAL_GPU_AGREEMENT is the
// number of positions.
func TestAgreement(t *testing.T) {
	positions, err := strconv.Atoi(os.Getenv("SHOAL_GPU_AGREEMENT"))
	if err != nil {
		t.Skip("make gpu-agreement runs this")
	}
	modeltest.Agreement(t, positions, open)
}

// TestKVAgreesWithCPU: attention over every class of cache is that of the CPU, but
// for codes at the border between two.
func TestKVAgreesWithCPU(t *testing.T) {
	other, err := cpu.Open(cpu.Config{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	be := open(t)
	defer be.Close()
	for _, class := range computetest.KVClasses() {
		away := computetest.Away(computetest.KVAttention(t, be, class), computetest.KVAttention(t, other, class))
		t.Logf("%s: %.2g away", class, away)
		if !(away <= 2e-3) {
			t.Errorf("%s: %.2g away from the CPU", class, away)
		}
	}
}

func TestBackend(t *testing.T) { computetest.Run(t, open) }

func BenchmarkBackend(b *testing.B) { computetest.Bench(b, open) }
