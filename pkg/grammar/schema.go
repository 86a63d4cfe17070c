package grammar

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// SchemaError says what of a schema is refused, and where: Path is a JSON
// pointer into the document, "#" its root.
type SchemaError struct{ Path, Reason string }

// Error names the place and the reason.
func (e *SchemaError) Error() string { return e.Path + " " + e.Reason }

func refuse(path, format string, args ...any) error {
	if len(path) > 200 {
		path = path[:200] + "…"
	}
	return &SchemaError{Path: path, Reason: fmt.Sprintf(format, args...)}
}

// Limits of what a schema may ask for.
const (
	maxCode    = 100_000   // instructions
	maxMade    = 128 << 10 // bytes compiled: many sessions may open in one step
	maxLeast   = 4096      // of minLength and minItems
	maxRepeats = 1 << 24   // of maxLength and maxItems
)

// Compile compiles a JSON Schema (the part of draft 2020-12 that the
// documentation lists). Errors are *SchemaError.
func Compile(schema []byte) (*Grammar, error) {
	return build(func(c *compiler) (int32, error) { return c.document(schema, "#") })
}

// Object returns the grammar of any JSON object.
func Object() *Grammar {
	g, err := build(func(c *compiler) (int32, error) {
		return c.newRule(func(ret int32) int32 { return c.freeObject(ret) }), nil
	})
	if err != nil {
		panic(err) // it has no input
	}
	return g
}

// Tool is a function that an answer may call.
type Tool struct {
	Name       string
	Parameters []byte // JSON Schema of the arguments; empty is any object
}

// Call returns the grammar of one call, {"name": ..., "arguments": ...}, of one
// of the tools. Paths of errors begin with the tool's name.
func Call(tools []Tool) (*Grammar, error) {
	return build(func(c *compiler) (int32, error) {
		if len(tools) == 0 {
			return 0, refuse("#", "has no tools")
		}
		var ways []int32
		ret := c.emit(inst{op: opReturn})
		for _, t := range tools {
			arguments := c.newRule(c.freeObject)
			if len(t.Parameters) > 0 {
				var err error
				if arguments, err = c.document(t.Parameters, t.Name); err != nil {
					return 0, err
				}
			}
			head := `{"name": ` + string(appendString(nil, t.Name)) + `, "arguments": `
			ways = append(ways, c.literal(head, c.call(arguments, c.literal("}", ret))))
		}
		return c.rule(c.either(ways...)), nil
	})
}

// build runs a compilation whose result is the start rule.
func build(start func(*compiler) (int32, error)) (*Grammar, error) {
	c := &compiler{g: &Grammar{}, setIDs: map[set]int32{}, named: map[string]int32{}}
	c.g.rules = append(c.g.rules, 0)
	rule, err := start(c)
	if err == nil && c.full {
		err = refuse("#", "is too large: it makes more than %d instructions", maxCode)
	}
	if err != nil {
		return nil, err
	}
	c.g.rules[0] = c.g.rules[rule]
	if err := c.g.measure(); err != nil {
		return nil, refuse("#", "has no finite value: a $ref repeats itself without end")
	}
	if n := len(c.g.Bytes()); n > maxMade {
		return nil, refuse("#", "is too large: %d bytes compiled, at most %d", n, maxMade)
	}
	return c.g, nil
}

// compiler makes a Grammar of schemas.
type compiler struct {
	g      *Grammar
	setIDs map[set]int32
	named  map[string]int32 // shared rules by name
	full   bool             // maxCode was reached

	root  *value           // of the document
	base  string           // its name in paths
	refs  map[string]int32 // rules of pointers into it
	since []string         // pointers that were followed since a byte was written
}

// emit appends an instruction. Past the limit it makes nothing that is used.
func (c *compiler) emit(in inst) int32 {
	if len(c.g.code) >= maxCode {
		c.full = true
		return 0
	}
	c.g.code = append(c.g.code, in)
	return int32(len(c.g.code) - 1)
}

// rule names an entry.
func (c *compiler) rule(entry int32) int32 {
	c.g.rules = append(c.g.rules, entry)
	return int32(len(c.g.rules) - 1)
}

// newRule makes a rule of what body puts before its return.
func (c *compiler) newRule(body func(ret int32) int32) int32 {
	return c.rule(body(c.emit(inst{op: opReturn})))
}

