package gguf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// Keys that say how the file itself is laid out.
const (
	keyAlignment  = "general.alignment"
	keySplitCount = "split.count"
)

// kind is the type of a metadata value, as the file numbers it.
type kind uint8

const (
	kindUint8 kind = iota
	kindInt8
	kindUint16
	kindInt16
	kindUint32
	kindInt32
	kindFloat32
	kindBool
	kindString
	kindArray
	kindUint64
	kindInt64
	kindFloat64
	kindLast = kindFloat64
)

var kindNames = [...]string{
	"uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "bool", "string", "array", "uint64", "int64", "float64",
}

// size returns the bytes of a value, or 0 for strings and arrays.
func (k kind) size() uint64 {
	return [...]uint64{1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8}[k]
}

// value is where a metadata value lies in the file.
type value struct {
	kind, elem kind   // elem is the kind of an array's elements
	count      uint64 // of an array's elements
	at, size   uint64 // the bytes: of a string without its length, of an array without its header
}

// String names the type, for messages.
func (v value) String() string {
	if v.kind == kindArray {
		return fmt.Sprintf("array of %d %s", v.count, kindNames[v.elem])
	}
	return kindNames[v.kind]
}

// Metadata are the key-value pairs of a file. They are looked up in the file
// when asked for, so they are valid until it is closed. What a getter returns is
// the caller's own. Safe for concurrent use.
//
// Getters fail with ErrMissing when there is no such key, and with ErrWrongType
// when the value is of another type or does not fit. Integers of all widths are
// accepted where they fit, and float64 where float32 is asked for.
type Metadata struct {
	data   []byte
	values map[string]value
	keys   []string
}

// Optional turns the absence of a key, ErrMissing, into ok = false:
//
//	base, ok, err := gguf.Optional(meta.Float32(key))
func Optional[T any](v T, err error) (_ T, ok bool, _ error) {
	if errors.Is(err, ErrMissing) {
		return v, false, nil
	}
	return v, err == nil, err
}

// Keys returns all keys in the order of the file. The caller must not change the
// slice.
func (m Metadata) Keys() []string { return m.keys }

// Has says whether there is a value of any type for key.
func (m Metadata) Has(key string) bool {
	_, ok := m.values[key]
	return ok
}

// Len returns the number of elements of an array, without decoding them.
func (m Metadata) Len(key string) (int, error) {
	v, err := m.find(key)
	if err != nil {
		return 0, err
	}
	if v.kind != kindArray {
		return 0, wrongType(key, v, "an array")
	}
	return int(v.count), nil
}

// Uint32 returns an integer from 0 to MaxUint32.
func (m Metadata) Uint32(key string) (uint32, error) {
	n, err := m.Uint64(key)
	if err == nil && n > math.MaxUint32 {
		return 0, m.misfit(key, n, "uint32")
	}
	return uint32(n), err
}

// Uint64 returns an integer that is not negative.
func (m Metadata) Uint64(key string) (uint64, error) {
	v, err := m.find(key)
	if err != nil {
		return 0, err
	}
	n, negative, ok := m.integer(v.kind, v.at)
	if !ok {
		return 0, wrongType(key, v, "an integer")
	}
	if negative {
		return 0, m.misfit(key, int64(n), "uint64")
	}
	return n, nil
}

// Int32 returns an integer from MinInt32 to MaxInt32.
func (m Metadata) Int32(key string) (int32, error) {
	v, err := m.find(key)
	if err != nil {
		return 0, err
	}
	if _, _, ok := m.integer(v.kind, v.at); !ok {
		return 0, wrongType(key, v, "an integer")
	}
	n, ok := m.int32(v.kind, v.at)
	if !ok {
		return 0, wrongType(key, v, "an integer that fits int32")
	}
	return n, nil
}

// Float32 returns a floating-point number; a float64 is rounded.
func (m Metadata) Float32(key string) (float32, error) {
	v, err := m.find(key)
	if err != nil {
		return 0, err
	}
	x, ok := m.float32(v.kind, v.at)
	if !ok {
		return 0, wrongType(key, v, "a floating-point number")
	}
	return x, nil
}

