package gguf

import "slices"

// Header returns the bytes before the first tensor's data: the metadata and the
// tensor table, of all files one after the other. They may alias the file and are
// valid until it is closed.
func (f *File) Header() []byte { return f.headers }

// headerOf returns those of one file. What is appended to them is a copy.
func headerOf(data []byte, tensors []Tensor) []byte {
	end := uint64(len(data))
	for i := range tensors {
		end = min(end, tensors[i].Offset)
	}
	return slices.Clip(data[:end])
}