// shared makes a rule once. It may call itself.
func (c *compiler) shared(name string, body func(ret int32) int32) int32 {
	if r, ok := c.named[name]; ok {
		return r
	}
	r := c.rule(0)
	c.named[name] = r
	c.g.rules[r] = body(c.emit(inst{op: opReturn}))
	return r
}

// document compiles a schema with its own root into a rule.
func (c *compiler) document(schema []byte, base string) (int32, error) {
	root, err := parseValue(schema)
	if err != nil {
		return 0, err
	}
	c.root, c.base, c.refs, c.since = root, base, map[string]int32{}, nil
	return c.reference("#", "#")
}

// reference is the rule of the schema that a pointer names.
func (c *compiler) reference(pointer, path string) (int32, error) {
	if slices.Contains(c.since, pointer) {
		return 0, c.refuse(path, "repeats itself without end")
	}
	if r, ok := c.refs[pointer]; ok {
		return r, nil
	}
	v := c.root.find(pointer)
	if v == nil {
		return 0, c.refuse(path, "names nothing in the schema")
	}
	r := c.rule(0)
	c.refs[pointer] = r
	c.since = append(c.since, pointer)
	entry, err := c.schema(v, pointer, c.emit(inst{op: opReturn}))
	if err != nil {
		return 0, err
	}
	c.since = c.since[:len(c.since)-1]
	c.g.rules[r] = entry
	return r, nil
}

func (c *compiler) refuse(path, format string, args ...any) error {
	return refuse(c.base+strings.TrimPrefix(path, "#"), format, args...)
}

// inside compiles a schema behind a bracket, into a rule.
func (c *compiler) inside(v *value, path string) (int32, error) {
	outer := c.since
	c.since = nil
	entry, err := c.schema(v, path, c.emit(inst{op: opReturn}))
	c.since = outer
	return c.rule(entry), err
}

// annotations are keywords without an effect on what is valid.
var annotations = []string{
	"$schema", "$id", "$comment", "$defs", "definitions", "title", "description", "default",
	"examples", "deprecated", "readOnly", "writeOnly", "format",
}

// only refuses keywords besides the given and annotations.
func (c *compiler) only(v *value, path string, keywords ...string) error {
	for _, name := range v.names {
		if !slices.Contains(annotations, name) && !slices.Contains(keywords, name) {
			if slices.Contains(supported, name) {
				return c.refuse(at(path, name), "is not supported beside %s", keywords[0])
			}
			return c.refuse(at(path, name), "is a keyword that is not supported")
		}
	}
	if v.fields["format"] != nil {
		note := "format is not enforced"
		if !slices.Contains(c.g.notes, note) {
			c.g.notes = append(c.g.notes, note)
		}
	}
	return nil
}

// schema compiles one schema.
func (c *compiler) schema(v *value, path string, next int32) (int32, error) {
	switch {
	case c.full:
		return 0, nil
	case v.kind == "boolean" && v.truth:
		return c.call(c.free(), next), nil
	case v.kind == "boolean":
		return 0, c.refuse(path, "allows nothing")
	case v.kind != "object":
		return 0, c.refuse(path, "is a JSON %s, not a schema", v.kind)
	case v.fields["$ref"] != nil:
		return c.ref(v, path, next)
	case v.fields["enum"] != nil:
		return c.enum(v, path, next)
	case v.fields["const"] != nil:
		if err := c.only(v, path, "const", "type"); err != nil {
			return 0, err
		}
		return c.choice(v, []*value{v.fields["const"]}, at(path, "const"), next)
	}
	for _, word := range []string{"anyOf", "oneOf", "allOf"} {
		if v.fields[word] != nil {
			return c.anyOf(v, word, path, next)
		}
	}
	return c.typed(v, path, next)
}

func (c *compiler) ref(v *value, path string, next int32) (int32, error) {
	if err := c.only(v, path, "$ref"); err != nil {
		return 0, err
	}
	path = at(path, "$ref")
	pointer := v.fields["$ref"].text
	if pointer != "#" && !strings.HasPrefix(pointer, "#/") {
		return 0, c.refuse(path, "must point into the schema itself, with #/")
	}
	if p, err := url.PathUnescape(pointer); err == nil {
		pointer = p
	}
	rule, err := c.reference(pointer, path)
	return c.call(rule, next), err
}

