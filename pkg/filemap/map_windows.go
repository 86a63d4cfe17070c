package filemap

import (
	"os"
	"unsafe"

	"golang.org/x/sys/windows"
)

// mapFile maps size bytes of the file read-only.
func mapFile(file *os.File, size int) ([]byte, func() error, error) {
	mapping, err := windows.CreateFileMapping(windows.Handle(file.Fd()), nil, windows.PAGE_READONLY, 0, 0, nil)
	if err != nil {
		return nil, nil, os.NewSyscallError("CreateFileMapping", err)
	}
	defer windows.CloseHandle(mapping) // a view keeps its mapping alive
	view, err := windows.MapViewOfFile(mapping, windows.FILE_MAP_READ, 0, 0, uintptr(size))
	if err != nil {
		return nil, nil, os.NewSyscallError("MapViewOfFile", err)
	}
	// The view is outside the Go heap, so its address is no pointer the
	// collector knows; reading it through &view says so to the checkers.
	data := unsafe.Slice(*(**byte)(unsafe.Pointer(&view)), size)
	unmap := func() error { return os.NewSyscallError("UnmapViewOfFile", windows.UnmapViewOfFile(view)) }
	return data, unmap, nil
}
