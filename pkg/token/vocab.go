// Package token turns text into token ids and back, by the vocabulary of a model
// file: byte-level BPE as GPT-2 has it, or byte pairs or unigrams of SentencePiece.
//
// Text of users and text of templates are kept apart: only text that is marked
// as special can become control tokens, whatever a user types.
package token

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

var (
	// ErrTokenizer says that the vocabulary contradicts itself.
	ErrTokenizer = errors.New("invalid tokenizer")
	// ErrModel says that the kind of the tokenizer is not supported.
	ErrModel = errors.New("unsupported tokenizer model")
	// ErrPreTokenizer says that the rule that splits text into words is not
	// supported. Such a model can run on token ids alone.
	ErrPreTokenizer = errors.New("unsupported pre-tokenizer")
)

// Type says what a token is for. The numbers are those of GGUF.
type Type int32

// Types of tokens.
const (
	Normal      Type = 1
	Unknown     Type = 2
	Control     Type = 3 // never text
	UserDefined Type = 4 // text that is one token when a template writes it
	Unused      Type = 5
	Byte        Type = 6
)

// None is the id of a token that a vocabulary does not have.
const None int32 = -1

// Config is a vocabulary as a model file describes it. Ids that are missing are
// None.
type Config struct {
	Model  string    // kind of tokenizer: "gpt2", or of SentencePiece "llama" (pairs) and "t5" (unigrams)
	Pre    string    // name of the rule that splits text; "" is that of GPT-2
	Tokens []string  // text by id: bytes written as the runes of GPT-2, or spaces as ▁
	Types  []Type    // by id; empty if all are Normal
	Merges []string  // of gpt2: pairs "left right", the first to merge first
	Scores []float32 // of llama: by id, the largest to merge first; of t5: logarithms of probabilities

	BOS, EOS, EOT, EOM, PAD, UNK int32

	AddBOS      bool   // raw prompts begin with BOS
	SpacePrefix bool   // of llama and t5: text begins with a space that it does not have
	Spaces      bool   // of t5: spaces around text go, and runs of them become one
	Join        bool   // of t5: runs of spaces become one
	PrefixOnce  bool   // of t5: a text that begins with a space gets no other
	Words       bool   // of t5: no token reaches over a space, but for the one that it begins with
	Charsmap    []byte // of t5: rules that rewrite text, as SentencePiece compiles them; empty is none
}

// Vocab encodes and decodes. It is not changed after it was made, so any number
// of goroutines may use it.
type Vocab struct {
	cfg     Config
	bytes   [][]byte // raw text by id
	types   []Type
	byByte  [256]int32 // id of every single byte, or None
	merges  map[pair]merge
	whole   map[string]int32 // ids of whole words by raw text; nil if words are always merged
	split   splitter
	compose bool           // text is put into Unicode's form NFC before it is split
	runes   map[rune]int32 // of llama: ids of single runes
	unigram *unigram       // of t5; else nil
	special specials
	always  specials // found in any text
	end     []int32
}

// pair is two neighbouring ids.
type pair struct{ left, right int32 }

// merge is what a pair becomes, and how early.
type merge struct{ rank, id int32 }

// New checks a vocabulary and prepares it. Errors wrap ErrTokenizer, ErrModel or
// ErrPreTokenizer. The slices of the config are kept and must not be changed.
func New(cfg Config) (*Vocab, error) {
	index, ok := map[string]func(*Vocab) error{"gpt2": (*Vocab).indexBytePairs, "llama": (*Vocab).indexPieces, "t5": (*Vocab).indexUnigrams}[cfg.Model]
	if !ok {
		return nil, fmt.Errorf("%w %q; known: gpt2, llama, t5", ErrModel, cfg.Model)
	}
	if err := cfg.check(); err != nil {
		return nil, err
	}
	v := &Vocab{cfg: cfg, types: cfg.Types}
	if len(v.types) == 0 {
		v.types = slices.Repeat([]Type{Normal}, len(cfg.Tokens))
	}
	if err := index(v); err != nil {
		return nil, err
	}
	v.special = newSpecials(v, func(id int) bool { return v.types[id] == Control || v.types[id] == UserDefined })
	v.always = newSpecials(v, v.isPlain)
	v.end = v.findEnd()
	return v, nil
}

// isPlain reports whether a token stands for its text wherever that comes from:
// runs of spaces of SentencePiece's vocabularies, for example, but nothing that
// looks like a marker, which a user must not be able to write.
func (v *Vocab) isPlain(id int) bool {
	text := v.bytes[id]
	return v.runes != nil && v.types[id] == UserDefined && !(text[0] == '<' && text[len(text)-1] == '>')
}

// indexBytePairs prepares a vocabulary of GPT-2's kind.
func (v *Vocab) indexBytePairs() error {
	rule, ok := preTokenizers[v.cfg.Pre]
	if !ok {
		return fmt.Errorf("%w %q; known: %s", ErrPreTokenizer, v.cfg.Pre, strings.Join(PreTokenizers(), ", "))
	}
	v.split, v.compose = rule.split, rule.compose
	ids := v.indexTokens()
	if err := v.indexMerges(ids); err != nil {
		return err
	}
	if rule.wholeWords {
		v.whole = make(map[string]int32, len(ids))
		for id, b := range v.bytes {
			if v.types[id] == Normal {
				v.whole[string(b)] = int32(id)
			}
		}
	}
	return nil
}

