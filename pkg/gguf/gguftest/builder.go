// Package gguftest builds GGUF files in memory, right ones and wrong ones, for
// tests.
package gguftest

import (
	"encoding/binary"
	"fmt"
	"math"
	"reflect"
)

// Type numbers of metadata values.
const (
	Uint8 uint32 = iota
	Int8
	Uint16
	Int16
	Uint32
	Int32
	Float32
	Bool
	String
	Array
	Uint64
	Int64
	Float64
)

var le = binary.LittleEndian

// Builder collects the parts of a file. Its methods return the Builder, so calls
// chain; they panic on a value that no GGUF file can hold.
type Builder struct {
	version     uint32
	alignment   uint64
	kvs, infos  []byte
	data        []byte
	kvCount     uint64
	tensorCount uint64
}

// New returns an empty file of version 3 with the default alignment.
func New() *Builder { return &Builder{version: 3, alignment: 32} }

// Version sets the version.
func (b *Builder) Version(v uint32) *Builder {
	b.version = v
	return b
}

// Align sets the alignment that tensors are placed with, and writes it as
// metadata. It comes before the first Tensor.
func (b *Builder) Align(n uint32) *Builder {
	b.alignment = uint64(n)
	return b.KV("general.alignment", n)
}

// Counts overrides the counts in the header; math.MaxUint64 and the like are
// welcome.
func (b *Builder) Counts(tensors, kvs uint64) *Builder {
	b.tensorCount, b.kvCount = tensors, kvs
	return b
}

// KV adds a metadata pair. The value is a bool, a string, a number of fixed
// width, or a slice of one of them.
func (b *Builder) KV(key string, v any) *Builder {
	kind, payload := encode(reflect.ValueOf(v))
	return b.RawKV(key, kind, payload)
}

// RawKV adds a metadata pair of the given type number and bytes.
func (b *Builder) RawKV(key string, kind uint32, payload []byte) *Builder {
	b.kvs = append(b.kvs, Text(key)...)
	b.kvs = le.AppendUint32(b.kvs, kind)
	b.kvs = append(b.kvs, payload...)
	b.kvCount++
	return b
}

// Tensor adds a tensor and its data, which are placed behind those before.
func (b *Builder) Tensor(name string, dims []uint64, ggmlType uint32, data []byte) *Builder {
	b.pad(&b.data)
	offset := uint64(len(b.data))
	b.data = append(b.data, data...)
	return b.Info(name, dims, ggmlType, offset)
}

// Info adds the info of a tensor whose data are at an offset of the data
// section, whether or not there are any.
func (b *Builder) Info(name string, dims []uint64, ggmlType uint32, offset uint64) *Builder {
	b.infos = append(b.infos, Text(name)...)
	b.infos = le.AppendUint32(b.infos, uint32(len(dims)))
	for _, d := range dims {
		b.infos = le.AppendUint64(b.infos, d)
	}
	b.infos = le.AppendUint32(b.infos, ggmlType)
	b.infos = le.AppendUint64(b.infos, offset)
	b.tensorCount++
	return b
}

// Bytes returns the file.
func (b *Builder) Bytes() []byte {
	out := append([]byte("GGUF"), le.AppendUint32(nil, b.version)...)
	out = le.AppendUint64(out, b.tensorCount)
	out = le.AppendUint64(out, b.kvCount)
	out = append(out, b.kvs...)
	out = append(out, b.infos...)
	b.pad(&out)
	return append(out, b.data...)
}

func (b *Builder) pad(p *[]byte) {
	for b.alignment > 0 && uint64(len(*p))%b.alignment != 0 {
		*p = append(*p, 0)
	}
}

// Text returns s as a file holds it: its length and its bytes.
func Text(s string) []byte { return append(le.AppendUint64(nil, uint64(len(s))), s...) }

// encode returns the type number and the bytes of a metadata value.
func encode(v reflect.Value) (kind uint32, payload []byte) {
	switch v.Kind() {
	case reflect.String:
		return String, Text(v.String())
	case reflect.Bool:
		if v.Bool() {
			return Bool, []byte{1}
		}
		return Bool, []byte{0}
	case reflect.Slice:
		return encodeArray(v)
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		kind = map[reflect.Kind]uint32{reflect.Uint8: Uint8, reflect.Uint16: Uint16, reflect.Uint32: Uint32, reflect.Uint64: Uint64}[v.Kind()]
		return kind, le.AppendUint64(nil, v.Uint())[:v.Type().Size()]
	case reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		kind = map[reflect.Kind]uint32{reflect.Int8: Int8, reflect.Int16: Int16, reflect.Int32: Int32, reflect.Int64: Int64}[v.Kind()]
		return kind, le.AppendUint64(nil, uint64(v.Int()))[:v.Type().Size()]
	case reflect.Float32:
		return Float32, le.AppendUint32(nil, math.Float32bits(float32(v.Float())))
	case reflect.Float64:
		return Float64, le.AppendUint64(nil, math.Float64bits(v.Float()))
	}
	panic(fmt.Sprintf("gguftest: no GGUF type for %s", v.Type()))
}

func encodeArray(v reflect.Value) (kind uint32, payload []byte) {
	elem, _ := encode(reflect.Zero(v.Type().Elem()))
	payload = le.AppendUint64(le.AppendUint32(nil, elem), uint64(v.Len()))
	for i := range v.Len() {
		_, b := encode(v.Index(i))
		payload = append(payload, b...)
	}
	return Array, payload
}
