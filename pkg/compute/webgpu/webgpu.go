package webgpu

import (
	"errors"
	"log/slog"

	"github.com/shoal-llm/shoal/pkg/compute"
)

var (
	// ErrUnavailable says that no usable adapter was found, or that the program
	// was built without the binding.
	ErrUnavailable = errors.New("no WebGPU adapter")
	// ErrFormat says that there is no kernel for a weight format.
	ErrFormat = errors.New("no webgpu kernel for the weight format")
	// ErrMemory says that the device could not give the memory asked for.
	ErrMemory = compute.ErrMemory
	// ErrWorkgroup says that the device has no workgroups of that size.
	ErrWorkgroup = errors.New("no such workgroup size")
	// ErrLost says that the device failed; it must be closed and opened again.
	ErrLost = compute.ErrLost
)

// Config says which adapter to open and how.
type Config struct {
	Adapter string // index, or a part of the name; empty is the best one that is not software
	// Software allows adapters that compute on the processor. They are for
	// tests: the cpu backend is faster.
	Software bool
	Memory   uint64 // bytes that may be held; 0 is no limit but the device's
	Tuning   string // file of measured shapes of workgroups; empty measures none
	Retune   bool   // measure again what Tuning holds of the device
	// Workgroup is the number of threads of the workgroups that multiply single rows,
	// a power of two from 32 on; 0 takes what is measured or known to be good. A row
	// that is cut into more pieces has a thread for each. It changes no bit.
	Workgroup int
	Compilers int          // kernels that are compiled at a time; 0 is one for each processor
	Log       *slog.Logger // nil discards
}

// Adapter describes a device that can be opened.
type Adapter struct {
	Index    int
	Name     string // as the driver gives it
	Vendor   uint32 // PCI vendor
	Device   uint32 // PCI device
	Driver   string // driver and its version
	API      string // "vulkan", "metal" or "dx12"
	Software bool   // computes on the processor
}
