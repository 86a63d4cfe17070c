package strictjson

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

var limits = Limits{Depth: 8, Values: 1000}

// plain turns a Value into what encoding/json would make.
func plain(v Value) any {
	switch v.kind {
	case Bool:
		return v.truth
	case Number:
		return json.Number(v.text)
	case String:
		return v.text
	case Array:
		list := []any{}
		for _, item := range v.items {
			list = append(list, plain(item))
		}
		return list
	case Object:
		object := map[string]any{}
		for _, m := range v.members {
			object[m.name] = plain(m.value)
		}
		return object
	}
	return nil
}

// reference is encoding/json's reading of a document.
func reference(data []byte) (any, error) {
	if !json.Valid(data) {
		return nil, errors.New("invalid")
	}
	d := json.NewDecoder(strings.NewReader(string(data)))
	d.UseNumber()
	var v any
	err := d.Decode(&v)
	return v, err
}

var documents = []string{
	`null`, `true`, `false`, `0`, `-0`, `1.5e+10`, `-12.25E-3`, `""`, `"\u00e9\ud83d\ude00\n\/"`, `[]`, `{}`,
	` { "a" : [ 1 , "b" , { "c" : null } ] , "d" : false } `, `[[[[[[[1]]]]]]]`, `"日本"`,
}

func TestParseAgreesWithTheStandardLibrary(t *testing.T) {
	for _, d := range documents {
		v, err := Parse([]byte(d), limits)
		if err != nil {
			t.Errorf("%s: %v", d, err)
			continue
		}
		want, err := reference([]byte(d))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, plain(v)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", d, diff)
		}
	}
}

var refused = map[string]string{ // document → param
	``: "", ` `: "", `nul`: "", `nulll`: "", `True`: "", `+1`: "", `01`: "", `1.`: "", `.5`: "", `1e`: "", `-`: "", `0x1`: "", `NaN`: "",
	`"a`: "", `"\x"`: "", `"\u12"`: "", `"\u+123"`: "", "\"\t\"": "", `'a'`: "", `[1,]`: "[1]", `[1`: "", `[1 2]`: "",
	`{"a"}`: "a", `{"a":}`: "a", `{"a":1,}`: "", `{a:1}`: "", `{"a":1 "b":2}`: "", `{} {}`: "", `[] x`: "", "\ufeff{}": "",
	`{"a":1,"a":2}`: "a", `{"a":{"b":1,"b":2}}`: "a.b", `{"":1,"":2}`: `""`, `{"a":[1,"\ud800"]}`: "a[1]", `{"a":"\ude00\ud83d"}`: "a", `{"a":"\u0000"}`: "a",
	"{\"a\":\"\xff\"}": "", `{"\ud800":1}`: "", `{"a":[[[[[[[[1]]]]]]]]}`: "a", `[` + strings.Repeat("1,", 2000) + `1]`: "[999]",
}

func TestParseRefuses(t *testing.T) {
	for d, param := range refused {
		_, err := Parse([]byte(d), limits)
		var e *Error
		if !errors.As(err, &e) {
			t.Errorf("%.40q is accepted", d)
			continue
		}
		if e.Param != param || e.Why == "" {
			t.Errorf("%.40q: %q on %q, want %q", d, e.Why, e.Param, param)
		}
	}
}