// check refuses lengths and ids that do not fit together.
func (c Config) check() error {
	n := len(c.Tokens)
	if n == 0 {
		return fmt.Errorf("%w: no tokens", ErrTokenizer)
	}
	if len(c.Types) != 0 && len(c.Types) != n {
		return fmt.Errorf("%w: %d tokens but %d types", ErrTokenizer, n, len(c.Types))
	}
	for id, t := range c.Types {
		if t < Normal || t > Byte {
			return fmt.Errorf("%w: token %d has type %d", ErrTokenizer, id, t)
		}
	}
	for _, s := range []struct {
		name string
		id   int32
	}{{"bos", c.BOS}, {"eos", c.EOS}, {"eot", c.EOT}, {"eom", c.EOM}, {"pad", c.PAD}, {"unk", c.UNK}} {
		if s.id < None || int(s.id) >= n {
			return fmt.Errorf("%w: %s id %d in a vocabulary of %d", ErrTokenizer, s.name, s.id, n)
		}
	}
	return nil
}

// indexTokens decodes the texts and returns the ids of Normal tokens by the text
// of the file.
func (v *Vocab) indexTokens() map[string]int32 {
	for i := range v.byByte {
		v.byByte[i] = None
	}
	ids := make(map[string]int32, len(v.cfg.Tokens))
	v.bytes = make([][]byte, len(v.cfg.Tokens))
	for id, text := range v.cfg.Tokens {
		if v.types[id] == Control || v.types[id] == UserDefined || v.types[id] == Unknown {
			v.bytes[id] = []byte(text)
			continue
		}
		raw, ok := unwriteBytes(text)
		if !ok {
			raw = []byte(text)
		}
		v.bytes[id] = raw
		if _, twice := ids[text]; twice || !ok {
			continue
		}
		ids[text] = int32(id)
		if len(raw) == 1 {
			v.byByte[raw[0]] = int32(id)
		}
	}
	return ids
}

// indexMerges resolves the pairs to ids.
func (v *Vocab) indexMerges(ids map[string]int32) error {
	v.merges = make(map[pair]merge, len(v.cfg.Merges))
	for rank, line := range v.cfg.Merges {
		left, right, ok := strings.Cut(line, " ")
		if !ok || left == "" || right == "" || strings.Contains(right, " ") {
			return fmt.Errorf("%w: merge %d is %.64q, not a pair", ErrTokenizer, rank, line)
		}
		a, okA := ids[left]
		b, okB := ids[right]
		c, okC := ids[left+right]
		if !okA || !okB || !okC {
			return fmt.Errorf("%w: merge %d %.64q names a missing token", ErrTokenizer, rank, line)
		}
		if _, twice := v.merges[pair{a, b}]; !twice {
			v.merges[pair{a, b}] = merge{int32(rank), c}
		}
	}
	return nil
}

// endTexts are control tokens that end an answer in every model that has them.
var endTexts = []string{
	"<|endoftext|>", "<|im_end|>", "<|end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<end_of_turn>",
}

func (v *Vocab) findEnd() []int32 {
	var end []int32
	for _, id := range []int32{v.cfg.EOS, v.cfg.EOT, v.cfg.EOM} {
		if id != None && !slices.Contains(end, id) {
			end = append(end, id)
		}
	}
	for id, text := range v.cfg.Tokens {
		if v.types[id] == Control && slices.Contains(endTexts, text) && !slices.Contains(end, int32(id)) {
			end = append(end, int32(id))
		}
	}
	return end
}

// Len returns the number of tokens.
func (v *Vocab) Len() int { return len(v.bytes) }

// BOS returns the id that begins a text, or None.
func (v *Vocab) BOS() int32 { return v.cfg.BOS }

// EOS returns the id that ends a text, or None.
func (v *Vocab) EOS() int32 { return v.cfg.EOS }

// AddBOS reports whether raw prompts (not those of a chat template, which writes
// its own) begin with BOS.
func (v *Vocab) AddBOS() bool { return v.cfg.AddBOS && v.cfg.BOS != None }

// End returns the ids that end an answer: those that the file names and the
// control tokens known to. The caller must not change them.
func (v *Vocab) End() []int32 { return v.end }

// Type returns the type of an id; ids outside the vocabulary are Unused.
func (v *Vocab) Type(id int32) Type {
	if id < 0 || int(id) >= len(v.types) {
		return Unused
	}
	return v.types[id]
}

// Text returns the text of an id as it stands in the vocabulary, also of control
// tokens. Ids outside the vocabulary have none.
func (v *Vocab) Text(id int32) string {
	if id < 0 || int(id) >= len(v.bytes) {
		return ""
	}
	return string(v.bytes[id])
}
