package token

import "unicode/utf8"

// GPT-2 writes every byte as a printable rune: the printable bytes of Latin-1 as
// themselves, the others in order from U+0100 on (Radford et al., Language models
// are unsupervised multitask learners, 2019, section 2.2).
var runeToByte = byteRunes()

// lastByteRune is the largest rune that stands for a byte.
const lastByteRune = 0x143

func byteRunes() (from [lastByteRune + 1]int16) {
	for i := range from {
		from[i] = -1
	}
	next := rune(0x100)
	for b := range 256 {
		r := rune(b)
		if !(b >= '!' && b <= '~' || b >= 0xA1 && b <= 0xAC || b >= 0xAE) {
			r = next
			next++
		}
		from[r] = int16(b)
	}
	return from
}

// unwriteBytes returns the bytes that a text in the runes of GPT-2 stands for. It
// is not ok for text that has other runes.
func unwriteBytes(text string) (raw []byte, ok bool) {
	raw = make([]byte, 0, utf8.RuneCountInString(text))
	for _, r := range text {
		if r > lastByteRune || runeToByte[r] < 0 {
			return nil, false
		}
		raw = append(raw, byte(runeToByte[r]))
	}
	return raw, true
}
