package main

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"github.com/shoal-llm/shoal/internal/cluster"
	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/quant/formats"
	"github.com/shoal-llm/shoal/services/shard"
)

// devices are what a shard computes on: the CPU in this process, GPUs in
// processes of their own.
type devices struct {
	cpu      compute.Backend // nil: it is not offered
	children *children
	found    *models
}

// open chooses the devices of a shard and opens those of this process.
func (o shardOptions) open(ctx context.Context, n *node, found *models, level slog.Level) (*devices, error) {
	set, err := o.gpu.choose(ctx)
	if err != nil {
		return nil, err
	}
	if set.noGPU != "" {
		n.log.Info("no GPU: computing on the CPU", "reason", set.noGPU)
	}
	d := &devices{found: found}
	if d.children, err = o.newChildren(n, found, set, level); err != nil {
		return nil, err
	}
	if set.cpu {
		if d.cpu, err = openDevice(o.device, n.log); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// close gives back what open took.
func (d *devices) close() error {
	if d.cpu == nil {
		return nil
	}
	return d.cpu.Close()
}

// String names the devices.
func (d *devices) String() string {
	var names []string
	if d.cpu != nil {
		info := d.cpu.Info()
		names = append(names, fmt.Sprintf("%s (%d threads, %s)", info.Name, info.Threads, bytesText(info.Memory)))
	}
	for _, a := range d.children.set.gpus {
		names = append(names, fmt.Sprintf("gpu%d %s", a.Index, a.Name))
	}
	return strings.Join(names, ", ")
}

// describe says in gossip what the shard computes on.
func (d *devices) describe() []cluster.Device {
	var out []cluster.Device
	if d.cpu != nil {
		info := d.cpu.Info()
		out = append(out, cluster.Device{Backend: info.Kind, Name: info.Name, UsableBytes: info.Memory})
	}
	for _, a := range d.children.set.gpus {
		out = append(out, cluster.Device{Backend: gpuBackend, Name: a.Name, UsableBytes: a.Memory})
	}
	return out
}

// shard measures the fingerprint of the CPU, tunes the process for it and makes
// the shard.
func (d *devices) shard(n *node, cfg shard.Config) (*shard.Shard, error) {
	var own []shard.Device
	if d.cpu != nil {
		print, err := compute.SelfTest(d.cpu, formats.All())
		if err != nil {
			return nil, fmt.Errorf("self-test of %s: %w", d.cpu.Info().Name, err)
		}
		tuneRuntime(d.cpu, n.log)
		own = []shard.Device{cpuDevice(d.cpu, print)}
	}
	cfg.Version, cfg.KernelSet = version, kernelSet
	return shard.New(cfg, shard.Deps{
		Identity: n.identity, Listener: n.listener, Telemetry: n.tel, Log: n.log,
		Devices: own, Children: len(d.children.settings) > 0, Weights: d.found.keeper,
		Open: func(name string) (*shard.Model, error) {
			m, err := d.found.lib.Open(name)
			if err != nil {
				return nil, err
			}
			return shard.NewModel(m), nil
		},
	})
}
