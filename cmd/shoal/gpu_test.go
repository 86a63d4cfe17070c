package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestMain is also the program that drives GPUs, as far as it lists them.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "adapters" {
		os.Exit(list())
	}
	os.Exit(m.Run())
}

// listed, in the environment, is what list prints.
const listed = "SHOAL_TEST_ADAPTERS"

func list() int {
	if os.Getenv(listed) == "" {
		fmt.Fprintln(os.Stderr, "banner of a library\nshoal-gpu: the driver is broken")
		return 1
	}
	fmt.Println(os.Getenv(listed))
	return 0
}

const (
	twoGPUs  = `[{"index":0,"name":"NVIDIA H200"},{"index":1,"name":"llvmpipe","software":true},{"index":2,"name":"NVIDIA H200"}]`
	software = `[{"index":0,"name":"llvmpipe","software":true}]`
)

// TestChoose: which devices the flags mean, and what is said where there is none.
func TestChoose(t *testing.T) {
	absent := filepath.Join(t.TempDir(), "shoal-gpu")
	for name, c := range map[string]struct {
		adapters string // empty: the program fails
		program  string // empty is this one
		device   string
		cpu      bool
		gpus     []int
		noGPU    string // part of the reason
		err      string // part of the error
	}{
		"auto":               {adapters: twoGPUs, device: "auto", gpus: []int{0, 2}},
		"auto, software":     {adapters: software, device: "auto", cpu: true, noGPU: "none that can be used"},
		"auto, no program":   {program: absent, device: "auto", cpu: true, noGPU: absent},
		"auto, off":          {program: "off", device: "auto", cpu: true, noGPU: "off"},
		"auto, broken":       {device: "auto", cpu: true, noGPU: "the driver is broken"},
		"auto, garbage":      {adapters: "{", device: "auto", cpu: true, noGPU: "ask"},
		"cpu":                {device: "cpu", cpu: true},
		"gpu":                {adapters: twoGPUs, device: "gpu", gpus: []int{0, 2}},
		"cpu and gpu":        {adapters: twoGPUs, device: "cpu,gpu", cpu: true, gpus: []int{0, 2}},
		"by number":          {adapters: twoGPUs, device: "2,gpu0,2", gpus: []int{2, 0}},
		"by name":            {adapters: twoGPUs, device: "h200", gpus: []int{0, 2}},
		"software, by name":  {adapters: twoGPUs, device: "llvmpipe", gpus: []int{1}},
		"gpu, but software":  {adapters: software, device: "gpu", err: "0 llvmpipe"},
		"gpu, but broken":    {device: "gpu", err: "the driver is broken"},
		"gpu, but absent":    {program: absent, device: "gpu", err: absent},
		"no such GPU":        {adapters: twoGPUs, device: "7", err: `"7"`},
		"auto and something": {adapters: twoGPUs, device: "auto,cpu", err: "auto stands alone"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(listed, c.adapters)
			o := gpuOptions{program: c.program, devices: strings.Split(c.device, ",")}
			if o.program == "" {
				o.program = os.Args[0]
			}
			set, err := o.choose(t.Context())
			if c.err != "" || err != nil {
				if c.err == "" || err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("error %v, want one with %q", err, c.err)
				}
				return
			}
			var gpus []int
			for _, a := range set.gpus {
				gpus = append(gpus, a.Index)
			}
			if set.cpu != c.cpu || !slices.Equal(gpus, c.gpus) {
				t.Errorf("CPU %v and GPUs %v, want %v and %v", set.cpu, gpus, c.cpu, c.gpus)
			}
			if (set.noGPU == "") != (c.noGPU == "") || !strings.Contains(set.noGPU, c.noGPU) {
				t.Errorf("reason %q, want one with %q", set.noGPU, c.noGPU)
			}
		})
	}
}

// TestGPUSettings: what no device takes, and what no device is there to take, is
// refused by its name.
func TestGPUSettings(t *testing.T) {
	for _, c := range []struct {
		options gpuOptions
		gpus    int
		want    string // part of the error; empty is none
	}{
		{gpuOptions{}, 0, ""}, {gpuOptions{workgroup: 128, compilers: 4}, 1, ""},
		{gpuOptions{workgroup: 48}, 1, "--gpu-workgroup 48"}, {gpuOptions{workgroup: 16}, 1, "--gpu-workgroup 16"}, {gpuOptions{workgroup: -64}, 1, "--gpu-workgroup -64"},
		{gpuOptions{compilers: -1}, 1, "--gpu-compilers -1"},
		{gpuOptions{workgroup: 64}, 0, "CPU alone"}, {gpuOptions{compilers: 2}, 0, "CPU alone"},
	} {
		err := c.options.check(c.gpus)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v with %d GPUs: %v, want %q", c.options, c.gpus, err, c.want)
		}
	}
}
