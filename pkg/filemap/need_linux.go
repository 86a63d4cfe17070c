package filemap

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ask begins to read all of it at once, then waits for it. Kernels before 5.14 cannot
// wait.
func ask(data []byte) bool {
	first := uintptr(unsafe.Pointer(unsafe.SliceData(data)))
	before := first % uintptr(unix.Getpagesize()) // the advice is for whole pages, and the first begins before data
	advise := func(advice uintptr) bool {
		_, _, errno := unix.Syscall(unix.SYS_MADVISE, first-before, uintptr(len(data))+before, advice)
		return errno == 0
	}
	advise(unix.MADV_WILLNEED)
	done := advise(unix.MADV_POPULATE_READ)
	runtime.KeepAlive(data)
	return done
}
