package gateway

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// embedLength gives a vector that begins with the length of the input.
func embedLength(g *fakeGeneration) {
	g.accept()
	n := max(len(g.GetRaw()), len(g.GetResumption().GetPromptIds()))
	e := completeEvent("length", 0, "")
	e.GetComplete().Embedding = []float32{float32(n), 1}
	e.GetComplete().Usage = &pb.Usage{PromptTokens: uint32(n)}
	g.send(g.number, e)
}

func TestEmbeddingsKeepTheOrder(t *testing.T) {
	f := serve(t)
	f.fake.set(embedLength)
	inputs := make([]string, 40)
	for i := range inputs {
		inputs[i] = fmt.Sprintf("%q", strings.Repeat("x", 1+i%7))
	}
	status, _, body := f.post(t, "/v1/embeddings", `{"model":"tiny","input":[`+strings.Join(inputs, ",")+`]}`)
	var got struct {
		Model string
		Data  []struct {
			Index     int
			Embedding []float32
		}
		Usage struct {
			Prompt int `json:"prompt_tokens"`
			Total  int `json:"total_tokens"`
		}
	}
	if err := json.Unmarshal([]byte(body), &got); err != nil || status != 200 || len(got.Data) != len(inputs) || got.Model != "tiny" {
		t.Fatalf("status %d, %v: %s", status, err, body)
	}
	sum := 0
	for i, d := range got.Data {
		sum += 1 + i%7
		if d.Index != i || !slices.Equal(d.Embedding, []float32{float32(1 + i%7), 1}) {
			t.Errorf("item %d: %+v", i, d)
		}
	}
	if got.Usage.Prompt != sum || got.Usage.Total != sum {
		t.Errorf("usage %+v, want %d", got.Usage, sum)
	}
	if g := f.next(t); g.GetPooling() != pb.Pooling_POOLING_OWN {
		t.Errorf("pooling %v", g.GetPooling())
	}
}

func TestEmbeddingsInBase64(t *testing.T) {
	f := serve(t)
	f.fake.set(embedLength)
	_, _, body := f.post(t, "/embeddings", `{"model":"tiny","input":[5,6,7],"encoding_format":"base64","pooling":"last"}`)
	var got struct{ Data []struct{ Embedding string } }
	if err := json.Unmarshal([]byte(body), &got); err != nil || len(got.Data) != 1 {
		t.Fatalf("%v: %s", err, body)
	}
	bits, err := base64.StdEncoding.DecodeString(got.Data[0].Embedding)
	if err != nil || !slices.Equal(bits, []byte{0, 0, 0x40, 0x40, 0, 0, 0x80, 0x3f}) { // 3 and 1
		t.Errorf("bits %v, %v", bits, err)
	}
	if g := f.next(t); g.GetPooling() != pb.Pooling_POOLING_LAST || len(g.GetResumption().GetPromptIds()) != 3 {
		t.Errorf("the coordinator saw %v", g.Generation)
	}
}

func TestEmbeddingRefusals(t *testing.T) {
	f := serve(t)
	for body, param := range map[string]string{
		`{"model":"tiny"}`:                                    "input",
		`{"model":"tiny","input":""}`:                         "input",
		`{"model":"tiny","input":["a",""]}`:                   "input[1]",
		`{"model":"tiny","input":"x","dimensions":64}`:        "dimensions",
		`{"model":"tiny","input":"x","encoding_format":"u8"}`: "encoding_format",
		`{"model":"tiny","input":"x","pooling":"max"}`:        "pooling",
	} {
		status, _, reply := f.post(t, "/v1/embeddings", body)
		if e := parseError(t, reply); status != 400 || e.Error.Param == nil || *e.Error.Param != param {
			t.Errorf("%s: status %d, %s", body, status, reply)
		}
	}
	f.fake.set(func(g *fakeGeneration) {
		if g.GetRaw() == "bad" {
			g.send(g.number, errorEvent("context_length_exceeded", "messages", false))
			return
		}
		g.silent() // ends with the request
	})
	status, _, reply := f.post(t, "/v1/embeddings", `{"model":"tiny","input":["a","bad"]}`)
	if e := parseError(t, reply); status != 400 || *e.Error.Param != "input" {
		t.Errorf("one bad input: status %d, %s", status, reply)
	}
}
