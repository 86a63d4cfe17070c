package q40

import (
	_ "embed"
	"encoding/binary"

	"github.com/shoal-llm/shoal/pkg/quant"
)

//go:embed unpack.wgsl
var unpackWGSL string

var gpu = quant.GPU{Vectors: 2, Words: 1, Super: false, Pack: packSegment, WGSL: unpackWGSL}

// packSegment packs a segment for a GPU.
func packSegment(dst *quant.Segment, row []byte, i int) {
	for b := range 2 {
		block := row[(2*i+b)*blockBytes:][:blockBytes]
		dst.PackHalves(b, binary.LittleEndian.Uint64(block[2:]), binary.LittleEndian.Uint64(block[10:]))
	}
	first, second := row[2*i*blockBytes:], row[(2*i+1)*blockBytes:]
	dst.Words[0] = uint32(binary.LittleEndian.Uint16(first)) | uint32(binary.LittleEndian.Uint16(second))<<16
}
