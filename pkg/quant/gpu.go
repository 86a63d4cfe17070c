package quant

// SegmentCols is the number of columns of a GPU segment: what one lane of a
// workgroup holds of a row.
const SegmentCols = 64

// GPU is how a shader reads a format. Rows are cut into segments of SegmentCols
// columns; a segment is some 16-byte vectors and some 4-byte words, and a format
// with super-blocks of 256 columns has one word more for each of those. The values
// that a shader unpacks are exactly Decode's.
type GPU struct {
	Vectors int  // 16-byte vectors of a segment, 1 to 16
	Words   int  // words of a segment, 0 to 4
	Super   bool // there is a word for each 256 columns
	// Pack writes segment i of a row that lies as in the file, padded with zero
	// bytes to whole segments. Super is set by the first segment of a super-block.
	Pack func(dst *Segment, row []byte, i int)
	// WGSL defines struct Packed, fetch(row, segment) -> Packed, which reads a
	// segment, and unpack(q: Packed, h, w) -> Eight, the columns from 32h + 8w on,
	// h 0 or 1 and w 0 to 3. It may use what pkg/compute/webgpu's weights.wgsl
	// offers.
	WGSL string
}

// Segment is a packed segment. What a format does not use stays as it is.
type Segment struct {
	Vectors [16][4]uint32
	Words   [4]uint32
	Super   uint32
}

// PackNibbles sets vectors v and v+1 to the low 4 bits of values, 8 in a word,
// ascending from the lowest bits.
func (s *Segment) PackNibbles(v int, values *[SegmentCols]byte) {
	for i := range 8 {
		var w uint32
		for j, q := range values[8*i : 8*i+8] {
			w |= uint32(q&15) << (4 * j)
		}
		s.Vectors[v+i/4][i%4] = w
	}
}

// PackPairs sets vector v to bits shift and shift+1 of values, 16 in a word.
func (s *Segment) PackPairs(v int, values *[SegmentCols]byte, shift int) {
	for i := range 4 {
		var w uint32
		for j, q := range values[16*i : 16*i+16] {
			w |= uint32(q>>shift&3) << (2 * j)
		}
		s.Vectors[v][i] = w
	}
}

// PackBits sets words w and w+1 to bit shift of values, 32 in a word.
func (s *Segment) PackBits(w int, values *[SegmentCols]byte, shift int) {
	for i := range 2 {
		var bits uint32
		for j, q := range values[32*i : 32*i+32] {
			bits |= uint32(q>>shift&1) << j
		}
		s.Words[w+i] = bits
	}
}

// Gather8 returns the low nibbles of 8 bytes as one word.
func Gather8(x uint64) uint32 {
	x &= 0x0f0f0f0f0f0f0f0f
	x = (x | x>>4) & 0x00ff00ff00ff00ff
	x = (x | x>>8) & 0x0000ffff0000ffff
	return uint32(x | x>>16)
}

// PackHalves sets vector v to the 32 nibbles of a block of 16 bytes whose low
// nibbles are values 0 to 15 and whose high ones values 16 to 31.
func (s *Segment) PackHalves(v int, low, high uint64) {
	s.Vectors[v] = [4]uint32{Gather8(low), Gather8(high), Gather8(low >> 4), Gather8(high >> 4)}
}
