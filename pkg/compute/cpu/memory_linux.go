package cpu

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// hugePage is the size from which memory is asked for in huge pages.
const hugePage = 2 << 20

// newMapping maps n zero bytes. Large mappings ask for huge pages, which raise
// the bandwidth of reading weights.
func newMapping(n int) (mapping, error) {
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, fmt.Errorf("map %d bytes: %w", n, err)
	}
	if n >= hugePage {
		_ = unix.Madvise(b, unix.MADV_HUGEPAGE) // a kernel may have no huge pages
	}
	return b, nil
}

func (m mapping) free() error { return unix.Munmap(m) }

// machineMemory returns the bytes of the machine, or 0 where unknown.
func machineMemory() uint64 {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0
	}
	total := uint64(info.Totalram) * uint64(info.Unit)
	if limit := cgroupMemory(); limit != 0 && limit < total {
		return limit
	}
	return total
}
