//go:build amd64 || arm64

package floatmode

//go:noescape
func read() uint32

//go:noescape
func write(mode uint32)
