package gateway

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
)

// TestBadChatRequests holds rows of requests that no coordinator may ever see.
func TestBadChatRequests(t *testing.T) {
	t.Parallel()
	f := serve(t)
	messages := func(m string) string { return `{"messages":` + m + `}` }
	image := func(url string) string {
		return messages(`[{"role":"user","content":[{"type":"image_url","image_url":{"url":"` + url + `"}}]}]`)
	}
	for _, c := range []struct {
		name, body string
		status     int
		param      string
	}{
		// A04: not one JSON object
		{"empty", "", 400, ""},
		{"null", "null", 400, ""},
		{"array", "[]", 400, ""},
		{"string", `"x"`, 400, ""},
		{"invalid", `{"model":`, 400, "model"},
		{"single quotes", `{'model':'tiny'}`, 400, ""},
		{"comment", "{} // x", 400, ""},
		{"trailing", chatBody("") + `{}`, 400, ""},
		{"deep", strings.Repeat("[", 100_000), 400, ""},
		{"deep member", `{"messages":` + strings.Repeat(`[`, 100_000), 400, "messages"},
		{"duplicate", `{"model":"a","model":"b"}`, 400, "model"},
		{"duplicate inside", messages(`[{"role":"user","role":"user"}]`), 400, "messages[0].role"},
		{"byte order mark", "\ufeff" + chatBody(""), 400, ""},
		{"lone surrogate", messages(`[{"role":"user","content":"\ud800"}]`), 400, "messages[0].content"},
		{"reversed surrogates", messages(`[{"role":"user","content":"\udc00\ud800"}]`), 400, "messages[0].content"},
		{"NUL", messages(`[{"role":"user","content":"a\u0000b"}]`), 400, "messages[0].content"},
		{"raw NUL", messages("[{\"role\":\"user\",\"content\":\"a\x00b\"}]"), 400, "messages[0].content"},
		{"invalid UTF-8", messages("[{\"role\":\"user\",\"content\":\"a\xffb\"}]"), 400, ""},
		{"many values", messages("[" + strings.Repeat("1,", 200_000) + "1]"), 400, "messages[99998]"},
		// A06: messages
		{"no messages", `{"model":"tiny"}`, 400, "messages"},
		{"empty messages", messages(`[]`), 400, "messages"},
		{"messages is text", messages(`"hi"`), 400, "messages"},
		{"message is text", messages(`["hi"]`), 400, "messages[0]"},
		{"unknown role", messages(`[{"role":"wizard","content":"x"}]`), 400, "messages[0].role"},
		{"no role", messages(`[{"content":"x"}]`), 400, "messages[0].role"},
		{"tool role", messages(`[{"role":"tool","content":"x"}]`), 400, "messages[0].tool_call_id"},
		{"null content", messages(`[{"role":"user","content":null}]`), 400, "messages[0].content"},
		{"number content", messages(`[{"role":"user","content":5}]`), 400, "messages[0].content"},
		{"no content", messages(`[{"role":"user"}]`), 400, "messages[0].content"},
		{"image elsewhere", image("https://example.com/a.png"), 400, "messages[0].content[0].image_url.url"},
		{"image of a path", image("file:///etc/passwd"), 400, "messages[0].content[0].image_url.url"},
		{"image without data", image("data:image/png;base64"), 400, "messages[0].content[0].image_url.url"},
		{"empty image", image("data:image/png;base64,"), 400, "messages[0].content[0].image_url.url"},
		{"image in percent signs", image("data:image/png,%89PNG"), 400, "messages[0].content[0].image_url.url"},
		{"image that is no base64", image("data:image/png;base64,?!"), 400, "messages[0].content[0].image_url.url"},
		{"text as an image", image("data:text/html;base64,PGI+"), 400, "messages[0].content[0].image_url.url"},
		{"image of 15 MB", image("data:image/png;base64," + strings.Repeat("A", 15<<20)), 400, "messages[0].content[0].image_url.url"},
		{"image in detail", messages(`[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:,","detail":"high"}}]}]`), 400, "messages[0].content[0].image_url.detail"},
		{"image without an address", messages(`[{"role":"user","content":[{"type":"image_url"}]}]`), 400, "messages[0].content[0].image_url"},
		{"sound", messages(`[{"role":"user","content":[{"type":"input_audio","input_audio":{}}]}]`), 400, "messages[0].content[0].type"},
		{"unknown member", messages(`[{"role":"user","content":"x","mood":"good"}]`), 400, "messages[0].mood"},
		{"many messages", messages(`[` + strings.Repeat(`{"role":"user","content":"x"},`, 9999) + `{"role":"user","content":"x"}]`), 400, "messages"},
		// A07: max_tokens
		{"0 tokens", chatBody(`"max_tokens":0`), 400, "max_tokens"},
		{"-1 tokens", chatBody(`"max_tokens":-1`), 400, "max_tokens"},
		{"1e300 tokens", chatBody(`"max_tokens":1e300`), 400, "max_tokens"},
		{"text tokens", chatBody(`"max_tokens":"5"`), 400, "max_tokens"},
		{"2^63 tokens", chatBody(`"max_tokens":9223372036854775808`), 400, "max_tokens"},
		{"half a token", chatBody(`"max_tokens":1.5`), 400, "max_tokens"},
		{"both names", chatBody(`"max_tokens":1,"max_completion_tokens":2`), 400, "max_tokens"},
		// A08: ranges
		{"cold", chatBody(`"temperature":-1`), 400, "temperature"},
		{"NaN", chatBody(`"temperature":NaN`), 400, "temperature"},
		{"very hot", chatBody(`"temperature":1e9`), 400, "temperature"},
		{"hot", chatBody(`"temperature":"hot"`), 400, "temperature"},
		{"top_p 0", chatBody(`"top_p":0`), 400, "top_p"},
		{"top_p tiny", chatBody(`"top_p":1e-320`), 400, "top_p"},
		{"top_p 2", chatBody(`"top_p":2`), 400, "top_p"},
		{"presence", chatBody(`"presence_penalty":100`), 400, "presence_penalty"},
		{"frequency", chatBody(`"frequency_penalty":-100`), 400, "frequency_penalty"},
		{"repeat", chatBody(`"repeat_penalty":0`), 400, "repeat_penalty"},
		{"min_p", chatBody(`"min_p":1.1`), 400, "min_p"},
		{"top_k", chatBody(`"top_k":-1`), 400, "top_k"},
		{"bias id", chatBody(`"logit_bias":{"1000000000":1}`), 400, "logit_bias.1000000000"},
		{"bias word", chatBody(`"logit_bias":{"cat":1}`), 400, "logit_bias.cat"},
		{"bias zeros", chatBody(`"logit_bias":{"01":1}`), 400, "logit_bias.01"},
		{"bias value", chatBody(`"logit_bias":{"1":101}`), 400, "logit_bias.1"},
		{"many biases", chatBody(`"logit_bias":{` + manyBiases(5000) + `}`), 400, "logit_bias"},
		// A09: counts
		{"n", chatBody(`"n":1000000000`), 400, "n"},
		{"n 9", chatBody(`"n":9`), 400, "n"},
		{"n 0", chatBody(`"n":0`), 400, "n"},
		{"best_of", chatBody(`"best_of":1000000000`), 400, "best_of"},
		{"top_logprobs", chatBody(`"logprobs":true,"top_logprobs":1000000`), 400, "top_logprobs"},
		{"top_logprobs alone", chatBody(`"top_logprobs":2`), 400, "top_logprobs"},
		// A10: stop
		{"many stops", chatBody(`"stop":[` + strings.Repeat(`"x",`, 99_000) + `"x"]`), 400, "stop"},
		{"five stops", chatBody(`"stop":["a","b","c","d","e"]`), 400, "stop"},
		{"empty stop", chatBody(`"stop":""`), 400, "stop"},
		{"an empty stop", chatBody(`"stop":["a",""]`), 400, "stop[1]"},
		{"long stop", chatBody(`"stop":"` + strings.Repeat("x", 1<<20) + `"`), 400, "stop"},
		{"stop is a number", chatBody(`"stop":5`), 400, "stop"},
		// A11: a body that no context can hold
		{"huge prompt", messages(`[{"role":"user","content":"` + strings.Repeat("a", 17_000_000) + `"}]`), 413, ""},
		// A13: what is not offered
		{"format", chatBody(`"response_format":{"type":"xml"}`), 400, "response_format.type"},
		{"schema without a name", chatBody(`"response_format":{"type":"json_schema","json_schema":{}}`), 400, "response_format.json_schema.name"},
		{"schema", chatBody(`"response_format":{"type":"json_schema","json_schema":{"name":"x","schema":[]}}`), 400, "response_format.json_schema.schema"},
		{"tools", chatBody(`"tools":[{"type":"function"}]`), 400, "tools[0].function"},
		{"another tool", chatBody(`"tools":[{"type":"retrieval"}]`), 400, "tools[0].type"},
		{"tool choice", chatBody(`"tool_choice":"required"`), 400, "tool_choice"},
		// A14: names
		{"long model", `{"model":"` + strings.Repeat("m", 10_240) + `","messages":[{"role":"user","content":"x"}]}`, 404, "model"},
		// law 12
		{"unknown", chatBody(`"sparkle":1`), 400, "sparkle"},
		{"another case", chatBody(`"Temperature":1`), 400, "Temperature"},
		{"long name", chatBody(`"` + strings.Repeat("z", 5000) + `":1`), 400, strings.Repeat("z", 64) + "…"},
		{"usage without stream", chatBody(`"stream_options":{"include_usage":true}`), 400, "stream_options"},
		{"unknown stream option", chatBody(`"stream":true,"stream_options":{"x":true}`), 400, "stream_options.x"},
		{"metadata", chatBody(`"metadata":{"a":5}`), 400, "metadata.a"},
		{"grammar", chatBody(`"grammar":"x"`), 400, "grammar"},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, header, body := f.post(t, chatPath, c.body)
			e := parseError(t, body)
			param := ""
			if e.Error.Param != nil {
				param = *e.Error.Param
			}
			if status != c.status || param != c.param {
				t.Errorf("status %d on %q, want %d on %q: %s", status, param, c.status, c.param, body)
			}
			if e.Error.Message == "" || e.Error.Code == "" || e.Error.Type != "invalid_request_error" || len(body) > 1000 {
				t.Errorf("error body %s", body)
			}
			if header.Get("X-Request-Id") == "" {
				t.Error("no request id")
			}
		})
	}
	select {
	case g := <-f.fake.started:
		t.Errorf("the coordinator saw %v", g.Generation)
	default:
	}
}

