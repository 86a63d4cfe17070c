package q41

import (
	_ "embed"
	"encoding/binary"

	"github.com/shoal-llm/shoal/pkg/quant"
)

//go:embed unpack.wgsl
var unpackWGSL string

var gpu = quant.GPU{Vectors: 2, Words: 2, Super: false, Pack: packSegment, WGSL: unpackWGSL}

// packSegment packs a segment for a GPU.
func packSegment(dst *quant.Segment, row []byte, i int) {
	for b := range 2 {
		block := row[(2*i+b)*blockBytes:][:blockBytes]
		dst.PackHalves(b, binary.LittleEndian.Uint64(block[4:]), binary.LittleEndian.Uint64(block[12:]))
		dst.Words[b] = binary.LittleEndian.Uint32(block)
	}
}
