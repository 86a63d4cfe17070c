//go:build !linux || !amd64

package p16

// permitTiles reports that the tile registers are not for use: there is no AMX, or
// the way to ask this operating system for them is not known.
func permitTiles() bool { return false }
