package cpu

import "unsafe"

// mapping is memory that the collector does not know. It is zero at first and
// aligned to a page of the machine.
type mapping []byte

// float32s returns the memory as float32 values.
func (m mapping) float32s() []float32 {
	return unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(m))), len(m)/4)
}
