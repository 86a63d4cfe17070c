package gateway

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestBrowser drives the page in headless Chromium against the fake
// coordinator. It needs node, Chromium and `npm ci` in web/e2e, so it runs only
// when SHOAL_BROWSER_TEST is 1.
func TestBrowser(t *testing.T) {
	if os.Getenv("SHOAL_BROWSER_TEST") != "1" {
		t.Skip("SHOAL_BROWSER_TEST is not 1")
	}
	f := serve(t)
	f.fake.set(func(g *fakeGeneration) { g.story(int(g.GetSampling().GetMaxTokens())) })
	cmd := exec.CommandContext(t.Context(), "node", "--test", "page.test.js")
	cmd.Dir = "../../web/e2e"
	cmd.Env = append(os.Environ(), "SHOAL_URL="+f.url)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

const story = `Once upon a time, in a harbour town at the edge of the world, there lived a small grey fish who could count.

Every morning it counted the boats, and every evening it counted them again. One night a boat was missing. The fish asked its neighbours, and its neighbours asked theirs, until the whole shoal was looking, each for a little piece of the sea, and together they found it before the tide turned. `

// story tells at most n words, a little slower than anybody reads.
func (g *fakeGeneration) story(n int) {
	g.accept()
	words := strings.SplitAfter(story, " ")
	for i := range n {
		seq := uint64(i + 1)
		if !g.await(seq) {
			return
		}
		g.send(g.number, tokenEvent(seq, words[i%len(words)]))
		time.Sleep(15 * time.Millisecond)
	}
	g.send(g.number, completeEvent("length", n, ""))
}
