// Package filemap maps files into memory, so that what is never looked at is never
// read.
package filemap

import (
	"fmt"
	"io"
	"os"
)

// Map returns the bytes of a regular file and what releases them. Where the system
// cannot map the file, it is read. The caller may close the file at once. The bytes
// must never be written, and the file must not be shortened while they are in use:
// the system ends a process that touches mapped bytes that are gone.
func Map(file *os.File) ([]byte, func() error, error) {
	info, err := file.Stat()
	if err != nil {
		return nil, nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, nil, fmt.Errorf("%s is not a regular file", file.Name())
	}
	size := info.Size()
	if int64(int(size)) != size {
		return nil, nil, fmt.Errorf("%s: %d bytes do not fit the address space", file.Name(), size)
	}
	if size > 0 {
		if data, unmap, err := mapFile(file, int(size)); err == nil {
			return data, unmap, nil
		}
	}
	data := make([]byte, size)
	if _, err := io.ReadFull(io.NewSectionReader(file, 0, size), data); err != nil {
		return nil, nil, fmt.Errorf("read %s: %w", file.Name(), err)
	}
	return data, func() error { return nil }, nil
}
