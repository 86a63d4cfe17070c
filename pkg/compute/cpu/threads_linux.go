package cpu

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/shoal-llm/shoal/pkg/compute"
)

// availableThreads returns the number of physical cores that the process may
// use: never more workers than free cores, or the barriers collapse.
func availableThreads() int {
	n := runtime.GOMAXPROCS(0)
	if allowed := allowedProcessors(); len(allowed) > 0 {
		n = min(n, physicalCores(os.DirFS("/"), allowed))
	}
	if cores := cgroupCores(os.DirFS("/")); cores != 0 {
		n = min(n, cores)
	}
	return max(1, n)
}

// allowedProcessors returns the processors that the process may run on; none if
// the system does not say.
func allowedProcessors() []int {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return nil
	}
	var allowed []int
	for i := range maxProcessors {
		if set.IsSet(i) {
			allowed = append(allowed, i)
		}
	}
	return allowed
}

// memoryNodes says where the workers may run: they are not tied to processors.
func memoryNodes() compute.NUMA { return numaOf(os.DirFS("/"), allowedProcessors()) }

func cgroupMemory() uint64 { return cgroupBytes(os.DirFS("/")) }

func brand() string { return brandOf(os.DirFS("/")) }

// yield offers the core to another thread that waits for it.
func yield() { _, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0) }
