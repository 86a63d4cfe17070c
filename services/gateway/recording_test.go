package gateway

import (
	"context"
	"iter"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// pocket is a reader that takes when it is told to.
type pocket struct{ lost atomic.Bool }

func (p *pocket) wake(*recording)     {}
func (p *pocket) released(*recording) { p.lost.Store(true) }
func (p *pocket) moved(*recording)    { p.lost.Store(true) }

// steadily yields a token per period, without end, and obeys ctx as generate
// does.
func steadily(period time.Duration, produced *atomic.Uint64) generateFunc {
	return func(ctx context.Context, _ *pb.Generation) iter.Seq[*pb.Event] {
		return func(yield func(*pb.Event) bool) {
			for seq := uint64(1); ; seq++ {
				select {
				case <-ctx.Done():
					yield(stopped(ctx, seq-1))
					return
				case <-time.After(period):
				}
				produced.Store(seq)
				if !yield(tokenEvent(seq, "x")) {
					return
				}
			}
		}
	}
}

// resumable starts a generation whose reader is r. Without a generate it is the
// gateway's own: goroutines of earlier generations may be reading that.
func (g *Gateway) resumable(t *testing.T, id string, r reader, generate generateFunc) *recording {
	t.Helper()
	if generate != nil {
		g.generate = generate
	}
	gen := &pb.Generation{}
	ctx, req := g.begin(t.Context(), "test", gen)
	rec := newRecording(id, req.id, "alice", showing{}, r, socketKeep)
	ctx, rec.stop = context.WithCancelCause(ctx)
	if p := g.shelf.add(rec); p != nil {
		t.Fatal(p)
	}
	g.fill(ctx, req, gen, rec)
	return rec
}

// A lost client's answer is computed on for a minute or 512 tokens, and kept for
// two minutes.
func TestDetachedAnswer(t *testing.T) {
	for name, c := range map[string]struct {
		period time.Duration
		most   uint64 // tokens computed
		least  uint64
	}{
		"ends by time": {time.Second, 61, 59},
		"ends by size": {10 * time.Millisecond, maxUnsent + 1, maxUnsent},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g, p := bareGateway(), &pocket{}
				var produced atomic.Uint64
				rec := g.resumable(t, resumableID(1), p, steadily(c.period, &produced))
				synctest.Wait()
				rec.detach(p)
				time.Sleep(detachedFor - time.Millisecond)
				synctest.Wait()
				if rec.idle() {
					t.Error("the answer ended too early")
				}
				time.Sleep(time.Second)
				synctest.Wait()
				if !rec.idle() || produced.Load() < c.least || produced.Load() > c.most {
					t.Errorf("ended %v after %d tokens, want %d to %d", rec.idle(), produced.Load(), c.least, c.most)
				}
				time.Sleep(keptFor - detachedFor - 2*time.Second)
				if g.shelf.find("alice", rec.id) != rec {
					t.Error("the answer is forgotten too early")
				}
				late := &pocket{}
				if p := rec.attach(late, 0, socketKeep); p != nil {
					t.Fatal(p)
				}
				if b := rec.take(late); uint64(len(b.tokens)) < min(c.least, maxUnsent) {
					t.Errorf("%d tokens can be fetched", len(b.tokens))
				}
				rest := rec.take(late)
				if rest.terminal == nil && rec.terminal.GetStopped().GetReason() != reasonDisconnected {
					t.Errorf("the terminal is %v", rec.terminal)
				}
				rec.detach(late)
				time.Sleep(keptFor + time.Second)
				if g.shelf.find("alice", rec.id) != nil {
					t.Error("the answer is kept too long")
				}
				if p := rec.attach(late, 0, socketKeep); p != errUnknownGeneration {
					t.Errorf("a forgotten answer was attached: %v", p)
				}
			})
		})
	}
}

// One that comes back in time finds the answer still computing.
func TestDetachedAnswerGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, p := bareGateway(), &pocket{}
		var produced atomic.Uint64
		rec := g.resumable(t, resumableID(1), p, steadily(time.Second, &produced))
		for range 3 {
			rec.detach(p)
			time.Sleep(50 * time.Second)
			if problem := rec.attach(p, rec.taken().seq, socketKeep); problem != nil {
				t.Fatal(problem)
			}
			rec.take(p)
		}
		time.Sleep(keptFor + detachedFor) // the timers of old detachments mean nothing
		synctest.Wait()
		if rec.idle() || produced.Load() < 300 {
			t.Errorf("the answer ended after %d tokens", produced.Load())
		}
		rec.leave(p)
		synctest.Wait()
		if g.shelf.size() != 0 {
			t.Error("the answer is still kept")
		}
	})
}

