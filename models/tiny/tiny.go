// Package tiny holds the small chat model that the program brings along, so
// that the first command answers with no download. CARD.md says what it is.
package tiny

import _ "embed"

// Q80 and Q40 are the model's GGUF files at 8 and at 4 bits.
//
//go:embed tiny-q8_0.gguf
var q80 []byte

//go:embed tiny-q4_0.gguf
var q40 []byte

// Files returns the embedded files by the names a user gives them; the first is
// the default. The bytes must not be changed.
func Files() []File {
	return []File{{"tiny", q80}, {"tiny-int4", q40}}
}

// File is an embedded model file.
type File struct {
	Name string
	Data []byte
}
