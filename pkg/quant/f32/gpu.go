package f32

import (
	_ "embed"
	"encoding/binary"

	"github.com/shoal-llm/shoal/pkg/quant"
)

//go:embed unpack.wgsl
var unpackWGSL string

var gpu = quant.GPU{Vectors: 16, Words: 0, Super: false, Pack: packSegment, WGSL: unpackWGSL}

// packSegment packs a segment for a GPU.
func packSegment(dst *quant.Segment, row []byte, i int) {
	for v := range 16 {
		for w := range 4 {
			dst.Vectors[v][w] = binary.LittleEndian.Uint32(row[256*i+16*v+4*w:])
		}
	}
}
