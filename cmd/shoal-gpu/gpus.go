package main

import (
	"os"
	"path/filepath"
	"strconv"

	"github.com/shoal-llm/shoal/internal/supervise"
	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/compute/webgpu"
	"github.com/shoal-llm/shoal/pkg/compute/webgpu/vram"
)

// webGPUs drives the GPUs of this machine.
func webGPUs() driver {
	const runtimeDir = "XDG_RUNTIME_DIR"
	if os.Getenv(runtimeDir) == "" { // else libraries of drivers complain on standard error
		_ = os.Setenv(runtimeDir, os.TempDir())
	}
	return driver{adapters: listGPUs, open: openGPU}
}

func listGPUs() ([]supervise.Adapter, error) {
	list, err := webgpu.Adapters()
	if err != nil {
		return nil, err
	}
	memory := vram.List()
	var out []supervise.Adapter
	for _, a := range list {
		out = append(out, supervise.Adapter{Index: a.Index, Name: a.Name, API: a.API, Driver: a.Driver, Software: a.Software,
			Memory: vram.Of(memory, a.Name, a.Vendor, a.Device)})
	}
	return out, nil
}

func openGPU(a supervise.Adapter, o openOptions) (compute.Backend, error) {
	return webgpu.Open(webgpu.Config{
		Adapter: strconv.Itoa(a.Index), Software: a.Software, Memory: o.memory, Tuning: tuningFile(), Retune: o.tune, Log: o.log,
		Workgroup: o.workgroup, Compilers: o.compilers,
	})
}

// tuningFile is where measured tile shapes are kept; empty is nowhere.
func tuningFile() string {
	dir, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "shoal", "gpu-tuning.json")
}
