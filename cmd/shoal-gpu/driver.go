package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/shoal-llm/shoal/internal/supervise"
	"github.com/shoal-llm/shoal/pkg/compute"
)

// driver finds the GPUs of this machine and opens them.
type driver struct {
	adapters func() ([]supervise.Adapter, error)
	open     func(a supervise.Adapter, o openOptions) (compute.Backend, error)
}

// openOptions say how to open a device.
type openOptions struct {
	memory uint64 // usable bytes; 0 is what the device has
	tune   bool   // measure tile shapes anew
	// See webgpu.Config.
	workgroup, compilers int
	log                  *slog.Logger
}

// errNoAdapter says that no device has been found, or none of that name.
var errNoAdapter = errors.New("no such device")

// find returns the adapter of a name: its number (0 or gpu0), or a part of its
// name. Without a name it is the first that is not software.
func (d driver) find(name string) (supervise.Adapter, error) {
	list, err := d.adapters()
	if err != nil {
		return supervise.Adapter{}, err
	}
	i := slices.IndexFunc(list, func(a supervise.Adapter) bool { return a.Answers(name) })
	if i >= 0 {
		return list[i], nil
	}
	var known []string
	for _, a := range list {
		known = append(known, fmt.Sprintf("%d %s", a.Index, a.Name))
	}
	switch {
	case len(list) == 0:
		return supervise.Adapter{}, fmt.Errorf("%w: this machine has no GPU with a driver for Vulkan, Metal or DirectX 12", errNoAdapter)
	case name == "":
		return supervise.Adapter{}, fmt.Errorf("%w: there is only software that plays one (%s); choose it by --device", errNoAdapter, strings.Join(known, ", "))
	}
	return supervise.Adapter{}, fmt.Errorf("%w: --device %q; there are %s", errNoAdapter, name, strings.Join(known, ", "))
}

// deviceFlags choose a device.
type deviceFlags struct {
	device               string
	tune                 bool
	workgroup, compilers int
}

func (o *deviceFlags) flags(f *pflag.FlagSet) {
	f.StringVar(&o.device, "device", "", "number or part of the name of a device; empty is the first GPU")
	f.BoolVar(&o.tune, "tune", false, "measure tile shapes anew")
	f.IntVar(&o.workgroup, "workgroup", 0, "threads of the workgroups that multiply single rows, a power of two from 32 on; 0 takes what was measured")
	f.IntVar(&o.compilers, "compilers", 0, "kernels that are compiled at a time; 0 is one for each processor")
}

// open opens the chosen device.
func (o deviceFlags) open(d driver, log *slog.Logger) (compute.Backend, supervise.Adapter, error) {
	a, err := d.find(o.device)
	if err != nil {
		return nil, a, err
	}
	be, err := d.open(a, openOptions{tune: o.tune, workgroup: o.workgroup, compilers: o.compilers, log: log})
	if err != nil {
		return nil, a, fmt.Errorf("open %s: %w", a.Name, err)
	}
	return be, a, nil
}

func newAdapters(d driver) *cobra.Command {
	return &cobra.Command{
		Use:   "adapters",
		Short: "List the devices, as JSON",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			list, err := d.adapters()
			if err != nil {
				return err
			}
			e := json.NewEncoder(c.OutOrStdout())
			e.SetIndent("", " ")
			return e.Encode(list)
		},
	}
}

// label makes a short name for the figures of a device: h200 of NVIDIA H200.
func label(name string) string {
	words := strings.Fields(strings.ToLower(name))
	for _, w := range words {
		if strings.ContainsAny(w, "0123456789") && strings.Trim(w, "0123456789.,()") != "" {
			return w
		}
	}
	return strings.Join(words, "_")
}