// Bool returns a truth value. A byte other than 0 and 1 is none.
func (m Metadata) Bool(key string) (bool, error) {
	v, err := m.find(key)
	if err != nil {
		return false, err
	}
	if v.kind != kindBool || m.data[v.at] > 1 {
		return false, wrongType(key, v, "a bool of 0 or 1")
	}
	return m.data[v.at] == 1, nil
}

// String returns a string, which need not be UTF-8.
func (m Metadata) String(key string) (string, error) {
	v, err := m.find(key)
	if err != nil {
		return "", err
	}
	if v.kind != kindString {
		return "", wrongType(key, v, "a string")
	}
	return string(m.data[v.at : v.at+v.size]), nil
}

// Strings returns an array of strings, which share one allocation.
func (m Metadata) Strings(key string) ([]string, error) {
	v, err := m.find(key)
	if err != nil {
		return nil, err
	}
	if v.kind != kindArray || v.elem != kindString {
		return nil, wrongType(key, v, "an array of strings")
	}
	raw := m.data[v.at : v.at+v.size]
	all := string(raw)
	out := make([]string, v.count)
	at := uint64(0)
	for i := range out {
		n := binary.LittleEndian.Uint64(raw[at:])
		out[i] = all[at+8 : at+8+n]
		at += 8 + n
	}
	return out, nil
}

// Float32s returns an array of floating-point numbers; float64 ones are rounded.
func (m Metadata) Float32s(key string) ([]float32, error) {
	return elements(m, key, "floating-point numbers", m.float32)
}

// Int32s returns an array of integers, all of which must fit int32.
func (m Metadata) Int32s(key string) ([]int32, error) {
	return elements(m, key, "integers that fit int32", m.int32)
}

// elements decodes an array with decode, which says whether it could.
func elements[T any](m Metadata, key, want string, decode func(kind, uint64) (T, bool)) ([]T, error) {
	v, err := m.find(key)
	if err != nil {
		return nil, err
	}
	if v.kind != kindArray || v.elem.size() == 0 {
		return nil, wrongType(key, v, "an array of "+want)
	}
	out := make([]T, v.count)
	for i := range out {
		x, ok := decode(v.elem, v.at+uint64(i)*v.elem.size())
		if !ok {
			return nil, wrongType(key, v, "an array of "+want)
		}
		out[i] = x
	}
	return out, nil
}

func (m Metadata) find(key string) (value, error) {
	v, ok := m.values[key]
	if !ok {
		return v, fmt.Errorf("metadata %q: %w", key, ErrMissing)
	}
	return v, nil
}

func wrongType(key string, v value, want string) error {
	return fmt.Errorf("metadata %q: %w: it is %s, not %s", key, ErrWrongType, v, want)
}

func (m Metadata) misfit(key string, n any, want string) error {
	return fmt.Errorf("metadata %q: %w: %d does not fit %s", key, ErrWrongType, n, want)
}

// integer decodes an integer of any width, sign-extended to 64 bits.
func (m Metadata) integer(k kind, at uint64) (n uint64, negative, ok bool) {
	b, le := m.data[at:], binary.LittleEndian
	var signed int64
	switch k {
	case kindUint8:
		return uint64(b[0]), false, true
	case kindUint16:
		return uint64(le.Uint16(b)), false, true
	case kindUint32:
		return uint64(le.Uint32(b)), false, true
	case kindUint64:
		return le.Uint64(b), false, true
	case kindInt8:
		signed = int64(int8(b[0]))
	case kindInt16:
		signed = int64(int16(le.Uint16(b)))
	case kindInt32:
		signed = int64(int32(le.Uint32(b)))
	case kindInt64:
		signed = int64(le.Uint64(b))
	default:
		return 0, false, false
	}
	return uint64(signed), signed < 0, true
}

func (m Metadata) int32(k kind, at uint64) (int32, bool) {
	n, negative, ok := m.integer(k, at)
	if !ok || !negative && n > math.MaxInt32 || negative && int64(n) < math.MinInt32 {
		return 0, false
	}
	return int32(n), true
}

func (m Metadata) float32(k kind, at uint64) (float32, bool) {
	switch k {
	case kindFloat32:
		return math.Float32frombits(binary.LittleEndian.Uint32(m.data[at:])), true
	case kindFloat64:
		return float32(math.Float64frombits(binary.LittleEndian.Uint64(m.data[at:]))), true
	}
	return 0, false
}