func manyBiases(n int) string {
	var list []string
	for i := range n {
		list = append(list, fmt.Sprintf(`"%d":1`, i))
	}
	return strings.Join(list, ",")
}

// A14: whatever the name, the coordinator's word becomes a 404.
func TestUnknownModel(t *testing.T) {
	f := serve(t)
	f.fake.set(func(g *fakeGeneration) { g.send(g.number, errorEvent("model_not_found", "model", false)) })
	for _, name := range []string{"none", "../../etc/passwd"} {
		status, _, body := f.post(t, chatPath, `{"model":"`+name+`","messages":[{"role":"user","content":"x"}]}`)
		if e := parseError(t, body); status != 404 || e.Error.Code != "model_not_found" || *e.Error.Param != "model" {
			t.Errorf("%s: status %d, %s", name, status, body)
		}
	}
}

// A11: the coordinator's refusal of a long prompt is a 400.
func TestContextLength(t *testing.T) {
	f := serve(t)
	f.fake.set(func(g *fakeGeneration) { g.send(g.number, errorEvent("context_length_exceeded", "messages", false)) })
	if status, _, body := f.post(t, chatPath, chatBody("")); status != 400 || parseError(t, body).Error.Code != "context_length_exceeded" {
		t.Errorf("status %d, %s", status, body)
	}
}

