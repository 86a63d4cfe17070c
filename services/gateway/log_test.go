package gateway

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// record is a line of the log.
type record map[string]any

// find waits for the line that has all these members.
func (f *front) find(t *testing.T, want record) record {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		for line := range strings.Lines(f.log.String()) {
			var r record
			if json.Unmarshal([]byte(line), &r) != nil {
				continue // it is being written
			}
			same := true
			for k, v := range want {
				same = same && r[k] == v
			}
			if same {
				return r
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("no line with %v in:\n%s", want, f.log)
		}
	}
}

// Every request leaves one structured line of access, and every answer or refusal
// one more, all with the id that the client was told, and none with its words.
func TestAccessLog(t *testing.T) {
	const secret = "xyzzy"
	f := serve(t, func(c *Config, _ *Deps) { c.APIKeys = []string{"sesame"} })
	f.fake.set(func(g *fakeGeneration) { g.answer(secret, secret) })
	key := []string{"Authorization", "Bearer sesame"}
	body := `{"model":"tiny","messages":[{"role":"user","content":"` + secret + `"}],"stop":["` + secret + `"]}`

	_, header, _ := f.post(t, chatPath, body, key...)
	id := header.Get(requestIDHeader)
	access := f.find(t, record{"msg": "request", "request": id})
	if access["method"] != "POST" || access["path"] != chatPath || access["status"] != 200. || access["took"].(float64) <= 0 || access["remote"] == "" {
		t.Errorf("access: %v", access)
	}
	answered := f.find(t, record{"msg": "answered", "request": id})
	if answered["door"] != "openai" || answered["tenant"] == "" || answered["model"] != "tiny" || answered["session"] == "" ||
		answered["outcome"] != "stop" || answered["prompt_tokens"] != 3. || answered["tokens"] != 2. || len(id) != 32 {
		t.Errorf("answered: %v", answered)
	}

	if _, header, _ := f.post(t, chatPath, body, append(key, requestIDHeader, "mine")...); header.Get(requestIDHeader) != "mine" {
		t.Errorf("the client's id came back as %q", header.Get(requestIDHeader))
	}
	f.find(t, record{"msg": "answered", "request": "mine"})
	trace := strings.Repeat("ab", 16)
	if _, header, _ := f.post(t, chatPath, body, append(key, "traceparent", "00-"+trace+"-0123456789abcdef-01")...); header.Get(requestIDHeader) != trace {
		t.Errorf("the trace's id came back as %q", header.Get(requestIDHeader))
	}

	_, header, _ = f.post(t, chatPath, body[:len(body)-1]+`,"`+secret+`":1}`, key...)
	f.find(t, record{"msg": "refused", "request": header.Get(requestIDHeader), "code": codeUnsupported, "door": "openai"})
	_, header, _ = f.post(t, chatPath, body)
	f.find(t, record{"msg": "request", "request": header.Get(requestIDHeader), "status": 401.})

	client := pb.NewGenerateServiceClient(f.dialGRPC(t))
	for _, c := range []struct {
		key, code string
		in        *pb.GenerateRequest
	}{
		{"", codeBadKey, prompt(secret)},
		{"Bearer sesame", codeInvalid, &pb.GenerateRequest{}},
	} {
		stream, err := client.Generate(metadata.AppendToOutgoingContext(t.Context(), "authorization", c.key), c.in)
		if err == nil {
			_, err = stream.Recv()
		}
		if err == nil {
			t.Error("a bad call is answered")
		}
		f.find(t, record{"msg": "refused", "door": "grpc", "code": c.code})
	}
	p := f.rich(t, "bearer.sesame")
	p.send(`{"v":1,"type":"generate","id":"` + secret + `","prompt":"` + secret + `","` + secret + `":1}`)
	p.read()
	f.find(t, record{"msg": "refused", "door": "websocket", "code": codeUnsupported})
	if log := f.log.String(); strings.Contains(log, secret) || strings.Contains(log, "sesame") {
		t.Errorf("the log holds what a client wrote:\n%s", log)
	}
}
