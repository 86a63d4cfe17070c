//go:build !linux

package pki

import "os"

// onReadOnlyMount reports false: containers, which mount secrets, run on Linux.
func onReadOnlyMount(*os.File) bool { return false }
