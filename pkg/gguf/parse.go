package gguf

import (
	"fmt"
	"unicode/utf8"

	"github.com/shoal-llm/shoal/pkg/quant"
)

// Limits of a file. The largest models in use stay far below them.
const (
	maxKVs       = 1 << 16
	maxTensors   = 1 << 16
	maxKeyBytes  = 1<<16 - 1
	maxTextBytes = 1 << 20 // of a string value, chat templates included
	maxAlignment = 1 << 20
)

// The fewest bytes that one entry takes: a key or name of one byte, its length,
// and the smallest value or the smallest shape.
const (
	minKVBytes     = 8 + 1 + 4 + 1
	minTensorBytes = 8 + 1 + 4 + 8 + 4 + 8
)

const (
	magic            = "GGUF"
	defaultAlignment = 32
)

// parser collects what a file says, front to back.
type parser struct {
	cursor
	size      uint64 // of the file, of which the cursor has the head
	formats   []quant.Format
	kvs, infs uint64 // counts of metadata pairs and tensor infos
	meta      Metadata
	alignment uint64
	tensors   []Tensor
	infoAt    []uint64 // where the info of each tensor starts
	index     map[string]int
}

func (p *parser) header() error {
	got, err := p.take(4, "magic")
	if err != nil {
		return err
	}
	if string(got) != magic {
		return fail(ErrBadMagic, "magic", 0, "it starts with %q", got)
	}
	version, err := p.uint32("version")
	if err != nil {
		return err
	}
	switch version {
	case 2, 3:
	case 2 << 24, 3 << 24:
		return fail(ErrVersion, "version", 4, "the file is big-endian; versions 2 and 3, little-endian, are read")
	default:
		return fail(ErrVersion, "version", 4, "%d; versions 2 and 3 are read", version)
	}
	if p.infs, err = p.count("tensor count", minTensorBytes, maxTensors); err != nil {
		return err
	}
	p.kvs, err = p.count("metadata count", minKVBytes, maxKVs)
	return err
}

// count reads the number of entries that take at least least bytes each.
func (p *parser) count(field string, least, most uint64) (uint64, error) {
	at := p.at
	n, err := p.uint64(field)
	if err != nil {
		return 0, err
	}
	if n > p.remaining()/least {
		return 0, fail(ErrCount, field, at, "%d entries in %d bytes", n, p.remaining())
	}
	if n > most {
		return 0, fail(ErrCount, field, at, "%d entries, the most is %d", n, most)
	}
	return n, nil
}

func (p *parser) metadata() error {
	p.meta = Metadata{data: p.data, values: map[string]value{}}
	for i := range p.kvs {
		if err := p.pair(i); err != nil {
			return err
		}
	}
	return nil
}

// pair reads metadata pair i.
func (p *parser) pair(i uint64) error {
	at := p.at
	key, err := p.key(fmt.Sprintf("key of metadata pair %d", i))
	if err != nil {
		return err
	}
	field := "metadata " + quoted(key)
	if _, ok := p.meta.values[string(key)]; ok {
		return fail(ErrDuplicate, field, at, "pair %d", i)
	}
	v, err := p.value(field)
	if err != nil {
		return err
	}
	p.meta.values[string(key)] = v
	p.meta.keys = append(p.meta.keys, string(key))
	return nil
}

// key reads a metadata key. All that can be wrong with it is ErrKey, but for a
// file that ends before its length.
func (p *parser) key(field string) ([]byte, error) {
	at := p.at
	n, err := p.uint64(field)
	if err != nil {
		return nil, err
	}
	if n == 0 || n > maxKeyBytes || n > p.remaining() {
		return nil, fail(ErrKey, field, at, "%d bytes long", n)
	}
	key, err := p.take(n, field)
	if err != nil {
		return nil, err
	}
	if !utf8.Valid(key) {
		return nil, fail(ErrKey, field, at, "%s is not UTF-8", quoted(key))
	}
	return key, nil
}

// value reads the type of a metadata value and steps over the value.
func (p *parser) value(field string) (value, error) {
	k, err := p.kind(field)
	if err != nil {
		return value{}, err
	}
	switch k {
	case kindArray:
		return p.array(field)
	case kindString:
		text, err := p.text(field, maxTextBytes)
		return value{kind: k, at: p.at - uint64(len(text)), size: uint64(len(text))}, err
	}
	v := value{kind: k, at: p.at, size: k.size()}
	_, err = p.take(v.size, field)
	return v, err
}

func (p *parser) kind(field string) (kind, error) {
	at := p.at
	n, err := p.uint32(field)
	if err != nil {
		return 0, err
	}
	if n > uint32(kindLast) {
		return 0, fail(ErrKVType, field, at, "%d", n)
	}
	return kind(n), nil
}

// array steps over an array, which stays where it is: its strings are only
// counted and measured.
func (p *parser) array(field string) (value, error) {
	at := p.at
	elem, err := p.kind(field)
	if err != nil {
		return value{}, err
	}
	if elem == kindArray {
		return value{}, fail(ErrNested, field, at, "only arrays of numbers and strings are read")
	}
	least := elem.size()
	if elem == kindString {
		least = 8
	}
	at = p.at
	n, err := p.uint64(field)
	if err != nil {
		return value{}, err
	}
	if n > p.remaining()/least {
		return value{}, fail(ErrCount, field, at, "%d elements in %d bytes", n, p.remaining())
	}
	v := value{kind: kindArray, elem: elem, count: n, at: p.at}
	if elem == kindString {
		for range n {
			if _, err := p.text(field, maxTextBytes); err != nil {
				return value{}, err
			}
		}
	} else if _, err := p.take(n*least, field); err != nil {
		return value{}, err
	}
	v.size = p.at - v.at
	return v, nil
}

// layout reads the metadata that say how the file itself is laid out.
func (p *parser) layout() error {
	p.alignment = defaultAlignment
	if v, ok := p.meta.values[keyAlignment]; ok {
		field := fmt.Sprintf("metadata %q", keyAlignment)
		if v.kind != kindUint32 {
			return fail(ErrAlignment, field, v.at, "it is %s, not uint32", v)
		}
		n, err := p.meta.Uint64(keyAlignment)
		if err != nil {
			return err
		}
		if n < 8 || n > maxAlignment || n&(n-1) != 0 {
			return fail(ErrAlignment, field, v.at, "%d is not a power of two from 8 to %d", n, maxAlignment)
		}
		p.alignment = n
	}
	return nil
}