func (c *compiler) enum(v *value, path string, next int32) (int32, error) {
	if err := c.only(v, path, "enum", "type"); err != nil {
		return 0, err
	}
	list := v.fields["enum"]
	if list.kind != "array" || len(list.items) == 0 {
		return 0, c.refuse(at(path, "enum"), "must be a list with values")
	}
	return c.choice(v, list.items, at(path, "enum"), next)
}

// choice is one of given values, of those that are of the schema's types.
func (c *compiler) choice(v *value, values []*value, path string, next int32) (int32, error) {
	types, err := c.types(v, strings.TrimSuffix(strings.TrimSuffix(path, "/enum"), "/const"))
	if err != nil {
		return 0, err
	}
	var texts []string
	for _, one := range values {
		if one.hasType(types) {
			texts = append(texts, string(one.appendJSON(nil)))
		}
	}
	if len(texts) == 0 {
		return 0, c.refuse(path, "has no value of the type")
	}
	return c.oneOf(texts, next), nil
}

// anyOf compiles alternatives. Those of oneOf are taken to exclude each other;
// allOf may have one.
func (c *compiler) anyOf(v *value, word, path string, next int32) (int32, error) {
	if err := c.only(v, path, word); err != nil {
		return 0, err
	}
	list := v.fields[word]
	path = at(path, word)
	if list.kind != "array" || len(list.items) == 0 {
		return 0, c.refuse(path, "must be a list of schemas")
	}
	if word == "allOf" && len(list.items) > 1 {
		return 0, c.refuse(path, "is not supported with more than one schema")
	}
	var ways []int32
	for i, one := range list.items {
		entry, err := c.schema(one, at(path, strconv.Itoa(i)), next)
		if err != nil {
			return 0, err
		}
		ways = append(ways, entry)
	}
	return c.either(ways...), nil
}

// keywords are those of each type.
var keywords = map[string][]string{
	"object":  {"properties", "required", "additionalProperties", "minProperties", "maxProperties"},
	"array":   {"items", "minItems", "maxItems"},
	"string":  {"minLength", "maxLength"},
	"number":  {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
	"integer": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
	"boolean": nil,
	"null":    nil,
}

// supported are all keywords with an effect.
var supported = slices.Concat(slices.Concat(slices.Collect(maps.Values(keywords))...),
	[]string{"type", "$ref", "enum", "const", "anyOf", "oneOf", "allOf"})

// types returns the types that a schema allows: those it names, else those its
// keywords are for; none is all.
func (c *compiler) types(v *value, path string) ([]string, error) {
	t := v.fields["type"]
	path = at(path, "type")
	var types []string
	switch {
	case t == nil:
		for _, name := range []string{"object", "array", "string", "number"} {
			if slices.ContainsFunc(keywords[name], func(k string) bool { return v.fields[k] != nil }) {
				types = append(types, name)
			}
		}
		return types, nil
	case t.kind == "string":
		types = []string{t.text}
	case t.kind == "array" && len(t.items) > 0:
		for _, one := range t.items {
			if slices.Contains(types, one.text) {
				return nil, c.refuse(path, "names %.40q twice", one.text)
			}
			types = append(types, one.text)
		}
	default:
		return nil, c.refuse(path, "must be the name of a type, or a list of them")
	}
	for _, name := range types {
		if _, ok := keywords[name]; !ok {
			return nil, c.refuse(path, "%.40q is no type", name)
		}
	}
	return types, nil
}

// typed compiles a schema by its types.
func (c *compiler) typed(v *value, path string, next int32) (int32, error) {
	if err := c.only(v, path, append([]string{"type"}, supported...)...); err != nil {
		return 0, err
	}
	types, err := c.types(v, path)
	if err != nil {
		return 0, err
	}
	if len(types) == 0 {
		return c.call(c.free(), next), nil
	}
	var ways []int32
	for _, name := range types {
		var entry int32
		switch name {
		case "object":
			entry, err = c.objectOf(v, path, next)
		case "array":
			entry, err = c.arrayOf(v, path, next)
		case "string":
			entry, err = c.stringOf(v, path, next)
		case "number", "integer":
			entry, err = c.numberOf(v, path, name == "integer", next)
		case "boolean":
			entry = c.either(c.literal("true", next), c.literal("false", next))
		case "null":
			entry = c.literal("null", next)
		}
		if err != nil {
			return 0, err
		}
		ways = append(ways, entry)
	}
	return c.either(ways...), nil
}
