package filemap

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// ask begins to read all of it at once, then waits for it. Kernels before 5.14 cannot
// wait.
func ask(data []byte) bool {
	page := uintptr(unix.Getpagesize())
	first := uintptr(unsafe.Pointer(unsafe.SliceData(data)))
	before := first % page // the advice is for whole pages, and the first begins before data
	whole := unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(data)), -int(before))), len(data)+int(before))
	_ = unix.Madvise(whole, unix.MADV_WILLNEED)
	return unix.Madvise(whole, unix.MADV_POPULATE_READ) == nil
}
