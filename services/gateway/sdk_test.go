package gateway

import (
	"strings"
	"testing"
)

// TestSDKIsServed: pages import the SDK and the element from the gateway.
func TestSDKIsServed(t *testing.T) {
	f := serve(t)
	for name, has := range map[string]string{
		"index.js": "WebGPUStreamingInference", "shoal.js": "var shoal=", "streaming-llm-element.js": `from"./index.js"`, "chat.js": "Chat",
	} {
		status, header, body := f.do(t, "GET", "/sdk/"+name, "")
		if status != 200 || !strings.Contains(body, has) || !strings.HasPrefix(header.Get("Content-Type"), "text/javascript") {
			t.Errorf("%s: status %d, type %q, want a script with %s", name, status, header.Get("Content-Type"), has)
		}
		if header.Get("ETag") == "" {
			t.Errorf("%s: no tag", name)
		}
	}
	if status, _, _ := f.do(t, "GET", "/sdk/other.js", ""); status != 404 {
		t.Errorf("an unknown file: status %d, want 404", status)
	}
}
