// Package grammartest makes JSON schemas to test grammars with.
package grammartest

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
)

// Schema returns a random schema of what the compiler supports: an object at
// the top, at most depth levels of others in it.
func Schema(r *rand.Rand, depth int) json.RawMessage {
	g := generator{r: r}
	root := g.object(depth)
	if g.r.IntN(4) == 0 { // a list of nodes that refer to their like
		root["$defs"] = map[string]any{"node": map[string]any{
			"type": "object", "required": []string{"value"}, "additionalProperties": false,
			"properties": map[string]any{
				"value": g.scalar(),
				"next":  map[string]any{"anyOf": []any{map[string]any{"$ref": "#/$defs/node"}, map[string]any{"type": "null"}}},
			},
		}}
		root["properties"].(map[string]any)["tree"] = map[string]any{"$ref": "#/$defs/node"}
		delete(root, "maxProperties")
	}
	b, err := json.Marshal(root)
	if err != nil {
		panic(err)
	}
	return b
}

type generator struct{ r *rand.Rand }

var words = []string{"name", "age", "city", "tags", "price", "is_open", "größe", "a\"b", "id", "note"}

func (g *generator) object(depth int) map[string]any {
	props := map[string]any{}
	var required []string
	for range 1 + g.r.IntN(4) {
		w := words[g.r.IntN(len(words))]
		if props[w] == nil && g.r.IntN(3) > 0 {
			required = append(required, w)
		}
		if props[w] == nil {
			props[w] = g.any(depth - 1)
		}
	}
	s := map[string]any{"type": "object", "properties": props}
	if len(required) > 0 {
		s["required"] = required
	}
	switch g.r.IntN(4) {
	case 0:
		s["additionalProperties"] = false
	case 1:
		s["additionalProperties"] = g.scalar()
		s["maxProperties"] = len(props) + g.r.IntN(3)
	}
	return s
}

func (g *generator) any(depth int) map[string]any {
	if depth <= 0 {
		return g.scalar()
	}
	switch g.r.IntN(6) {
	case 0:
		return g.object(depth)
	case 1:
		least := g.r.IntN(3)
		return map[string]any{"type": "array", "items": g.any(depth - 1), "minItems": least, "maxItems": least + g.r.IntN(4)}
	case 2:
		return map[string]any{"anyOf": []any{g.any(depth - 1), g.scalar(), map[string]any{"type": "null"}}}
	case 3:
		return map[string]any{"type": "object", "additionalProperties": g.any(depth - 1)}
	}
	return g.scalar()
}

func (g *generator) scalar() map[string]any {
	switch g.r.IntN(9) {
	case 0:
		return map[string]any{"type": "boolean"}
	case 1:
		return map[string]any{"type": []string{"integer", "null"}}
	case 2:
		low := g.r.IntN(400) - 200
		return map[string]any{"type": "integer", "minimum": low, "exclusiveMaximum": low + 1 + g.r.IntN(1500)}
	case 3:
		low := float64(g.r.IntN(4000)-2000) / 100
		return map[string]any{"type": "number", "exclusiveMinimum": low, "maximum": low + float64(1+g.r.IntN(900))/100}
	case 4:
		return map[string]any{"type": "number"}
	case 5:
		least := g.r.IntN(5)
		return map[string]any{"type": "string", "minLength": least, "maxLength": least + g.r.IntN(20)}
	case 6:
		return map[string]any{"enum": []any{"red", "reddish", fmt.Sprintf("n%d", g.r.IntN(100)), 7, nil, true, []any{1, "x"}}}
	case 7:
		return map[string]any{"const": words[g.r.IntN(len(words))]}
	}
	return map[string]any{"type": "string"}
}
