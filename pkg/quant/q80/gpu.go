package q80

import (
	_ "embed"
	"encoding/binary"

	"github.com/shoal-llm/shoal/pkg/quant"
)

//go:embed unpack.wgsl
var unpackWGSL string

var gpu = quant.GPU{Vectors: 4, Words: 1, Super: false, Pack: packSegment, WGSL: unpackWGSL}

// packSegment packs a segment for a GPU.
func packSegment(dst *quant.Segment, row []byte, i int) {
	for b := range 2 {
		block := row[(2*i+b)*blockBytes:][:blockBytes]
		for w := range 8 {
			dst.Vectors[2*b+w/4][w%4] = binary.LittleEndian.Uint32(block[2+4*w:])
		}
	}
	first, second := row[2*i*blockBytes:], row[(2*i+1)*blockBytes:]
	dst.Words[0] = uint32(binary.LittleEndian.Uint16(first)) | uint32(binary.LittleEndian.Uint16(second))<<16
}
