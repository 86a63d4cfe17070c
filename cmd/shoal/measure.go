package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/compute/cpu"
	"github.com/shoal-llm/shoal/pkg/compute/cpu/bandwidth"
	"github.com/shoal-llm/shoal/services/shard"
)

// bandwidthBytes is what is read to measure the memory's bandwidth: more than
// most caches hold, and done in a part of a second.
const bandwidthBytes = 128 << 20

// cpuDevice is the CPU as a shard offers it.
func cpuDevice(be compute.Backend, print [32]byte) shard.Device {
	d := shard.Device{Backend: be, Fingerprint: print}
	if c, ok := be.(*cpu.Backend); ok {
		d.Variant = c.Level().String()
	}
	d.Bandwidth = func() (rate float64, err error) {
		r, err := bandwidth.New(bandwidthBytes)
		if err != nil {
			return 0, err
		}
		defer r.Close()
		if rate, err = r.Read(r.Size(), be.Info().Threads, 1); err != nil {
			return 0, fmt.Errorf("measure memory: %w", err)
		}
		return rate, nil
	}
	return d
}

// stateDir is where a node keeps what it may forget: measured speeds. It is empty
// where the system names no place for that.
func stateDir() string {
	cache, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(cache, "shoal")
}
