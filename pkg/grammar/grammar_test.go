package grammar_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/pkg/grammar"
	"github.com/shoal-llm/shoal/pkg/grammar/grammartest"
	"github.com/shoal-llm/shoal/pkg/sample"
)

// byteVocab has a token for every byte, some longer ones, and 0 as its end.
func byteVocab(t testing.TB) *grammar.Vocabulary {
	t.Helper()
	texts := [][]byte{nil}
	for c := range 256 {
		texts = append(texts, []byte{byte(c)})
	}
	for _, s := range []string{`{"`, `":`, `": `, `, "`, `"}`, `}}`, "true", "null", " a", "\n  "} {
		texts = append(texts, []byte(s))
	}
	v, err := grammar.NewVocabulary(len(texts), func(id int32) []byte { return texts[id] })
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// accepts reports whether a text is complete by a grammar that has been through
// its bytes.
func accepts(t *testing.T, g *grammar.Grammar, v *grammar.Vocabulary, text string) bool {
	t.Helper()
	g, err := grammar.Parse(g.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	m := grammar.NewAutomaton(g, v).NewMatcher([]int32{0})
	for _, c := range []byte(text) {
		if m.Accept(int32(c)+1) != nil {
			return false
		}
	}
	return m.Accept(0) == nil
}

func TestSchemasAllowAndForbid(t *testing.T) {
	v := byteVocab(t)
	for _, c := range []struct{ schema, good, bad string }{
		{`{}`, `1|"x"|[]|{"a": [1, {}]}|-0.5e+10|null|"\u00e9\n"|"é😀"`, `|01|+1|nul|[1,]|{"a"}|"\ud800"|"` + "\xff" + `"|1 `},
		{`true`, `1`, `x`},
		{`{"type":"object"}`, `{}|{"a": 1, "a": 2}`, `[]|{a: 1}`},
		{`{"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"string"}},"required":["a"]}`,
			`{"a":1}|{"a": 1, "b": "x"}|{` + "\n  " + `"a": 1,` + "\n  " + `"b": ""` + "\n" + `}`, `{}|{"b":"x"}|{"a":1,}|{"b":"x","a":1}|{"a":1,"c":2}`},
		{`{"properties":{"a":true,"ab":true},"additionalProperties":{"type":"null"}}`, `{}|{"abc":null}|{"a":1,"b":null,"c":null}`, `{"abc":1}|{"b":null,"a":1}|{"a":1,"a":null}`},
		{`{"type":"object","additionalProperties":false}`, `{}`, `{"a":1}`},
		{`{"type":"object","maxProperties":1}`, `{}|{"a":1}`, `{"a":1,"b":1}`},
		{`{"required":["x"]}`, `{"x":1}|{"x":1,"y":2}`, `{}|{"y":1}`},
		{`{"type":"array","items":{"type":"boolean"},"minItems":1,"maxItems":2}`, `[true]|[true,false]|[true, false]`, `[]|[1]|[true,true,true]`},
		{`{"type":"array","items":false}`, `[]`, `[1]`},
		{`{"type":"array","maxItems":0}`, `[]`, `[1]`},
		{`{"enum":["a","ab",1,{"x":[1]},null]}`, `"a"|"ab"|1|{"x": [1]}|null`, `"abc"|2|"b"`},
		{`{"type":"string","enum":["a",1]}`, `"a"`, `1`},
		{`{"const":"q\"\\é"}`, `"q\"\\é"`, `"q"`},
		{`{"type":["string","null"],"maxLength":2}`, `"é😀"|null|"\n\u00e9"`, `"abc"|1`},
		{`{"minLength":2}`, `"ab"|"abcdefgh"`, `"a"|1`},
		{`{"type":"integer"}`, `0|-12|999999999999999`, `1.5|-|1e3|1234567890123456`},
		{`{"type":"integer","minimum":-3,"maximum":12}`, `-3|-1|0|9|10|12`, `-4|13|20|100|03`},
		{`{"type":"integer","exclusiveMinimum":98,"exclusiveMaximum":1203}`, `99|100|999|1000|1202`, `98|1203|1210|9`},
		{`{"type":"integer","minimum":5}`, `5|10|123456`, `4|0|-5`},
		{`{"type":"number","minimum":0,"maximum":1}`, `0|1|0.5|0.999`, `1.1|-0.1|2`},
		{`{"type":"number","exclusiveMinimum":0,"maximum":2.5}`, `0.1|1|1.999|2`, `0|0.0|3|-1`},
		{`{"type":"number","minimum":0.25,"maximum":0.5}`, `0.250000|0.300000|0.500000`, `0.2|0.249999|0.500001|1`},
		{`{"type":"number","minimum":-1.5,"maximum":-0.5}`, `-1`, `0|-2|1`},
		{`{"anyOf":[{"type":"null"},{"type":"object","properties":{"k":{"const":"a"}},"required":["k"]}]}`, `null|{"k":"a"}`, `{"k":"b"}|{}`},
		{`{"$ref":"#/$defs/t","$defs":{"t":{"type":"object","properties":{"kids":{"type":"array","items":{"$ref":"#/$defs/t"}}},"required":["kids"]}}}`,
			`{"kids":[]}|{"kids":[{"kids":[]}, {"kids":[]}]}`, `{}|{"kids":[1]}`},
		{`{"allOf":[{"type":"null"}]}`, `null`, `1`},
		{`{"type":"object","properties":{"a/b~":{"$ref":"#/properties/x%20y"},"x y":{"type":"null"}}}`, `{"a/b~":null}`, `{"a/b~":1}`},
	} {
		g, err := grammar.Compile([]byte(c.schema))
		if err != nil {
			t.Errorf("%s: %v", c.schema, err)
			continue
		}
		for _, text := range strings.Split(c.good, "|") {
			if !accepts(t, g, v, text) {
				t.Errorf("%s does not accept %s", c.schema, text)
			}
		}
		for _, text := range strings.Split(c.bad, "|") {
			if accepts(t, g, v, text) {
				t.Errorf("%s accepts %s", c.schema, text)
			}
		}
	}
}

func TestSchemasAreRefusedByPath(t *testing.T) {
	deep := strings.Repeat(`{"items":`, 100) + `true` + strings.Repeat(`}`, 100)
	for _, c := range []struct{ schema, path, reason string }{
		{`{`, "#", "JSON"},
		{`[]`, "#", "not a schema"},
		{`{} {}`, "#", "after its end"},
		{`false`, "#", "nothing"},
		{`{"type":"text"}`, "#/type", "no type"},
		{`{"type":7}`, "#/type", "name of a type"},
		{`{"type":"object","properties":{"a":{"type":"string","pattern":"(a+)+$"}}}`, "#/properties/a/pattern", "not supported"},
		{`{"$ref":"#"}`, "#/$ref", "without end"},
		{`{"anyOf":[{"$ref":"#"},{"type":"null"}]}`, "#/anyOf/0/$ref", "without end"},
		{`{"type":"object","properties":{"a":{"$ref":"#"}},"required":["a"]}`, "#", "no finite value"},
		{`{"$ref":"https://example.com/x"}`, "#/$ref", "itself"},
		{`{"$ref":"#/$defs/x"}`, "#/$ref", "names nothing"},
		{`{"not":{}}`, "#/not", "not supported"},
		{`{"type":"array","uniqueItems":true}`, "#/uniqueItems", "not supported"},
		{`{"enum":[]}`, "#/enum", "list"},
		{`{"enum":[1],"type":"string"}`, "#/enum", "no value"},
		{`{"enum":[1],"minimum":3}`, "#/minimum", "beside enum"},
		{`{"type":"string","minLength":5,"maxLength":4}`, "#/minLength", "maxLength"},
		{`{"type":"string","minLength":-1}`, "#/minLength", "from 0"},
		{`{"type":"string","minLength":1000000000}`, "#/minLength", "more than"},
		{`{"type":"integer","minimum":1e999999999}`, "#/minimum", "size"},
		{`{"type":"integer","minimum":3,"maximum":2}`, "#", "no number"},
		{`{"type":"integer","minimum":1e60}`, "#", "no number"},
		{`{"type":"number","maximum":-1e60}`, "#", "no number"},
		{`{"type":"number","multipleOf":0.1}`, "#/multipleOf", "not supported"},
		{`{"type":"object","required":["a"],"additionalProperties":false}`, "#/required", "excludes"},
		{`{"type":"object","minProperties":1}`, "#/minProperties", "required"},
		{`{"a":1,"a":2}`, "#/a", "twice"},
		{deep, "#/items", "deep"},
		{`{"description":"` + strings.Repeat("x", 1<<20) + `"}`, "#", "bytes"},
	} {
		_, err := grammar.Compile([]byte(c.schema))
		var e *grammar.SchemaError
		if !errors.As(err, &e) || !strings.HasPrefix(e.Path, c.path) || !strings.Contains(e.Reason, c.reason) {
			t.Errorf("%.80s: error %v, want %s ... %s", c.schema, err, c.path, c.reason)
		}
	}
}

// TestLargeSchemasAreBounded makes programs that would be huge.
func TestLargeSchemasAreBounded(t *testing.T) {
	var b strings.Builder
	b.WriteString(`{"enum":["`)
	for i := range 11000 {
		fmt.Fprintf(&b, `%d-%x","`, i, i*7919*104729)
	}
	b.WriteString(`end"]}`)
	var e *grammar.SchemaError
	if _, err := grammar.Compile([]byte(b.String())); !errors.As(err, &e) || !strings.Contains(e.Reason, "too large") {
		t.Errorf("11,000 values: %v", err)
	}
}

func TestDamagedGrammarsAreRefused(t *testing.T) {
	g, err := grammar.Compile([]byte(`{"type":"object","properties":{"a":{"type":"array","maxItems":3}}}`))
	if err != nil {
		t.Fatal(err)
	}
	good := g.Bytes()
	for i := range good {
		if _, err := grammar.Parse(good[:i]); !errors.Is(err, grammar.ErrInvalid) {
			t.Fatalf("cut at %d: %v", i, err)
		}
	}
	if again, err := grammar.Parse(good); err != nil || !bytes.Equal(again.Bytes(), good) {
		t.Errorf("round trip: %v", err)
	}
	if _, err := grammar.Parse(make([]byte, grammar.MaxBytes+1)); !errors.Is(err, grammar.ErrInvalid) {
		t.Errorf("too long: %v", err)
	}
}

func TestCallsNameATool(t *testing.T) {
	v := byteVocab(t)
	g, err := grammar.Call([]grammar.Tool{
		{Name: "add", Parameters: []byte(`{"type":"object","properties":{"a":{"$ref":"#/$defs/n"}},"required":["a"],"$defs":{"n":{"type":"integer"}}}`)},
		{Name: "now"},
	})
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]bool{
		`{"name": "add", "arguments": {"a": 5}}`: true, `{"name": "now", "arguments": {}}`: true,
		`{"name": "add", "arguments": {}}`: false, `{"name": "del", "arguments": {}}`: false, `{}`: false,
	} {
		if accepts(t, g, v, text) != want {
			t.Errorf("%s: accepted is not %v", text, want)
		}
	}
	_, err = grammar.Call([]grammar.Tool{{Name: "f", Parameters: []byte(`{"type":"x"}`)}})
	if err == nil || !strings.HasPrefix(err.Error(), "f/type") {
		t.Errorf("error %v", err)
	}
}

func TestVocabularyMustSpell(t *testing.T) {
	_, err := grammar.NewVocabulary(2, func(id int32) []byte { return []byte{"{}"[id]} })
	if !errors.Is(err, grammar.ErrVocabulary) {
		t.Errorf("error %v", err)
	}
}

// TestTruncateTakesBack checks that a matcher after drafts is what it was.
func TestTruncateTakesBack(t *testing.T) {
	v := byteVocab(t)
	a := grammar.NewAutomaton(grammar.Object(), v)
	m, other := a.NewMatcher([]int32{0}), a.NewMatcher([]int32{0})
	for _, text := range []string{`{"a": `, `[1, `, `2]}`} {
		n := m.Len()
		for _, c := range []byte(text) {
			if m.Accept(int32(c)+1) != nil {
				t.Fatalf("%q is not accepted", text)
			}
		}
		m.Truncate(n)
		for _, c := range []byte(text) {
			if m.Accept(int32(c)+1) != nil || other.Accept(int32(c)+1) != nil {
				t.Fatalf("%q is not accepted again", text)
			}
		}
		x, y := make([]float32, v.Len()), make([]float32, v.Len())
		if m.Mask(x, grammar.Unbounded) != nil || other.Mask(y, grammar.Unbounded) != nil || !slices.Equal(x, y) {
			t.Errorf("after %q the masks differ", text)
		}
	}
	if err := m.Accept(5); !errors.Is(err, grammar.ErrMismatch) {
		t.Errorf("an id after the end: %v", err)
	}
}

// TestRandomAnswersAreValid samples from noise: every answer ends by itself, is
// valid for a validator of the schema, and keeps its budget.
func TestRandomAnswersAreValid(t *testing.T) {
	m, err := library.Library{}.Open("tiny")
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	vocab, err := m.Vocab()
	if err != nil {
		t.Fatal(err)
	}
	v, err := grammar.NewVocabulary(vocab.Len(), func(id int32) []byte { return []byte(vocab.Decode([]int32{id})) })
	if err != nil {
		t.Fatal(err)
	}
	for i := range 150 {
		r := rand.New(rand.NewPCG(uint64(i), 1))
		schema := grammartest.Schema(r, 3)
		validator := validatorOf(t, schema)
		g, err := grammar.Compile(schema)
		if err != nil {
			t.Fatalf("%s: %v", schema, err)
		}
		text := noise(t, grammar.NewAutomaton(g, v), v, vocab.End(), r, 100+r.IntN(200))
		doc, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
		if err != nil {
			t.Fatalf("%s: %q: %v", schema, text, err)
		}
		if err := validator.Validate(doc); err != nil {
			t.Fatalf("%s: %s: %v", schema, text, err)
		}
	}
}

func validatorOf(t *testing.T, schema []byte) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(schema))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("schema.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// noise samples an answer from random logits.
func noise(t *testing.T, a *grammar.Automaton, v *grammar.Vocabulary, stop []int32, r *rand.Rand, budget int) string {
	t.Helper()
	m := a.NewMatcher(stop)
	s := sample.New(sample.Spec{Temperature: 1, Seed: r.Uint64()}, v.Len(), nil)
	logits := make([]float32, v.Len())
	var text []byte
	for left := budget; left > 0; left-- {
		for i := range logits {
			logits[i] = float32(r.NormFloat64())
		}
		if err := m.Mask(logits, left); err != nil {
			t.Fatalf("after %q: %v", text, err)
		}
		c, err := s.Pick(logits, m.Len())
		if err != nil {
			t.Fatalf("after %q: %v", text, err)
		}
		if err := m.Accept(c.ID); err != nil {
			t.Fatalf("after %q: %v", text, err)
		}
		if slices.Contains(stop, c.ID) {
			return string(text)
		}
		text = append(text, v.Bytes(c.ID)...)
	}
	t.Fatalf("no end within %d ids: %q", budget, text)
	return ""
}

// TestSteeringEndsInfeasibleAnswersLate checks an answer that cannot end within
// its budget by single bytes: it takes the shortest way, with long tokens.
func TestSteeringEndsInfeasibleAnswersLate(t *testing.T) {
	v := byteVocab(t)
	g, err := grammar.Compile([]byte(`{"type":"array","items":{"enum":["true or null"]},"minItems":2}`))
	if err != nil {
		t.Fatal(err)
	}
	m := grammar.NewAutomaton(g, v).NewMatcher([]int32{0})
	var text []byte
	for i := range 40 {
		row := make([]float32, v.Len())
		if err := m.Mask(row, 20-i); err != nil {
			t.Fatal(err)
		}
		best := int32(-1)
		for id, l := range row {
			if !math.IsInf(float64(l), -1) && (best < 0 || len(v.Bytes(int32(id))) > len(v.Bytes(best))) {
				best = int32(id)
			}
		}
		if m.Accept(best) != nil {
			t.Fatal("a masked id is not accepted")
		}
		if best == 0 {
			break
		}
		text = append(text, v.Bytes(best)...)
	}
	if string(text) != `["true or null","true or null"]` || !json.Valid(text) {
		t.Errorf("answer %q", text)
	}
}

// TestCostlyGrammarsGiveUp compiles alternatives that all go on together: the
// mask is refused before it takes long.
func TestCostlyGrammarsGiveUp(t *testing.T) {
	var b strings.Builder
	b.WriteString(`{"anyOf":[`)
	for i := range 900 {
		fmt.Fprintf(&b, `{"type":"string","maxLength":%d},`, 3000+i)
	}
	b.WriteString(`{"type":"null"}]}`)
	g, err := grammar.Compile([]byte(b.String()))
	if err != nil {
		t.Fatal(err)
	}
	texts := [][]byte{nil}
	for c := range 256 {
		texts = append(texts, []byte{byte(c)})
	}
	for n := 2; n < 500; n++ {
		texts = append(texts, bytes.Repeat([]byte("a"), n))
	}
	v, err := grammar.NewVocabulary(len(texts), func(id int32) []byte { return texts[id] })
	if err != nil {
		t.Fatal(err)
	}
	m := grammar.NewAutomaton(g, v).NewMatcher([]int32{0})
	if err := m.Accept('"' + 1); err != nil {
		t.Fatal(err)
	}
	if err := m.Mask(make([]float32, v.Len()), grammar.Unbounded); !errors.Is(err, grammar.ErrCostly) {
		t.Errorf("the mask: %v", err)
	}
}

func FuzzCompile(f *testing.F) {
	for i := range 10 {
		f.Add([]byte(grammartest.Schema(rand.New(rand.NewPCG(uint64(i), 2)), 3)))
	}
	f.Add([]byte(`{"type":"object","properties":{"a":{"$ref":"#"}}}`))
	f.Add([]byte(`{"anyOf":[{"$ref":"#/$defs/a"}],"$defs":{"a":{"items":{"$ref":"#"}}}}`))
	v := byteVocab(f)
	f.Fuzz(func(t *testing.T, schema []byte) {
		g, err := grammar.Compile(schema)
		if err != nil {
			var e *grammar.SchemaError
			if !errors.As(err, &e) {
				t.Fatalf("error %T", err)
			}
			return
		}
		b := g.Bytes()
		again, err := grammar.Parse(b)
		if err != nil || !bytes.Equal(again.Bytes(), b) {
			t.Fatalf("round trip: %v", err)
		}
		row := make([]float32, v.Len())
		if err := grammar.NewAutomaton(again, v).NewMatcher([]int32{0}).Mask(row, 64); err != nil {
			t.Fatal(err)
		}
	})
}
