package bandwidth

import "golang.org/x/sys/unix"

// allocate maps n bytes, in huge pages if the kernel has them, and returns how
// to free them.
func allocate(n int) ([]byte, func() error, error) {
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, nil, err
	}
	_ = unix.Madvise(b, unix.MADV_HUGEPAGE)
	return b, func() error { return unix.Munmap(b) }, nil
}
