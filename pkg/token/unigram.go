package token

import (
	"fmt"
	"math"
	"slices"
	"sort"
	"strings"
	"unicode/utf8"
)

// Vocabularies of SentencePiece's unigram kind (Kudo, "Subword regularization:
// improving neural network translation models with multiple subword candidates",
// arXiv:1804.10959) give every token the logarithm of a probability. A text becomes
// the tokens whose sum is the largest, which Viterbi's algorithm finds; of equal ones
// it keeps the one whose last token is longer. A rune that no token begins with alone
// may be unknown, at a score below all others; it becomes tokens of its bytes, or the
// unknown token, once for neighbours.

// unknownPenalty is how much less than the least likely token an unknown rune has.
const unknownPenalty = 10

// unigram is a vocabulary of that kind.
type unigram struct {
	texts   []string // of Normal tokens, ascending
	ids     []int32  // of texts
	longest int      // bytes
	unknown float64  // score of an unknown rune
	rules   *charsmap
}

// indexUnigrams prepares a vocabulary of that kind.
func (v *Vocab) indexUnigrams() error {
	ids, err := v.pieceIDs()
	if err != nil {
		return err
	}
	u := &unigram{unknown: math.Inf(1)}
	for text, id := range ids {
		score := float64(v.cfg.Scores[id])
		if math.IsNaN(score) || math.IsInf(score, 0) {
			return fmt.Errorf("%w: the score of token %d is %v", ErrTokenizer, id, score)
		}
		if len(text) > longestPiece {
			return fmt.Errorf("%w: token %d has %d bytes, want at most %d", ErrTokenizer, id, len(text), longestPiece)
		}
		u.texts = append(u.texts, text)
		u.longest, u.unknown = max(u.longest, len(text)), min(u.unknown, score)
	}
	if len(u.texts) == 0 {
		return fmt.Errorf("%w: no token has a text", ErrTokenizer)
	}
	slices.Sort(u.texts)
	for _, text := range u.texts {
		u.ids = append(u.ids, ids[text])
	}
	u.unknown -= unknownPenalty
	if len(v.cfg.Charsmap) > 0 {
		if u.rules, err = newCharsmap(v.cfg.Charsmap); err != nil {
			return err
		}
	}
	v.unigram = u
	return nil
}

// unigrams appends the ids of a text.
func (e *encoder) unigrams(text string) {
	text = e.v.normalised(text)
	for text != "" {
		word := text
		if e.v.cfg.Words {
			if at := strings.Index(text[1:], meta); at >= 0 {
				word = text[:at+1]
			}
		}
		e.viterbi(word)
		text = text[len(word):]
	}
}

// normalised rewrites a text by the vocabulary's rules and writes its spaces as ▁.
func (v *Vocab) normalised(text string) string {
	if v.unigram.rules != nil {
		text = v.unigram.rules.rewrite(text)
	}
	c := &v.cfg
	if c.Spaces || c.Join {
		text = joinedSpaces(text)
	}
	if c.Spaces {
		text = strings.Trim(text, " ")
	}
	if c.SpacePrefix && text != "" && !(c.PrefixOnce && (text[0] == ' ' || strings.HasPrefix(text, meta))) {
		text = " " + text
	}
	return strings.ReplaceAll(text, " ", meta)
}

// joinedSpaces makes runs of spaces one.
func joinedSpaces(text string) string {
	var out strings.Builder
	for i := range len(text) {
		if text[i] != ' ' || i == 0 || text[i-1] != ' ' {
			out.WriteByte(text[i])
		}
	}
	return out.String()
}

// lattice is the best way to one place of a text.
type lattice struct {
	score float64
	from  int32
	id    int32 // None: an unknown rune
	known bool
}

// viterbi appends the ids of the likeliest tokens of a text.
func (e *encoder) viterbi(text string) {
	u := e.v.unigram
	best := make([]lattice, len(text)+1)
	best[0].known = true
	step := func(from, to int, id int32, score float64) {
		if score += best[from].score; !best[to].known || score > best[to].score {
			best[to] = lattice{score, int32(from), id, true}
		}
	}
	for at := 0; at < len(text); {
		_, size := utf8.DecodeRuneInString(text[at:])
		alone := false
		u.each(text[at:], func(n int, id int32) {
			alone = alone || n == size
			step(at, at+n, id, float64(e.v.cfg.Scores[id]))
		})
		if !alone {
			step(at, at+size, None, u.unknown)
		}
		at += size
	}
	var path []int
	for at := len(text); at > 0; at = int(best[at].from) {
		path = append(path, at)
	}
	slices.Reverse(path)
	unknown, from := false, 0
	for _, to := range path {
		id := best[to].id
		if id != None {
			e.out = append(e.out, id)
		} else {
			e.unknownText(text[from:to], unknown)
		}
		unknown, from = id == None, to
	}
}

// each calls f for every token that the text begins with, the shortest first, by
// halving the sorted tokens that begin with ever more of it.
func (u *unigram) each(text string, f func(n int, id int32)) {
	lo, hi := 0, len(u.texts)
	for n := 1; n <= min(u.longest, len(text)) && lo < hi; n++ {
		c := text[n-1]
		within := u.texts[lo:hi]
		first := sort.Search(len(within), func(i int) bool { return len(within[i]) >= n && within[i][n-1] >= c })
		end := sort.Search(len(within), func(i int) bool { return len(within[i]) >= n && within[i][n-1] > c })
		lo, hi = lo+first, lo+end
		if lo < hi && len(u.texts[lo]) == n {
			f(n, u.ids[lo])
		}
	}
}

// unknownText appends the tokens of the bytes of an unknown rune, if there are such
// tokens, or else the unknown token, unless the rune before was unknown too.
func (e *encoder) unknownText(text string, again bool) {
	for i := range len(text) {
		if e.v.byByte[text[i]] == None {
			if e.v.cfg.UNK != None && !again {
				e.out = append(e.out, e.v.cfg.UNK)
			}
			return
		}
	}
	for i := range len(text) {
		e.out = append(e.out, e.v.byByte[text[i]])
	}
}
