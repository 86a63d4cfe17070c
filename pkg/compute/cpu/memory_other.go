//go:build !linux

package cpu

// newMapping allocates n zero bytes.
func newMapping(n int) (mapping, error) { return make(mapping, n), nil }

func (m mapping) free() error { return nil }

// machineMemory returns 0: not known here.
func machineMemory() uint64 { return 0 }