// A01, A02, A03, A20: who may ask, and where.
func TestAccess(t *testing.T) {
	f := serve(t, func(c *Config, _ *Deps) {
		c.APIKeys = []string{"sesame", "second"}
		c.AllowedHosts = []string{"shoal.example.com"}
		c.AllowedOrigins = []string{"https://chat.example.com"}
	})
	f.untilReady(t)
	host := strings.TrimPrefix(f.url, "http://")
	_, port, _ := net.SplitHostPort(host)
	key := []string{"Authorization", "Bearer sesame"}
	with := func(h ...string) []string { return append(h, key...) }
	for _, c := range []struct {
		name, method, path string
		headers            []string
		status             int
	}{
		{"key", "GET", "/v1/models", key, 200},
		{"second key", "GET", "/v1/models", []string{"Authorization", "Bearer second"}, 200},
		{"no key", "GET", "/v1/models", nil, 401},
		{"wrong key", "GET", "/v1/models", []string{"Authorization", "Bearer sesam"}, 401},
		{"empty key", "GET", "/v1/models", []string{"Authorization", "Bearer "}, 401},
		{"other scheme", "GET", "/v1/models", []string{"Authorization", "Basic sesame"}, 401},
		{"key in the address", "GET", "/v1/models?key=sesame&api_key=sesame", nil, 401},
		{"key in a cookie", "GET", "/v1/models", []string{"Cookie", "key=sesame"}, 401},
		{"post without key", "POST", chatPath, nil, 401},
		{"alive needs no key", "GET", "/livez", nil, 200},
		{"ready needs no key", "GET", "/readyz", nil, 200},
		{"the page needs no key", "GET", "/", nil, 200},

		{"evil host", "GET", "/livez", []string{"Host", "evil.com"}, 421},
		{"evil host and port", "GET", "/livez", []string{"Host", "evil.com:" + port}, 421},
		{"name inside a name", "GET", "/livez", []string{"Host", "localhost.evil.com"}, 421},
		{"user info", "GET", "/livez", []string{"Host", "localhost:80@evil.com"}, 421},
		{"port is a word", "GET", "/livez", []string{"Host", "localhost:x"}, 421},
		{"another address", "GET", "/livez", []string{"Host", "10.1.2.3"}, 421},
		{"decimal address", "GET", "/livez", []string{"Host", "2130706433"}, 421},
		{"localhost", "GET", "/livez", []string{"Host", "LOCALHOST:" + port}, 200},
		{"IPv6", "GET", "/livez", []string{"Host", "[::1]:" + port}, 200},
		{"IPv6 without port", "GET", "/livez", []string{"Host", "[::1]"}, 200},
		{"allowed host", "GET", "/livez", []string{"Host", "Shoal.example.com"}, 200},

		{"evil origin", "POST", chatPath, with("Origin", "http://evil.com", "Content-Type", "text/plain"), 403},
		{"null origin", "POST", chatPath, with("Origin", "null"), 403},
		{"empty origin", "POST", chatPath, with("Origin", ""), 403},
		{"evil origin reads", "GET", "/v1/models", with("Origin", "http://evil.com"), 403},
		{"cross-site post", "POST", chatPath, with("Sec-Fetch-Site", "cross-site"), 403},
		{"cross-site delete", "DELETE", "/v1/models/tiny", with("Sec-Fetch-Site", "cross-site"), 403},
		{"a link from elsewhere", "GET", "/", []string{"Sec-Fetch-Site", "cross-site"}, 200},
		{"own origin", "GET", "/v1/models", with("Origin", "http://"+host), 200},
		{"allowed origin", "GET", "/v1/models", with("Origin", "https://chat.example.com"), 200},
		{"preflight", "OPTIONS", chatPath, []string{"Origin", "https://chat.example.com"}, 204},
		{"evil preflight", "OPTIONS", chatPath, []string{"Origin", "https://evil.com"}, 403},

		{"delete", "DELETE", "/v1/models/tiny", key, 405},
		{"trace", "TRACE", "/v1/models", key, 405},
		{"put", "PUT", chatPath, key, 405},
		{"get chat", "GET", chatPath, key, 405},
		{"double slash", "GET", "//v1/models", key, 404},
		{"dots", "GET", "/v1/../v1/models", key, 404},
		{"encoded dots", "GET", "/%2e%2e/v1/models", key, 404},
		{"metrics", "GET", "/metrics", key, 404},
		{"pprof", "GET", "/debug/pprof/", key, 404},
		{"page folder", "GET", "/console/page.go", key, 404},
		{"page twice", "GET", "/console/index.html", key, 404},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, header, body := f.do(t, c.method, c.path, "", c.headers...)
			if status != c.status {
				t.Errorf("status %d, want %d: %s", status, c.status, body)
			}
			if allow := header.Get("Access-Control-Allow-Origin"); allow == "*" || allow != "" && allow != "https://chat.example.com" {
				t.Errorf("Access-Control-Allow-Origin %q", allow)
			}
			if len(header["Set-Cookie"]) > 0 {
				t.Error("a cookie is set")
			}
		})
	}
}

// A05: a body without end meets the limit, headers theirs.
func TestBounds(t *testing.T) {
	t.Parallel()
	f := serve(t, func(c *Config, _ *Deps) { c.Limits.Body = 1000 })
	endless := io.MultiReader(strings.NewReader(`{"messages":"`), endlessReader{})
	req := rawRequest(t, f, "POST", chatPath, endless)
	resp, err := httpClient(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 413 {
		t.Errorf("an endless body: status %d", resp.StatusCode)
	}
	if status, _, _ := f.do(t, "GET", "/livez", "", "X-Big", strings.Repeat("x", 100<<10)); status != 431 {
		t.Errorf("big headers: status %d", status)
	}
}

type endlessReader struct{}

func (endlessReader) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'a'
	}
	return len(p), nil
}
