//go:build !darwin && !(linux && cgo)

package vram

// List knows nothing here.
func List() []Device { return nil }