func read(t *testing.T, doc string) *Reader {
	t.Helper()
	v, err := Parse([]byte(doc), limits)
	if err != nil {
		t.Fatal(err)
	}
	r, err := Read(v)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestReaderReads(t *testing.T) {
	r := read(t, `{"s":"x","f":-0,"i":5.0,"e":1e2,"b":true,"u":18446744073709551615,"n":-1,"one":"a","many":["a","b"],"o":{"k":1},"none":null,"list":[{"k":2}],"empty":[]}`)
	s, hasS := r.String("s", 1)
	f, hasF := r.Float("f", 0, 1)
	i, hasI := r.Int("i", 5, 5)
	e, _ := r.Int("e", 0, 100)
	b, hasB := r.Bool("b")
	u, _ := r.Bits("u")
	n, _ := r.Bits("n")
	if s != "x" || !hasS || f != 0 || !hasF || i != 5 || !hasI || e != 100 || !b || !hasB || u != 1<<64-1 || n != 1<<64-1 {
		t.Error(s, f, i, e, b, u, n)
	}
	if one, many := r.Strings("one", 1, 1), r.Strings("many", 2, 1); len(one) != 1 || len(many) != 2 || many[1] != "b" {
		t.Error(one, many)
	}
	o := r.Object("o")
	if k, _ := o.Int("k", 0, 9); k != 1 {
		t.Error(k)
	}
	o.Close()
	for _, item := range r.Objects("list", 1) {
		if k, _ := item.Int("k", 0, 9); k != 2 {
			t.Error(k)
		}
		item.Close()
	}
	if _, ok := r.String("none", 1); ok || r.Has("none") || r.Object("absent") != nil {
		t.Error("null or nothing was read as a value")
	}
	r.Empty("empty", "absent")
	if err := r.Err(); err != nil {
		t.Error(err)
	}
}

func TestReaderRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		doc, param string
		unknown    bool
		read       func(*Reader)
	}{
		"kind":          {`{"a":1}`, "a", false, func(r *Reader) { r.String("a", 9) }},
		"long":          {`{"a":"xyz"}`, "a", false, func(r *Reader) { r.String("a", 2) }},
		"above":         {`{"a":2}`, "a", false, func(r *Reader) { r.Float("a", 0, 1) }},
		"huge":          {`{"a":1e999}`, "a", false, func(r *Reader) { r.Float("a", 0, 1e300) }},
		"fraction":      {`{"a":1.5}`, "a", false, func(r *Reader) { r.Int("a", 0, 9) }},
		"2^63":          {`{"a":9223372036854775808}`, "a", false, func(r *Reader) { r.Int("a", 0, 1<<62) }},
		"65 bits":       {`{"a":18446744073709551616}`, "a", false, func(r *Reader) { r.Bits("a") }},
		"half bits":     {`{"a":0.5}`, "a", false, func(r *Reader) { r.Bits("a") }},
		"many":          {`{"a":["x","y"]}`, "a", false, func(r *Reader) { r.Strings("a", 1, 9) }},
		"empty":         {`{"a":["x",""]}`, "a[1]", false, func(r *Reader) { r.Strings("a", 9, 9) }},
		"not a string":  {`{"a":["x",1]}`, "a[1]", false, func(r *Reader) { r.Strings("a", 9, 9) }},
		"not an object": {`{"a":[1]}`, "a[0]", false, func(r *Reader) { r.Objects("a", 9) }},
		"nested":        {`{"a":[{"b":1}]}`, "a[0].b", true, func(r *Reader) { r.Objects("a", 9)[0].Close() }},
		"unknown":       {`{"a":1,"b":2,"c":3}`, "b", true, func(r *Reader) { r.Int("a", 0, 9) }},
		"first":         {`{"a":1,"b":2}`, "b", false, func(r *Reader) { r.String("b", 9); r.String("a", 9) }},
		"not empty":     {`{"a":[1]}`, "a", true, func(r *Reader) { r.Empty("a") }},
		"long name":     {`{"` + strings.Repeat("é", 100) + `":1}`, strings.Repeat("é", 32) + "…", true, func(*Reader) {}},
	} {
		t.Run(name, func(t *testing.T) {
			r := read(t, c.doc)
			c.read(r)
			var e *Error
			if err := r.Err(); !errors.As(err, &e) || e.Param != c.param || e.Unknown != c.unknown || e.Why == "" {
				t.Errorf("error %#v, want one on %q", e, c.param)
			}
		})
	}
	if _, err := Read(Value{kind: Array}); err == nil {
		t.Error("an array is read as an object")
	}
}

// FuzzParse holds the parser to the standard library: what it accepts, both
// read alike; what it refuses and the library takes is refused by a stricter
// rule and not by the grammar.
func FuzzParse(f *testing.F) {
	for _, d := range documents {
		f.Add([]byte(d))
	}
	for d := range refused {
		f.Add([]byte(d))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		v, err := Parse(data, limits)
		want, refErr := reference(data)
		if err == nil {
			if refErr != nil {
				t.Fatalf("%q is accepted, but is not JSON", data)
			}
			if diff := cmp.Diff(want, plain(v)); diff != "" {
				t.Fatalf("%q (-want +got):\n%s", data, diff)
			}
			return
		}
		var e *Error
		if !errors.As(err, &e) || e.Why == "" || !utf8.ValidString(e.Param) {
			t.Fatalf("%q: error %#v", data, err)
		}
		if refErr == nil && strings.Contains(e.Why, "not valid JSON") {
			t.Fatalf("%q is JSON: %v", data, err)
		}
	})
}
