package coordinator

import (
	"errors"
	"strings"
	"testing"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// TestHardSchemasAreRefused: a schema that describes nothing, or too much, is
// refused while the request is prepared, so that no shard sees it.
func TestHardSchemasAreRefused(t *testing.T) {
	m := toyModel()
	for name, schema := range map[string]string{
		"a reference to itself":  `{"$ref":"#"}`,
		"references in a circle": `{"$ref":"#/$defs/a","$defs":{"a":{"$ref":"#/$defs/b"},"b":{"$ref":"#/$defs/a"}}}`,
		"a reference elsewhere":  `{"$ref":"http://169.254.169.254/schema"}`,
		"a reference to nothing": `{"$ref":"#/$defs/none"}`,
		"no end":                 `{"$ref":"#/$defs/a","$defs":{"a":{"type":"object","properties":{"a":{"$ref":"#/$defs/a"}},"required":["a"]}}}`,
		"a megabyte of words":    `{"enum":["` + strings.Repeat("x", 1<<20) + `"]}`,
		"a megabyte of members":  `{"type":"object","properties":{` + strings.Repeat(`"a":{"type":"string"},`, 1<<16) + `"b":{}}}`,
		"deep":                   strings.Repeat(`{"type":"array","items":`, 2000) + `{}` + strings.Repeat(`}`, 2000),
		"wide and deep":          `{"$defs":{"a":{"type":"string"}},"type":"object","properties":{` + strings.Repeat(`"x":{"$ref":"#/$defs/a"},`, 60_000) + `"y":{}}}`,
		"no type":                `{"type":"x"}`,
		"a type of no name":      `{"type":5}`,
		"no schema":              `{"type":`,
		"a list":                 `[]`,
		"a number":               `5`,
		"false":                  `false`,
	} {
		g := raw("x", 4)
		g.ResponseFormat = &pb.ResponseFormat{Type: "json_schema", Schema: schema}
		var p *problem
		if _, err := m.prepare(g, 200); !errors.As(err, &p) || p.Param != "response_format" || p.Retryable || len(p.Message) > 400 {
			t.Errorf("%s: %.300v", name, err)
		}
		g = raw("x", 4)
		g.Tools = []string{`{"type":"function","function":{"name":"f","parameters":` + schema + `}}`}
		g.ToolChoice = &pb.ToolChoice{Mode: "required"}
		if _, err := m.prepare(g, 200); !errors.As(err, &p) || !strings.HasPrefix(p.Param, "tools") || p.Retryable {
			t.Errorf("%s, of a tool: %.300v", name, err)
		}
	}
}

// TestHardPatternsDoNotExplode: a pattern that a backtracking matcher never
// leaves is compiled to a bounded grammar, or refused.
func TestHardPatternsDoNotExplode(t *testing.T) {
	m := toyModel()
	for _, pattern := range []string{`^(a+)+$`, `^(a|aa)+$`, `^(.*a){20}$`, `^([a-zA-Z]+)*$`, `^(((a{1,100}){1,100}){1,100})$`, `(?=a)b`, `(a)\\1`, `^[`, `a{1000000}`} {
		g := raw("x", 4)
		g.ResponseFormat = &pb.ResponseFormat{Type: "json_schema", Schema: `{"type":"string","pattern":"` + pattern + `"}`}
		p, err := m.prepare(g, 200)
		var refused *problem
		switch {
		case err == nil && len(p.grammar) > 1<<20:
			t.Errorf("%s: a grammar of %d bytes", pattern, len(p.grammar))
		case err != nil && (!errors.As(err, &refused) || refused.Param != "response_format"):
			t.Errorf("%s: %v", pattern, err)
		}
	}
}
