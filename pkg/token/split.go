package token

import (
	"maps"
	"slices"
	"unicode"
	"unicode/utf8"
)

// splitter cuts text into words, each of which is encoded alone. It calls yield
// with them in order; together they are the text. Invalid UTF-8 counts as a
// symbol.
type splitter func(text string, yield func(word string))

// preTokenizer is a rule that model files refer to by name.
type preTokenizer struct {
	split      splitter
	wholeWords bool // a word that is a token is not merged from its bytes
	compose    bool // text is put into Unicode's form NFC first
}

// preTokenizers is the list of known rules: a new one is one line.
var preTokenizers = map[string]preTokenizer{
	"":          {split: splitGPT2},
	"default":   {split: splitGPT2},
	"gpt-2":     {split: splitGPT2},
	"smollm":    {split: splitSmolLM},
	"tekken":    {split: splitTekken, wholeWords: true},
	"llama-bpe": {split: splitLlama3, wholeWords: true},
	"qwen2":     {split: splitQwen2, compose: true},
}

// PreTokenizers returns the names of the known rules, sorted.
func PreTokenizers() []string {
	names := slices.Sorted(maps.Keys(preTokenizers))
	return slices.DeleteFunc(names, func(s string) bool { return s == "" })
}

// class of a rune, as far as the rules tell runes apart.
type class uint8

const (
	symbol class = iota
	letter
	number
	space
)

var asciiClass = func() (t [utf8.RuneSelf]class) {
	for r := range rune(utf8.RuneSelf) {
		t[r] = slowClass(r)
	}
	return t
}()

func slowClass(r rune) class {
	switch {
	case unicode.IsLetter(r):
		return letter
	case unicode.IsNumber(r):
		return number
	case unicode.IsSpace(r):
		return space
	}
	return symbol
}

// classAt returns the class and length of the rune at byte i, which is inside
// the text.
func classAt(text string, i int) (class, int) {
	if b := text[i]; b < utf8.RuneSelf {
		return asciiClass[b], 1
	}
	r, n := utf8.DecodeRuneInString(text[i:])
	if r == utf8.RuneError && n == 1 {
		return symbol, 1
	}
	return slowClass(r), n
}

// run returns the end of the run of runes of one class that begins at byte i, at
// most limit runes long.
func run(text string, i int, want class, limit int) int {
	for ; i < len(text) && limit > 0; limit-- {
		c, n := classAt(text, i)
		if c != want {
			break
		}
		i += n
	}
	return i
}

const noLimit = int(^uint(0) >> 1)

// splitGPT2 follows the pattern
//
//	's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
func splitGPT2(text string, yield func(string)) {
	for i := 0; i < len(text); {
		end := contraction(text, i, false)
		if end == i {
			end = wordGPT2(text, i)
		}
		yield(text[i:end])
		i = end
	}
}

// wordGPT2 returns the end of the word at byte i, which is no contraction.
func wordGPT2(text string, i int) int {
	at := i
	if text[i] == ' ' && i+1 < len(text) {
		at = i + 1
	}
	if c, _ := classAt(text, at); c != space {
		return run(text, at, c, noLimit)
	}
	return spaces(text, i)
}

// splitSmolLM makes every number rune a word of its own and splits what lies
// between as GPT-2 does.
func splitSmolLM(text string, yield func(string)) {
	start := 0
	for i := 0; i < len(text); {
		c, n := classAt(text, i)
		if c == number {
			splitGPT2(text[start:i], yield)
			yield(text[i : i+n])
			start = i + n
		}
		i += n
	}
	splitGPT2(text[start:], yield)
}

// splitLlama3 follows the pattern
//
//	(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|
//	 ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
func splitLlama3(text string, yield func(string)) { splitWords(text, 3, yield) }

// splitQwen2 is splitLlama3 with numbers of one digit.
func splitQwen2(text string, yield func(string)) { splitWords(text, 1, yield) }

// splitWords is splitLlama3 with numbers of up to digits digits.
func splitWords(text string, digits int, yield func(string)) {
	for i := 0; i < len(text); {
		end := contraction(text, i, true)
		if end == i {
			end = wordLlama3(text, i, digits)
		}
		yield(text[i:end])
		i = end
	}
}

// splitTekken follows the pattern, in which U is [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]
// and L [\p{Ll}\p{Lm}\p{Lo}\p{M}],
//
//	[^\r\n\p{L}\p{N}]?U*L+|[^\r\n\p{L}\p{N}]?U+L*|\p{N}|
//	 ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+
func splitTekken(text string, yield func(string)) {
	for i := 0; i < len(text); {
		end := casedWord(text, i)
		if end == i {
			end = wordTekken(text, i)
		}
		yield(text[i:end])
		i = end
	}
}

