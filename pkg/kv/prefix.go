package kv

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/shoal-llm/shoal/pkg/frame"
)

// rootLabel separates the domain's hash from every other use of SHA-256.
const rootLabel = "shoal/kv/prefix/v1"

// Root is the identity of the empty prefix: what the first page extends. It
// holds everything besides the ids that a page's contents are a function of
// within a pipeline, and the salt that keeps tenants apart.
func Root(salt []byte, class frame.KVClass, adapter string) [32]byte {
	h := sha256.New()
	h.Write([]byte(rootLabel))
	var n [4]byte
	text := func(b []byte) { // with its length: no two domains encode alike
		binary.LittleEndian.PutUint32(n[:], uint32(len(b)))
		h.Write(n[:])
		h.Write(b)
	}
	text(salt)
	text([]byte(adapter))
	c := [4]byte{class.Bits, byte(class.GroupSize), byte(class.GroupSize >> 8), 0}
	if class.Progressive {
		c[3] = 1
	}
	h.Write(c[:])
	return [32]byte(h.Sum(nil))
}

// Extend is the identity of the page that continues the prefix parent with ids,
// of which there must be PageTokens: SHA-256 over the parent's identity and the
// ids as little-endian 32-bit numbers.
func Extend(parent [32]byte, ids []int32) [32]byte {
	var b [32 + 4*PageTokens]byte
	copy(b[:], parent[:])
	for i, id := range ids[:PageTokens] {
		binary.LittleEndian.PutUint32(b[32+4*i:], uint32(id))
	}
	return sha256.Sum256(b[:])
}

// Chain returns the identities of the whole pages of ids, first page first.
func Chain(root [32]byte, ids []int32) [][32]byte {
	out := make([][32]byte, 0, len(ids)/PageTokens)
	for len(ids) >= PageTokens {
		root = Extend(root, ids)
		out = append(out, root)
		ids = ids[PageTokens:]
	}
	return out
}

// index holds the published pages by identity. Each entry is a holder of its
// page, and its parents are in the index too.
type index map[[32]byte]*entry

type entry struct {
	page     int32
	parent   [32]byte
	children int // published pages that continue this one
}
