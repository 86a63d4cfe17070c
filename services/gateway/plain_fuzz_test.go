package gateway

import (
	"encoding/json"
	"strings"
	"testing"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// FuzzPlainRequest: a request of the plain protocol is either a generation
// within all bounds or an error with a code, a sentence and, when the request is
// a JSON object, the member that is wrong.
func FuzzPlainRequest(f *testing.F) {
	for _, seed := range []string{
		guideRequest, `{}`, `null`, `[]`, `{"prompt":"a","prompt":"b"}`, `{"prompt":"\ud800"}`, `{"prompt":"hi","maxTokens":1e300}`,
		`{"messages":[{"role":"user","content":[{"type":"text","text":"a"}]}],"system":"s","topP":1e-46,"topK":1,"minP":1,"seed":-1}`,
		`{"prompt":"a","raw":true,"stop":["x"],"repetitionPenalty":1.1,"presencePenalty":-2,"frequencyPenalty":2}`,
		`{"prompt":"a","model":"m","modelPath":"m","precision":16,"config":{"quantization":"int4"}}`,
		`{"messages":[{"role":"tool","content":null}]}`, `{"prompt":"a","config":{"x":{"y":[1]}}}`, `{"prompt":"a","temperature":1e-400}`,
	} {
		f.Add([]byte(seed))
	}
	const messages = 8
	f.Fuzz(func(t *testing.T, data []byte) {
		g, err := parsePlain(data, messages)
		if err != nil {
			p := problemOf(err)
			if g != nil || p.message == "" || p.code != codeInvalid && p.code != codeUnsupported && p.code != codeModelNotFound {
				t.Fatalf("%q: %+v with %v", data, p, g)
			}
			var object map[string]json.RawMessage
			if p.param == "" && json.Unmarshal(data, &object) == nil && object != nil && !documentFault(p) {
				t.Fatalf("%q: %+v names no member", data, p)
			}
			return
		}
		if p := checkGeneration(g, messages+1); p != nil {
			t.Fatalf("%q became %v, which is out of bounds: %+v", data, g, p)
		}
		if s := g.GetSampling(); s.GetMaxTokens() < 1 || !g.GetMaxTokensClamp() || g.GetTenant() != "" {
			t.Fatalf("%q became %v", data, g)
		}
		if _, ok := g.GetInput().(*pb.Generation_Resumption); ok {
			t.Fatalf("%q became a resumption", data)
		}
	})
}

// documentFault reports whether a fault has no member to name: text that is not
// UTF-8, a member whose very name is no text, or too many values at the top.
func documentFault(p *problem) bool {
	for _, why := range []string{"UTF-8", "surrogate", "NUL", "values"} {
		if strings.Contains(p.message, why) {
			return true
		}
	}
	return false
}
