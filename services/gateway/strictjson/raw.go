package strictjson

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// JSON reads a value of any of the kinds as JSON text, with the order of its
// members and its numbers as they came. Absent: "".
func (r *Reader) JSON(name string, kinds ...Kind) string {
	r.read[name] = true
	v := r.members[name]
	if v.kind == Null {
		return ""
	}
	for _, k := range kinds {
		if v.kind == k {
			return string(v.append(nil))
		}
	}
	r.Fail(name, fmt.Sprintf("must be %s, not %s", kinds[0], v.kind))
	return ""
}

// Items reads an array of at most count objects as JSON texts.
func (r *Reader) Items(name string, count int) []string {
	v, ok := r.take(name, Array)
	if !ok {
		return nil
	}
	if len(v.items) > count {
		r.Fail(name, fmt.Sprintf("has more than %d items", count))
		return nil
	}
	var list []string
	for i, item := range v.items {
		if item.kind != Object {
			r.Fail(fmt.Sprintf("%s[%d]", name, i), fmt.Sprintf("must be an object, not %s", item.kind))
			return nil
		}
		list = append(list, string(item.append(nil)))
	}
	return list
}

// append writes the value as JSON.
func (v Value) append(b []byte) []byte {
	switch v.kind {
	case Object:
		b = append(b, '{')
		for i, m := range v.members {
			if i > 0 {
				b = append(b, ", "...)
			}
			b = append(appendText(b, m.name), ": "...)
			b = m.value.append(b)
		}
		return append(b, '}')
	case Array:
		b = append(b, '[')
		for i, item := range v.items {
			if i > 0 {
				b = append(b, ", "...)
			}
			b = item.append(b)
		}
		return append(b, ']')
	case String:
		return appendText(b, v.text)
	case Number:
		return append(b, v.text...)
	case Bool:
		return fmt.Append(b, v.truth)
	}
	return append(b, "null"...)
}

// appendText writes a string, with escapes only where they must be.
func appendText(b []byte, s string) []byte {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s) // a string can always be written
	return append(b, bytes.TrimRight(out.Bytes(), "\n")...)
}
