package gateway

import (
	"strings"
	"time"
)

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
