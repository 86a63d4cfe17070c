//go:build !linux

package cpu

import (
	"runtime"

	"github.com/shoal-llm/shoal/pkg/compute"
)

// availableThreads returns the number of processors that the process may use.
func availableThreads() int { return max(1, min(runtime.NumCPU(), runtime.GOMAXPROCS(0))) }

func brand() string { return "" }

// yield does nothing: only Linux has the call.
func yield() {}

// memoryNodes knows no files to read here.
func memoryNodes() compute.NUMA { return compute.NUMA{} }
