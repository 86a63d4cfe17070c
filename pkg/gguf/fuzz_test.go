package gguf

import (
	"testing"

	"github.com/shoal-llm/shoal/pkg/gguf/gguftest"
	"github.com/shoal-llm/shoal/pkg/quant/formats"
)

// FuzzParse feeds any bytes to the parser. A file that loads must hold what it
// says: data inside the input, and metadata that every getter can look at.
func FuzzParse(f *testing.F) {
	f.Add(good().Bytes())
	f.Add(good().Version(2).Bytes())
	f.Add(gguftest.New().Align(64).KV("f", []float32{1}).KV("i", []int16{-1}).KV("d", 2.5).KV("b", true).
		Tensor("t", []uint64{1, 2, 3, 4}, f16, make([]byte, 48)).Bytes())
	for _, c := range badFiles() {
		if len(c.data) < 4096 {
			f.Add(c.data)
		}
	}
	opts := Options{Formats: formats.All()}
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := Parse(data, opts)
		if err != nil {
			return
		}
		for _, tensor := range file.Tensors() {
			checkInside(t, data, tensor)
		}
		for _, key := range file.Meta().Keys() {
			readAll(t, file.Meta(), key)
		}
	})
}

// checkInside checks that the tensor's data are the bytes of the input that its
// offset and size name, and as many as its shape needs.
func checkInside(t *testing.T, data []byte, tensor Tensor) {
	t.Helper()
	if uint64(len(tensor.Data)) != tensor.Size || tensor.Size == 0 || tensor.Offset > uint64(len(data)) || tensor.Size > uint64(len(data))-tensor.Offset {
		t.Fatalf("%s: %d bytes at %d of %d, Data has %d", tensor.Name, tensor.Size, tensor.Offset, len(data), len(tensor.Data))
	}
	if &tensor.Data[0] != &data[tensor.Offset] || cap(tensor.Data) != len(tensor.Data) {
		t.Fatalf("%s: Data is not the input at %d", tensor.Name, tensor.Offset)
	}
	rowBytes, err := tensor.Format.RowBytes(int(tensor.Dims[0]))
	if err != nil || uint64(rowBytes)*tensor.Rows() != tensor.Size {
		t.Fatalf("%s: %d rows of %d bytes are not %d (%v)", tensor.Name, tensor.Rows(), rowBytes, tensor.Size, err)
	}
}

// readAll calls every getter; exactly those of the value's type succeed.
func readAll(t *testing.T, m Metadata, key string) {
	t.Helper()
	errs := map[string]error{}
	_, errs["Uint32"] = m.Uint32(key)
	_, errs["Uint64"] = m.Uint64(key)
	_, errs["Int32"] = m.Int32(key)
	_, errs["Float32"] = m.Float32(key)
	_, errs["String"] = m.String(key)
	_, errs["Bool"] = m.Bool(key)
	_, errs["Strings"] = m.Strings(key)
	_, errs["Float32s"] = m.Float32s(key)
	_, errs["Int32s"] = m.Int32s(key)
	n, lenErr := m.Len(key)
	if scalar := errs["String"] == nil || errs["Float32"] == nil || errs["Uint64"] == nil; scalar && lenErr == nil {
		t.Fatalf("%q is both a scalar and an array of %d", key, n)
	}
	if list, err := m.Strings(key); err == nil && (lenErr != nil || len(list) != n) {
		t.Fatalf("%q has %d strings, Len says %d, %v", key, len(list), n, lenErr)
	}
}
