package p16gen

import (
	"encoding/hex"
	"testing"

	"github.com/mmcloughlin/avo/reg"
)

// The encodings are those of the GNU assembler, 2.40.
func TestTileInstructions(t *testing.T) {
	move := func(last byte, r rows, t tmm) []byte { return encode(last, opMove, r.operands(t), r.base, r.step) }
	for text, c := range map[string]struct {
		got  []byte
		want string
	}{
		"tileloadd 0x240(%r9,%r11,2),%tmm5":    {move(vexF2, rows{reg.R9, reg.R11, 2, 0x240}, 5), "c4827b4bac5940020000"},
		"tileloadd 0x12345(%rax,%rcx,1),%tmm7": {move(vexF2, rows{reg.RAX, reg.RCX, 1, 0x12345}, 7), "c4e27b4bbc0845230100"},
		"tilestored %tmm1,-0x400(%r10,%r11,1)": {move(vexF3, rows{reg.R10, reg.R11, 1, -0x400}, 1), "c4827a4b8c1a00fcffff"},
		"tdpbssd %tmm5,%tmm3,%tmm1":            {encodeDot(1, 3, 5), "c4e2535ecb"},
		"tdpbssd %tmm7,%tmm2,%tmm6":            {encodeDot(6, 2, 7), "c4e2435ef2"},
		"ldtilecfg (%r10)":                     {encode(vexNone, opConfigure, []byte{low3(reg.R10)}, reg.R10), "c4c2784902"},
	} {
		if got := hex.EncodeToString(c.got); got != c.want {
			t.Errorf("%s: %s, want %s", text, got, c.want)
		}
	}
}
