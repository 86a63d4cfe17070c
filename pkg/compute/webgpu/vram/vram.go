// Package vram tells how much memory GPUs have, which WebGPU does not.
package vram

// Device is a GPU.
type Device struct {
	Name   string // empty: all of them
	Vendor uint32 // PCI numbers
	Device uint32
	Bytes  uint64 // of its largest local heap
}

// Of returns the bytes of the GPU with these PCI numbers, or else of that name; 0
// where nothing is known.
func Of(list []Device, name string, vendor, device uint32) uint64 {
	for _, d := range list {
		if d.Vendor == vendor && d.Device == device && vendor != 0 {
			return d.Bytes
		}
	}
	for _, d := range list {
		if d.Name == name || d.Name == "" {
			return d.Bytes
		}
	}
	return 0
}
