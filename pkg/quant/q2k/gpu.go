package q2k

import (
	_ "embed"
	"encoding/binary"

	"github.com/shoal-llm/shoal/pkg/quant"
)

//go:embed unpack.wgsl
var unpackWGSL string

var gpu = quant.GPU{Vectors: 1, Words: 1, Super: true, Pack: packSegment, WGSL: unpackWGSL}

// packSegment packs a segment for a GPU.
func packSegment(dst *quant.Segment, row []byte, i int) {
	super := row[i/4*blockBytes:][:blockBytes]
	var q [quant.SegmentCols]byte
	for b := range 2 {
		block := values(super, i%4*2+b)
		copy(q[b*quant.Block:], block[:])
	}
	dst.PackPairs(0, &q, 0)
	dst.Words[0] = binary.LittleEndian.Uint32(super[i%4*4:])
	dst.Super = binary.LittleEndian.Uint32(super[dAt:])
}
