//go:build !amd64 && !arm64

package cpu

// pause does nothing: there is no hint here.
func pause() {}
