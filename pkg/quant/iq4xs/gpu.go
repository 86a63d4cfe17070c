package iq4xs

import (
	_ "embed"
	"encoding/binary"

	"github.com/shoal-llm/shoal/pkg/quant"
)

//go:embed unpack.wgsl
var unpackWGSL string

var gpu = quant.GPU{Vectors: 2, Words: 1, Super: true, Pack: packSegment, WGSL: unpackWGSL}

// packSegment packs a segment for a GPU.
func packSegment(dst *quant.Segment, row []byte, i int) {
	super := row[i/4*blockBytes:][:blockBytes]
	b := i % 4 * 2
	for v := range 2 {
		block := codes(super, b+v)
		dst.PackHalves(v, binary.LittleEndian.Uint64(block), binary.LittleEndian.Uint64(block[8:]))
	}
	dst.Words[0] = uint32(uint8(scale(super, b))) | uint32(uint8(scale(super, b+1)))<<8
	dst.Super = uint32(binary.LittleEndian.Uint16(super))
}
