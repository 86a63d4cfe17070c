package coordinator

import (
	"testing"
	"time"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// TestTurnover: the wait is foretold by how fast places came free while others waited, not
// by how seldom they were asked for.
func TestTurnover(t *testing.T) {
	var turns turnover
	now := time.Unix(1, 0)
	for range 50 { // nobody waits: it says nothing
		now = now.Add(time.Minute)
		turns.placed(now, false)
	}
	if got := turns.wait(10); got != 0 {
		t.Errorf("foretold %v of nothing", got)
	}
	turns.waits(now)
	for range 50 {
		now = now.Add(100 * time.Millisecond)
		turns.placed(now, true)
	}
	if got := turns.wait(9); got < 990*time.Millisecond || got > 1010*time.Millisecond {
		t.Errorf("the wait behind 9 is %v, want a second", got)
	}
	if got := turns.wait(0); got != 0 {
		t.Errorf("the wait behind nobody is %v", got)
	}
}

// TestHopelessRequestsAreRefusedAtOnce: what would wait for longer than is allowed is told
// so when it comes, and when to come again.
func TestHopelessRequestsAreRefusedAtOnce(t *testing.T) {
	r := newRig(t, func(c *Config, _ *wires) { c.Wishes.Sessions, c.Wishes.Slots, c.MaxWait = 1, 1, time.Hour }, "a")
	r.report("ready", ready)
	first := r.relay.ask(1, raw("endless", 200))
	first.until(tokenNumber(1))
	second := r.relay.ask(1, raw("waits", 50))
	second.until(func(e *pb.Event) bool { return e.GetProgress().GetPhase() == "queued" })
	slow := make(chan struct{})
	r.head.post(change(func(o *owner) {
		o.turns = turnover{last: o.now(), every: 3600, n: turnoverEnough}
		close(slow)
	}))
	<-slow
	e := r.relay.ask(1, raw("hopeless", 50)).finish().GetError()
	if e.GetCode() != codeRateLimit || !e.GetRetryable() || e.GetRetryAfterMs() < 3000_000 {
		t.Errorf("refused with %v", e)
	}
	first.stop()
	second.stop()
}

// change is an event of tests.
type change func(*owner)

func (c change) apply(o *owner) { c(o) }
