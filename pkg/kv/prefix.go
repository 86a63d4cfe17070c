package kv

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/shoal-llm/shoal/pkg/frame"
)

// rootLabel separates the domain's hash from every other use of SHA-256.
const rootLabel = "shoal/kv/prefix/v1"

// pictureLabel does so for pages with pictures.
const pictureLabel = "shoal/kv/picture/v1"

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

// Name is the identity of the page of positions from start on that continues the
// prefix parent: that of its ids, and where it holds rows of pictures of what they
// show. Two pictures have the same placeholders, and never the same identity.
func Name(parent [32]byte, ids []int32, start int, pictures []frame.Picture) [32]byte {
	name := Extend(parent, ids)
	for _, p := range pictures {
		first, end := p.Overlap(int32(start), PageTokens)
		if first >= end {
			continue
		}
		h := sha256.New()
		h.Write([]byte(pictureLabel))
		h.Write(name[:])
		h.Write(p.Hash[:])
		var n [12]byte
		for i, v := range [...]int32{first - int32(start), end - first, first - p.Start} {
			binary.LittleEndian.PutUint32(n[4*i:], uint32(v))
		}
		h.Write(n[:])
		h.Sum(name[:0])
	}
	return name
}

// Chain returns the identities of the whole pages of ids, first page first.
func Chain(root [32]byte, ids []int32, pictures []frame.Picture) [][32]byte {
	out := make([][32]byte, 0, len(ids)/PageTokens)
	for at := 0; at+PageTokens <= len(ids); at += PageTokens {
		root = Name(root, ids[at:], at, pictures)
		out = append(out, root)
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
