package gateway

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// However generations end, nothing of them stays.
func TestManyAbortsLeaveNothing(t *testing.T) {
	f := serve(t)
	f.fake.set(func(g *fakeGeneration) {
		if g.GetSampling().GetMaxTokens() == 0 {
			g.endless()
			return
		}
		g.answer("a", "b", "c")
	})
	rng := rand.New(rand.NewPCG(1, 2))
	const n = 400
	var work sync.WaitGroup
	ends := make(chan string, n)
	for range n {
		whole, leave := rng.IntN(2) == 0, rng.IntN(100)
		cancelled := rng.IntN(2) == 0
		work.Go(func() { ends <- abort(t, f, whole, leave, cancelled) })
	}
	work.Wait()
	close(ends)
	for end := range ends {
		if end != "" {
			t.Error(end)
		}
	}
	f.relay.mu.Lock()
	l := f.relay.link
	f.relay.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.open) != 0 {
		t.Errorf("%d generations are still open", len(l.open))
	}
}

// abort runs one generation to its end, or leaves it after some events by
// either way, and says what was wrong.
func abort(t *testing.T, f *front, whole bool, leave int, cancelled bool) string {
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	gen := &pb.Generation{Input: &pb.Generation_Prompt{Prompt: "x"}, Sampling: &pb.Sampling{}}
	if whole {
		gen.Sampling.MaxTokens = 3
	}
	terminals, seen := 0, 0
	for e := range f.relay.generate(ctx, gen) {
		seen++
		if terminal(e) {
			terminals++
			continue
		}
		if terminals > 0 {
			return "an event after the terminal"
		}
		if !whole && seen > leave {
			if !cancelled {
				return ""
			}
			cancel(errClient)
		}
	}
	if terminals != 1 {
		return "not exactly one terminal"
	}
	return ""
}
