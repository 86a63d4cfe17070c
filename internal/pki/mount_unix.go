//go:build unix

package pki

import (
	"io/fs"
	"syscall"
)

// unixModes says that file modes say who may read a file.
const unixModes = true

func ownedByRoot(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && stat.Uid == 0
}