// wordTekken returns the end of the word at byte i, which is not one of letters.
func wordTekken(text string, i int) int {
	if c, n := classAt(text, i); c == number {
		return i + n
	}
	at := i
	if text[i] == ' ' && i+1 < len(text) {
		at = i + 1
	}
	if end := run(text, at, symbol, noLimit); end > at {
		for end < len(text) && (isNewline(text[end]) || text[end] == '/') {
			end++
		}
		return end
	}
	return blank(text, i)
}

// casedWord returns the end of a word of letters at byte i, which another rune may
// lead, or i. The pattern's first alternative goes before the second, and in each
// a rune that leads before none.
func casedWord(text string, i int) int {
	starts := []int{i}
	if c, n := classAt(text, i); c != letter && c != number && !isNewline(text[i]) {
		starts = []int{i + n, i}
	}
	for _, start := range starts {
		if end := lowerEnd(text, start); end > start {
			return end
		}
	}
	for _, start := range starts {
		if end := runOf(text, start, mayBeUpper); end > start {
			return end // nothing may be lower case after it
		}
	}
	return i
}

// lowerEnd returns the end of U*L+ at a byte, or the byte: as many U as leave
// something for L.
func lowerEnd(text string, start int) int {
	upper := runOf(text, start, mayBeUpper)
	if end := runOf(text, upper, mayBeLower); end > upper {
		return end
	}
	for upper > start {
		r, n := utf8.DecodeLastRuneInString(text[start:upper])
		if mayBeLower(r) {
			return upper
		}
		upper -= n
	}
	return start
}

func mayBeUpper(r rune) bool {
	return unicode.In(r, unicode.Lu, unicode.Lt, unicode.Lm, unicode.Lo, unicode.M)
}
func mayBeLower(r rune) bool { return unicode.In(r, unicode.Ll, unicode.Lm, unicode.Lo, unicode.M) }

// runOf returns the end of the run of runes of a kind that begins at byte i.
func runOf(text string, i int, kind func(rune) bool) int {
	for i < len(text) {
		r, n := utf8.DecodeRuneInString(text[i:])
		if r == utf8.RuneError && n == 1 || !kind(r) {
			break
		}
		i += n
	}
	return i
}

// wordLlama3 returns the end of the word at byte i, which is no contraction.
func wordLlama3(text string, i, digits int) int {
	c, n := classAt(text, i)
	switch {
	case c == letter:
		return run(text, i, letter, noLimit)
	case c == number:
		return run(text, i, number, digits)
	case !isNewline(text[i]):
		// One other rune may lead a word of letters.
		if end := run(text, i+n, letter, noLimit); end > i+n {
			return end
		}
	}
	at := i
	if text[i] == ' ' && i+1 < len(text) {
		at = i + 1
	}
	if end := run(text, at, symbol, noLimit); end > at {
		for end < len(text) && isNewline(text[end]) {
			end++
		}
		return end
	}
	return blank(text, i)
}

// blank returns the end of a word of white space at byte i: up to and with its
// last line break, or else as spaces does.
func blank(text string, i int) int {
	end := run(text, i, space, noLimit)
	for j := end; j > i; j-- {
		if isNewline(text[j-1]) {
			return j
		}
	}
	return spaces(text, i)
}

// spaces returns the end of a word of white space at byte i: all of it at the end
// of the text, else without its last rune, which leads the next word, unless it
// is the only one.
func spaces(text string, i int) int {
	end := run(text, i, space, noLimit)
	if end == len(text) {
		return end
	}
	_, n := utf8.DecodeLastRuneInString(text[i:end])
	if end-n > i {
		return end - n
	}
	return end
}

func isNewline(b byte) bool { return b == '\n' || b == '\r' }

// contraction returns the end of one of 's 't 're 've 'm 'll 'd at byte i, or i.
func contraction(text string, i int, foldCase bool) int {
	if text[i] != '\'' || i+1 >= len(text) {
		return i
	}
	fold := func(b byte) byte {
		if foldCase && b >= 'A' && b <= 'Z' {
			return b + 'a' - 'A'
		}
		return b
	}
	a := fold(text[i+1])
	switch a {
	case 's', 't', 'm', 'd':
		return i + 2
	}
	if i+2 >= len(text) {
		return i
	}
	b := fold(text[i+2])
	if a == 'r' && b == 'e' || a == 'v' && b == 'e' || a == 'l' && b == 'l' {
		return i + 3
	}
	return i
}
