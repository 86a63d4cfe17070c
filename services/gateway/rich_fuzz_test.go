package gateway

import (
	"encoding/json"
	"testing"

	"github.com/shoal-llm/shoal/services/gateway/strictjson"
)

// FuzzParseRich: whatever a client sends is a frame within its bounds, or is
// refused by an error that clients understand.
func FuzzParseRich(f *testing.F) {
	for _, seed := range []string{
		`{"v":1,"type":"generate","id":"a","prompt":"x"}`,
		`{"v":1,"type":"generate","id":"generation-00000000","messages":[{"role":"user","content":"x"}],"resumable":true,"config":{"kvCacheConfig":{"bits":16}}}`,
		`{"v":1,"type":"stop","id":"a"}`, `{"v":1,"type":"resume","id":"a","after_seq":9007199254740992}`,
		`{"v":1,"type":"ping","t":"\u00e9"}`, `{"v":1,"type":"ping","t":-1e300}`, `{"v":1,"type":"control","id":"a"}`,
		`{"prompt":"x","logprobs":true,"topLogprobs":20,"logitBias":{"7":-100}}`, `{}`, `[`, "\xff",
	} {
		f.Add([]byte(seed), true)
		f.Add([]byte(seed), false)
	}
	f.Fuzz(func(t *testing.T, data []byte, anonymous bool) {
		q, err := parseRich(data, 16, anonymous)
		if err != nil {
			if p := problemOf(err); p.code == codeInternal || p.message == "" {
				t.Fatalf("refused with %v", p)
			}
			if _, err := json.Marshal(problemOf(err).refusal(q.knownKind(), q.id)); err != nil {
				t.Fatal(err)
			}
			return
		}
		if _, err := strictjson.Parse(data, jsonLimits); err != nil {
			t.Fatalf("accepted what is no JSON: %v", err)
		}
		switch {
		case q.knownKind() == "" || q.kind == typeControl:
			t.Fatalf("accepted a frame of type %q", q.kind)
		case (q.kind == typeGenerate) != (q.generation != nil):
			t.Fatalf("a %s frame with generation %v", q.kind, q.generation)
		case q.kind != typePing && q.id == "" && !anonymous, len(q.id) > maxGenerationID:
			t.Fatalf("accepted the id %q", q.id)
		case q.resumable && q.id != "" && len(q.id) < minResumableID:
			t.Fatalf("accepted the id %q for a resumable generation", q.id)
		}
		if q.generation != nil {
			if p := checkGeneration(q.generation, 16+1); p != nil {
				t.Fatalf("the gRPC door would refuse what this one accepted: %v (%s)", p, p.param)
			}
		}
	})
}
