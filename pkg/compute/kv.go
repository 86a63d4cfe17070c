package compute

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// DefaultKVGroup is the number of values of a head that share a scale where
// nothing else is said.
const DefaultKVGroup = 32

// ErrKVClass says that keys and values cannot be stored as wished.
var ErrKVClass = errors.New("KV class")

// KVClass says how a cache stores keys and values. The zero value is float32.
//
// 16 bits are halves. With 8, 4, 3 or 2 bits each Group values of a head have a
// scale and a minimum, both halves, and a code each. Before, the head is turned
// by a normalised Hadamard matrix, which spreads channels of large values over
// all others (Ashkboos et al., "QuaRot", arXiv:2404.00456); queries are turned
// alike and results turned back, so that attention is what it was. A row is
// stored by itself, without a look at its neighbours: how a prompt is cut never
// changes a bit.
type KVClass struct {
	Bits  int // 0 (float32), 16, 8, 4, 3 or 2
	Group int // of 2 to 8 bits: 32, 64 or 128
}

// ParseKVClass reads "float32", "16", "8", "4", "3" or "2", the last four also with a
// group, like "4/64".
func ParseKVClass(s string) (KVClass, error) {
	bits, group, grouped := strings.Cut(s, "/")
	if s == "float32" {
		return KVClass{}, nil
	}
	var c KVClass
	var err, groupErr error
	c.Bits, err = strconv.Atoi(bits)
	if grouped {
		c.Group, groupErr = strconv.Atoi(group)
	} else if c.Packed() {
		c.Group = DefaultKVGroup
	}
	if err != nil || groupErr != nil || c.Bits == 0 {
		return KVClass{}, fmt.Errorf("%w %q: want float32, 16, 8, 4, 3 or 2, or a group besides, like 4/64", ErrKVClass, s)
	}
	return c, c.Validate()
}

// Packed reports whether values are codes in groups.
func (c KVClass) Packed() bool { return c.Bits != 0 && c.Bits != 16 }

// String is what ParseKVClass reads.
func (c KVClass) String() string {
	switch {
	case c.Bits == 0:
		return "float32"
	case c.Packed():
		return fmt.Sprintf("%d/%d", c.Bits, c.Group)
	}
	return strconv.Itoa(c.Bits)
}

// Validate reports bits and groups that there are not.
func (c KVClass) Validate() error {
	switch c.Bits {
	case 0, 16:
		if c.Group != 0 {
			return fmt.Errorf("%w: values of %s have no groups", ErrKVClass, KVClass{Bits: c.Bits})
		}
	case 2, 3, 4, 8:
		if c.Group != 32 && c.Group != 64 && c.Group != 128 {
			return fmt.Errorf("%w: groups of %d: want 32, 64 or 128", ErrKVClass, c.Group)
		}
	default:
		return fmt.Errorf("%w: %d bits: want 16, 8, 4, 3 or 2", ErrKVClass, c.Bits)
	}
	return nil
}

// CheckHead reports whether heads of dim values can be stored so.
func (c KVClass) CheckHead(dim int) error {
	if err := c.Validate(); err != nil {
		return err
	}
	if c.Packed() && (dim%c.Group != 0 || dim&(dim-1) != 0) {
		return fmt.Errorf("%w %s: heads of %d are no power of two that groups of %d divide", ErrKVClass, c, dim, c.Group)
	}
	return nil
}

// RowBytes returns what dim values of a head take.
func (c KVClass) RowBytes(dim int) int {
	switch {
	case c.Bits == 0:
		return 4 * dim
	case c.Packed():
		return dim*c.Bits/8 + dim/c.Group*4
	}
	return 2 * dim
}

// Bytes returns what a cache of this shape takes, on every backend.
func (s CacheSpec) Bytes() uint64 {
	return uint64(s.Layers) * uint64(s.Pages) * 2 * uint64(s.KVHeads) * PageTokens * uint64(s.Class.RowBytes(s.HeadDim))
}