// Whatever is taken, acknowledged, lost and resumed: the reader sees every token
// once and in order, and no more is kept than may be asked for.
func TestRecordingSequence(t *testing.T) {
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 1))
		p := &pocket{}
		rec := newRecording("a", "r", "alice", showing{}, p, socketKeep)
		rec.resumable = true
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // put never waits
		var made, seen, acked, most uint64
		for range 400 {
			switch rng.IntN(5) {
			case 0, 1:
				for range rng.IntN(40) {
					if made-rec.taken().seq < maxUnsent {
						made++
						rec.put(ctx, &pb.Event{Event: &pb.Event_Token{Token: &pb.Token{Seq: made, Id: int32(made)}}})
					}
				}
			case 2:
				b := rec.take(p)
				for i, tok := range b.tokens {
					if want := seen + uint64(i) + 1; uint64(tok.id) != want {
						t.Fatalf("seed %d: token %d where %d was due", seed, tok.id, want)
					}
				}
				seen += uint64(len(b.tokens))
				if b.seq != seen {
					t.Fatalf("seed %d: seq %d after %d tokens", seed, b.seq, seen)
				}
			case 3:
				acked = seen
				rec.ack(p, position{seq: seen})
			case 4:
				// What was not acknowledged may be lost, and so may some before.
				most = max(most, acked)
				from := min(seen, most-min(most, socketKeep)+rng.Uint64N(2*socketKeep))
				old := p
				p = &pocket{}
				if problem := rec.attach(p, from, socketKeep); problem != nil {
					t.Fatalf("seed %d: resume after %d of %d: %v", seed, from, acked, problem)
				}
				if !old.lost.Load() || len(rec.take(old).tokens) != 0 {
					t.Fatalf("seed %d: the old reader still has the recording", seed)
				}
				seen, acked = from, from
			}
			if kept := len(rec.tokens); kept > int(made-min(acked, rec.taken().seq))+socketKeep {
				t.Fatalf("seed %d: %d tokens are kept of %d not acknowledged", seed, kept, made-acked)
			}
		}
	}
}

// A recording that nobody can resume keeps nothing that was taken.
func TestPlainRecordingKeepsNothing(t *testing.T) {
	p := &pocket{}
	rec := newRecording("a", "r", "alice", showing{}, p, socketKeep)
	for seq := range uint64(100) {
		rec.put(t.Context(), tokenEvent(seq+1, "x"))
		rec.take(p)
	}
	if len(rec.tokens) != 0 || rec.unsentBytes != 0 {
		t.Errorf("%d tokens and %d bytes are kept", len(rec.tokens), rec.unsentBytes)
	}
	if problem := rec.attach(&pocket{}, 50, socketKeep); problem != errForgotten {
		t.Errorf("attach: %v", problem)
	}
}

// Long tokens fill a recording by their bytes.
func TestRecordingIsBoundedByBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pocket{}
		rec := newRecording("a", "r", "alice", showing{}, p, socketKeep)
		var done atomic.Int64
		go func() {
			for seq := range uint64(20) {
				rec.put(t.Context(), tokenEvent(seq+1, string(make([]byte, 10<<10))))
				done.Add(1)
			}
		}()
		synctest.Wait()
		if n := done.Load(); n != 7 { // the seventh passes 64 KiB, the eighth waits
			t.Errorf("%d tokens were put", n)
		}
		for done.Load() < 20 {
			rec.take(p)
			synctest.Wait()
		}
	})
}

// A full shelf gives up what has ended and nobody reads, never what runs.
func TestShelfIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, p := bareGateway(), &pocket{}
		var produced atomic.Uint64
		g.generate = steadily(time.Second, &produced)
		var list []*recording
		for i := range 4 {
			list = append(list, g.resumable(t, resumableID(i), p, nil))
		}
		extra := newRecording(resumableID(9), "", "alice", showing{}, p, socketKeep)
		if got := g.shelf.add(extra); got != errLimit {
			t.Errorf("a fifth: %v", got)
		}
		list[2].detach(p)
		list[2].stop(errClient)
		synctest.Wait()
		if got := g.shelf.add(extra); got != nil {
			t.Errorf("a fifth in the place of one that has ended: %v", got)
		}
		if g.shelf.find("alice", list[2].id) != nil || g.shelf.size() != 4 {
			t.Error("the wrong one was given up")
		}
		g.shelf.close()
		list[0].detach(p) // lost while draining: ended at once
		synctest.Wait()
		if g.shelf.find("alice", list[0].id) != nil || g.shelf.find("alice", list[1].id) == nil {
			t.Error("draining leaves what nobody reads to another gateway, and only that")
		}
		if got := g.shelf.add(newRecording(resumableID(10), "", "bob", showing{}, p, socketKeep)); got != errDraining {
			t.Errorf("while draining: %v", got)
		}
		g.shelf.clear()
		if g.shelf.size() != 0 {
			t.Error("something is left")
		}
	})
}

// Progress that was overtaken is not shown; what comes after accepted is shown
// after it.
func TestRecordingOrdersProgress(t *testing.T) {
	p := &pocket{}
	rec := newRecording("a", "r", "alice", showing{}, p, socketKeep)
	progress := func(phase string) *pb.Event {
		return &pb.Event{Event: &pb.Event_Progress{Progress: &pb.Progress{Phase: phase}}}
	}
	for _, e := range []*pb.Event{
		progress("queued"), {Event: &pb.Event_Accepted{Accepted: &pb.Accepted{}}}, progress("prefill"), progress("recovering"),
	} {
		rec.put(t.Context(), e)
	}
	var got []string
	rec.frames(rec.take(p), func(_ uint64, f any) error {
		switch f := f.(type) {
		case richAccepted:
			got = append(got, f.Type)
		case richProgress:
			got = append(got, f.Phase)
		}
		return nil
	})
	if !slices.Equal(got, []string{"accepted", "recovering"}) {
		t.Errorf("frames %q", got)
	}
}
