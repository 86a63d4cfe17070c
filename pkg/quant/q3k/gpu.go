package q3k

import (
	_ "embed"
	"encoding/binary"

	"github.com/shoal-llm/shoal/pkg/quant"
)

//go:embed unpack.wgsl
var unpackWGSL string

var gpu = quant.GPU{Vectors: 1, Words: 3, Super: true, Pack: packSegment, WGSL: unpackWGSL}

// packSegment packs a segment for a GPU.
func packSegment(dst *quant.Segment, row []byte, i int) {
	super := row[i/4*blockBytes:][:blockBytes]
	var q [quant.SegmentCols]byte
	for b := range 2 {
		block := values(super, i%4*2+b)
		copy(q[b*quant.Block:], block[:])
	}
	dst.PackPairs(0, &q, 0)
	dst.PackBits(1, &q, 2)
	first, second := scales(super, i%4*2), scales(super, i%4*2+1)
	dst.Words[0] = uint32(uint8(first[0])) | uint32(uint8(first[1]))<<8 | uint32(uint8(second[0]))<<16 | uint32(uint8(second[1]))<<24
	dst.Super = uint32(binary.LittleEndian.Uint16(super[dAt:]))
}
