package q51

import (
	_ "embed"
	"encoding/binary"

	"github.com/shoal-llm/shoal/pkg/quant"
)

//go:embed unpack.wgsl
var unpackWGSL string

var gpu = quant.GPU{Vectors: 2, Words: 4, Super: false, Pack: packSegment, WGSL: unpackWGSL}

// packSegment packs a segment for a GPU.
func packSegment(dst *quant.Segment, row []byte, i int) {
	for b := range 2 {
		block := row[(2*i+b)*blockBytes:][:blockBytes]
		dst.PackHalves(b, binary.LittleEndian.Uint64(block[nibblesAt:]), binary.LittleEndian.Uint64(block[nibblesAt+8:]))
		dst.Words[b] = binary.LittleEndian.Uint32(block)
		dst.Words[2+b] = binary.LittleEndian.Uint32(block[fifthsAt:])
	}
}
