package gguf

// Header returns the bytes before the first tensor's data: the metadata and the
// tensor table. They alias the file and are valid until it is closed.
func (f *File) Header() []byte {
	end := uint64(len(f.meta.data))
	for i := range f.tensors {
		end = min(end, f.tensors[i].Offset)
	}
	return f.meta.data[:end]
}
