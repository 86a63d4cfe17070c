package pki

import (
	"os"

	"golang.org/x/sys/unix"
)

// onReadOnlyMount reports whether f lies on a read-only mount.
func onReadOnlyMount(f *os.File) bool {
	var stat unix.Statfs_t
	return unix.Fstatfs(int(f.Fd()), &stat) == nil && stat.Flags&unix.ST_RDONLY != 0
}
