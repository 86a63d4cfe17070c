package token

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Vocabularies of SentencePiece's byte-pair kind (Kudo and Richardson,
// "SentencePiece: a simple and language independent subword tokenizer",
// arXiv:1808.06226) have scores instead of merges: of the neighbours whose joined
// text is a token, those with the best score are joined first. A text is one word,
// in which spaces are written ▁; runes without a token become tokens of their
// bytes.

// meta is how such vocabularies write a space.
const meta = "▁"

// longestPiece bounds the bytes of a token of which pairs are made.
const longestPiece = 512

// unknownRune is the symbol of a rune without a token, and of a byte that is no
// part of a rune: negative, and no id that a pair has.
func unknownRune(r rune) int32 { return -3 - r }

func unknownByte(b byte) int32 { return unknownRune(utf8.MaxRune + 1 + rune(b)) }

// indexPieces decodes the texts, and makes the pairs that merge.
func (v *Vocab) indexPieces() error {
	ids, err := v.pieceIDs()
	if err != nil {
		return err
	}
	return v.indexPairs(ids)
}

// pieceIDs decodes the texts and returns the ids of Normal tokens by the text of the
// file.
func (v *Vocab) pieceIDs() (map[string]int32, error) {
	if len(v.cfg.Scores) != len(v.cfg.Tokens) {
		return nil, fmt.Errorf("%w: %d tokens but %d scores", ErrTokenizer, len(v.cfg.Tokens), len(v.cfg.Scores))
	}
	for i := range v.byByte {
		v.byByte[i] = None
	}
	v.bytes = make([][]byte, len(v.cfg.Tokens))
	v.runes = map[rune]int32{}
	ids := make(map[string]int32, len(v.cfg.Tokens))
	for id, text := range v.cfg.Tokens {
		switch v.types[id] {
		case Control, Unknown:
			v.bytes[id] = []byte(text)
		case Byte:
			b, err := byteOf(text)
			if err != nil {
				return nil, fmt.Errorf("%w: token %d: %w", ErrTokenizer, id, err)
			}
			v.bytes[id], v.byByte[b] = []byte{b}, int32(id)
		default:
			v.bytes[id] = []byte(strings.ReplaceAll(text, meta, " "))
		}
		if _, twice := ids[text]; v.types[id] != Normal || twice || text == "" {
			continue
		}
		ids[text] = int32(id)
		if r, n := utf8.DecodeRuneInString(text); n == len(text) {
			v.runes[r] = int32(id)
		}
	}
	return ids, nil
}

// byteOf reads the text of a byte's token, <0x0A> for example.
func byteOf(text string) (byte, error) {
	digits, ok := strings.CutPrefix(text, "<0x")
	digits, closed := strings.CutSuffix(digits, ">")
	b, err := strconv.ParseUint(digits, 16, 8)
	if !ok || !closed || err != nil {
		return 0, fmt.Errorf("%.16q names no byte", text)
	}
	return byte(b), nil
}

// indexPairs finds the pairs of tokens that make another one. Their ranks are in
// order of its score; equal scores have one rank.
func (v *Vocab) indexPairs(ids map[string]int32) error {
	scores := slices.Clone(v.cfg.Scores)
	slices.SortFunc(scores, func(a, b float32) int { return cmp.Compare(b, a) })
	ranks := make(map[float32]int32, len(scores))
	for _, s := range scores {
		if s != s {
			return fmt.Errorf("%w: a score is not a number", ErrTokenizer)
		}
		if _, ok := ranks[s]; !ok {
			ranks[s] = int32(len(ranks))
		}
	}
	v.merges = map[pair]merge{}
	for text, id := range ids {
		if len(text) > longestPiece {
			return fmt.Errorf("%w: token %d has %d bytes, want at most %d", ErrTokenizer, id, len(text), longestPiece)
		}
		for at := range text {
			left, okLeft := ids[text[:at]]
			right, okRight := ids[text[at:]]
			if okLeft && okRight {
				v.merges[pair{left, right}] = merge{ranks[v.cfg.Scores[id]], id}
			}
		}
	}
	return nil
}

// pieces appends the ids of a text, with a space before it where the vocabulary
// wants one.
func (e *encoder) pieces(text string) {
	if e.v.cfg.SpacePrefix {
		text = " " + text
	}
	e.ids = e.ids[:0]
	for i := 0; i < len(text); {
		r, n := utf8.DecodeRuneInString(text[i:])
		switch id, ok := e.v.runes[spaced(r)]; {
		case r == utf8.RuneError && n == 1:
			e.ids = append(e.ids, unknownByte(text[i]))
		case ok:
			e.ids = append(e.ids, id)
		default:
			e.ids = append(e.ids, unknownRune(r))
		}
		i += n
	}
	if len(e.ids) <= shortWord {
		e.mergeShort()
	} else {
		e.mergeLong()
	}
	for _, id := range e.ids {
		if id >= 0 {
			e.out = append(e.out, id)
		} else {
			e.fallBack(-3 - id)
		}
	}
}

// spaced returns the rune that the vocabulary has for r.
func spaced(r rune) rune {
	if r == ' ' {
		return '▁'
	}
	return r
}

// fallBack appends the tokens of the bytes of a rune without one, or else the
// unknown token, if there is one.
func (e *encoder) fallBack(r rune) {
	raw := utf8.AppendRune(nil, spaced(r))
	if r > utf8.MaxRune {
		raw = []byte{byte(r - utf8.MaxRune - 1)}
	}
	for _, b := range raw {
		if e.v.byByte[b] == None {
			if e.v.cfg.UNK != None {
				e.out = append(e.out, e.v.cfg.UNK)
			}
			return
		}
	}
	for _, b := range raw {
		e.out = append(e.out, e.v.byByte[b])
	}
}
