package q6k

import (
	_ "embed"
	"encoding/binary"

	"github.com/shoal-llm/shoal/pkg/quant"
)

//go:embed unpack.wgsl
var unpackWGSL string

var gpu = quant.GPU{Vectors: 3, Words: 1, Super: true, Pack: packSegment, WGSL: unpackWGSL}

// packSegment packs a segment for a GPU.
func packSegment(dst *quant.Segment, row []byte, i int) {
	super := row[i/4*blockBytes:][:blockBytes]
	half, low, high := i/2%2, super[i/2%2*64:], super[highAt+i/2%2*32:]
	var q [quant.SegmentCols]byte
	for j := range q {
		at := i%2*64 + j // in the half of 128 values
		q[j] = low[at%64]>>(at/64*4)&15 | high[at%32]>>(at/32*2)&3<<4
	}
	dst.PackNibbles(0, &q)
	dst.PackPairs(2, &q, 4)
	dst.Words[0] = binary.LittleEndian.Uint32(super[scalesAt+half*8+i%2*4:])
	dst.Super = uint32(binary.LittleEndian.Uint16(super[dAt:]))
}
