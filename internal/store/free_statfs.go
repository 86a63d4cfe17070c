//go:build linux || darwin

package store

import (
	"os"

	"golang.org/x/sys/unix"
)

// free returns the bytes that may still be written below a folder.
func free(dir string) (int64, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return 0, os.NewSyscallError("statfs", err)
	}
	return int64(fs.Bavail) * int64(fs.Bsize), nil
}
