package grammar

import (
	"bytes"
	"encoding/json"
	"io"
	"slices"
	"strconv"
	"strings"
)

// Limits of a schema.
const (
	maxSchema = 256 << 10
	maxDepth  = 64
)

// value is a JSON value whose objects keep their order.
type value struct {
	kind   string // object, array, string, number, boolean or null
	names  []string
	fields map[string]*value
	items  []*value
	text   string // of a string, or the literal of a number
	truth  bool
}

// parseValue reads a document of bounded size and depth.
func parseValue(data []byte) (*value, error) {
	if len(data) > maxSchema {
		return nil, refuse("#", "has %d bytes, at most %d", len(data), maxSchema)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	v, err := readValue(dec, "#", 0)
	if err != nil {
		return nil, err
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, refuse("#", "has text after its end")
	}
	return v, nil
}

func readValue(dec *json.Decoder, path string, depth int) (*value, error) {
	if depth > maxDepth {
		return nil, refuse(path, "is nested more than %d deep", maxDepth)
	}
	t, err := dec.Token()
	if err != nil {
		return nil, refuse(path, "is not JSON: %v", err)
	}
	switch t := t.(type) {
	case json.Delim:
		if t == '[' {
			return readArray(dec, path, depth)
		}
		return readObject(dec, path, depth)
	case string:
		return &value{kind: "string", text: t}, nil
	case json.Number:
		return &value{kind: "number", text: t.String()}, nil
	case bool:
		return &value{kind: "boolean", truth: t}, nil
	}
	return &value{kind: "null"}, nil
}

func readArray(dec *json.Decoder, path string, depth int) (*value, error) {
	v := &value{kind: "array"}
	for dec.More() {
		item, err := readValue(dec, path+"/"+strconv.Itoa(len(v.items)), depth+1)
		if err != nil {
			return nil, err
		}
		v.items = append(v.items, item)
	}
	if _, err := dec.Token(); err != nil {
		return nil, refuse(path, "is not JSON: %v", err)
	}
	return v, nil
}

func readObject(dec *json.Decoder, path string, depth int) (*value, error) {
	v := &value{kind: "object", fields: map[string]*value{}}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return nil, refuse(path, "is not JSON: %v", err)
		}
		name := t.(string)
		if v.fields[name] != nil {
			return nil, refuse(at(path, name), "is there twice")
		}
		field, err := readValue(dec, at(path, name), depth+1)
		if err != nil {
			return nil, err
		}
		v.names = append(v.names, name)
		v.fields[name] = field
	}
	if _, err := dec.Token(); err != nil {
		return nil, refuse(path, "is not JSON: %v", err)
	}
	return v, nil
}

// at is the JSON pointer of a member (RFC 6901).
func at(path, name string) string {
	return path + "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(name)
}

// find follows a JSON pointer within a document.
func (v *value) find(pointer string) *value {
	if pointer == "#" {
		return v
	}
	for _, name := range strings.Split(strings.TrimPrefix(pointer, "#/"), "/") {
		name = strings.NewReplacer("~1", "/", "~0", "~").Replace(name)
		switch v.kind {
		case "object":
			v = v.fields[name]
		case "array":
			i, err := strconv.Atoi(name)
			if err != nil || i < 0 || i >= len(v.items) {
				return nil
			}
			v = v.items[i]
		default:
			return nil
		}
		if v == nil {
			return nil
		}
	}
	return v
}

// appendJSON writes the value in its one canonical spelling.
func (v *value) appendJSON(b []byte) []byte {
	switch v.kind {
	case "object":
		b = append(b, '{')
		for i, name := range v.names {
			if i > 0 {
				b = append(b, ", "...)
			}
			b = append(appendString(b, name), ": "...)
			b = v.fields[name].appendJSON(b)
		}
		return append(b, '}')
	case "array":
		b = append(b, '[')
		for i, item := range v.items {
			if i > 0 {
				b = append(b, ", "...)
			}
			b = item.appendJSON(b)
		}
		return append(b, ']')
	case "string":
		return appendString(b, v.text)
	case "number":
		return append(b, v.text...)
	case "boolean":
		return strconv.AppendBool(b, v.truth)
	}
	return append(b, "null"...)
}

// appendString writes a JSON string, with escapes only where they must be.
func appendString(b []byte, s string) []byte {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s); err != nil {
		panic(err) // a string can always be written
	}
	return append(b, bytes.TrimRight(out.Bytes(), "\n")...)
}

// hasType reports whether the value is of one of the types.
func (v *value) hasType(types []string) bool {
	if len(types) == 0 || slices.Contains(types, v.kind) {
		return true
	}
	if v.kind != "number" || !slices.Contains(types, "integer") {
		return false
	}
	r, err := parseNumber(v.text)
	return err == nil && r.IsInt()
}
