package q5k

import (
	_ "embed"
	"encoding/binary"

	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/quant/kquant"
)

//go:embed unpack.wgsl
var unpackWGSL string

var gpu = quant.GPU{Vectors: 2, Words: 3, Super: true, Pack: packSegment, WGSL: unpackWGSL}

// packSegment packs a segment for a GPU.
func packSegment(dst *quant.Segment, row []byte, i int) {
	super := row[i/4*blockBytes:][:blockBytes]
	head := kquant.ReadHead(super)
	b := i % 4 * 2
	dst.Words[0] = uint32(head.Scale[b]) | uint32(head.Scale[b+1])<<8 | uint32(head.Minima[b])<<16 | uint32(head.Minima[b+1])<<24
	dst.Super = binary.LittleEndian.Uint32(super)
	for v := range 2 {
		block := kquant.Nibbles(super[nibblesAt:], b+v)
		dst.PackHalves(v, binary.LittleEndian.Uint64(block[:]), binary.LittleEndian.Uint64(block[8:]))
		dst.Words[1+v] = fifths(super, b+v)
	}
}
