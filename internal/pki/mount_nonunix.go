//go:build !unix

package pki

import "io/fs"

// unixModes says that file modes carry no permissions here.
const unixModes = false

func ownedByRoot(fs.FileInfo) bool { return false }
