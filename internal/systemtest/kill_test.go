package systemtest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"
)

// tellWithin is how soon every client must know that a shard is gone.
const tellWithin = 2 * time.Second

// Answers that go on for long: at a high temperature the model rambles until its
// tokens are used up, and equal seeds give equal answers.
const (
	longPrompt = "Tell me a long story."
	longTokens = 990
)

// long is the sampling of the i-th long answer; two differ in their seed.
func long(i int, limit string) object {
	seeds := []int{7, 8, 12, 17, 21, 28}
	return object{"temperature": 2, "seed": seeds[i], limit: longTokens}
}

func longChat(i int) object { return chat(longPrompt, long(i, "max_tokens")) }

func longMessage(i int) object {
	m := long(i, "maxTokens")
	m["prompt"] = longPrompt
	return m
}

// TestKilledShard kills each shard while answers are being given. Every client
// hears of it, once and in time, and the next requests are answered by those
// that are left.
func TestKilledShard(t *testing.T) {
	for _, victim := range shards {
		t.Run(victim, func(t *testing.T) {
			ctx := within(t, time.Minute)
			c := startCluster(ctx, t)
			want := solo(ctx, t, prompts[0])
			checkKill(ctx, t, c, victim)
			checkAnswered(ctx, t, c, "by the survivors", want)
			c.waitHealthy(ctx, t, "coordinator", "gateway")
			checkStages(ctx, t, c, slices.DeleteFunc(slices.Clone(shards), func(s string) bool { return s == victim }))
			c.start(t, victim)
			c.waitHealthy(ctx, t, services...)
			checkAnswered(ctx, t, c, "after the restart", want)
		})
	}
}

// checkAnswered asks until there is an answer: while the cluster plans anew,
// requests are refused with an error that says to try again.
func checkAnswered(ctx context.Context, t *testing.T, c *system, when, want string) {
	t.Helper()
	eventually(ctx, t, "no answer "+when, func() error {
		got, err := c.client().whole(ctx, prompts[0])
		if err == nil && got != want {
			t.Errorf("answer %s is %q, want %q", when, got, want)
		}
		return err
	})
}

// checkKill kills a shard under two sockets and two event streams.
func checkKill(ctx context.Context, t *testing.T, c *system, victim string) {
	t.Helper()
	clients := []func(started func()) error{}
	for i := range 2 {
		s := c.client().dial(ctx, t)
		clients = append(clients,
			func(started func()) error { return s.interrupted(ctx, i, started) },
			func(started func()) error { return c.client().interrupted(ctx, 2+i, started) })
	}
	var begun, ended sync.WaitGroup
	told := make([]time.Time, len(clients))
	for i, run := range clients {
		begun.Add(1)
		started := sync.OnceFunc(begun.Done)
		ended.Go(func() {
			defer started() // also when it failed before
			if err := run(started); err != nil {
				t.Errorf("client %d: %v", i, err)
			}
			told[i] = time.Now()
		})
	}
	begun.Wait() // every client has its first token
	killed := time.Now()
	c.nodes[victim].kill()
	ended.Wait()
	var slowest time.Duration
	for i, at := range told {
		slowest = max(slowest, at.Sub(killed))
		if at.Sub(killed) > tellWithin {
			t.Errorf("client %d heard of the end of %s after %v, want %v", i, victim, at.Sub(killed), tellWithin)
		}
	}
	t.Logf("%s killed: all %d clients knew after %v", victim, len(clients), slowest)
}

// interrupted reads an answer that must end with one error message, and asks on:
// whatever the server would send beside it would come before the next answer.
func (s *socket) interrupted(ctx context.Context, i int, started func()) error {
	if err := s.send(ctx, longMessage(i)); err != nil {
		return err
	}
	_, end, err := s.answer(ctx, func(message) error { started(); return nil })
	if err != nil {
		return err
	}
	if end.Type != "error" || end.Code != "shard_lost" || end.Message == "" || !end.Retryable {
		return fmt.Errorf("the answer ended with %+v, want the error shard_lost, to be tried again", end)
	}
	if err := s.send(ctx, object{"prompt": "Hi", "wrong": true}); err != nil {
		return err
	}
	next, err := s.receive(ctx)
	if err == nil && (next.Type != "error" || next.Code != "unsupported_option") {
		err = fmt.Errorf("after the error came %+v", next)
	}
	return err
}

// interrupted reads a stream that must end with one error event.
func (c client) interrupted(ctx context.Context, i int, started func()) error {
	s, err := c.stream(ctx, longChat(i), func(ch chunk) error {
		if len(ch.Choices) == 1 && ch.Choices[0].Delta.Content != "" {
			started()
		}
		return nil
	})
	if err != nil {
		return err
	}
	if len(s.errors) != 1 || s.errors[0] != "shard_lost" || s.done+s.finished > 0 {
		return fmt.Errorf("the stream ended with errors %v, %d finish reasons and %d [DONE], want shard_lost alone", s.errors, s.finished, s.done)
	}
	return nil
}

// TestKilledCoordinator kills the coordinator under its clients. They hear of
// it, and a new process takes the shards over.
func TestKilledCoordinator(t *testing.T) {
	ctx := within(t, time.Minute)
	c := startCluster(ctx, t)
	want := solo(ctx, t, prompts[0])
	s := c.client().dial(ctx, t)
	if err := s.send(ctx, longMessage(0)); err != nil {
		t.Fatal(err)
	}
	var killed time.Time
	_, end, err := s.answer(ctx, func(m message) error {
		if m.Seq == 1 {
			killed = time.Now()
			c.nodes["coordinator"].kill()
		}
		return nil
	})
	if took := time.Since(killed); err != nil || end.Type != "error" || !end.Retryable || took > tellWithin {
		t.Errorf("after %v the answer ended with %+v (%v), want an error to try again within %v", took, end, err, tellWithin)
	}
	c.start(t, "coordinator")
	c.waitHealthy(ctx, t, services...)
	checkAnswered(ctx, t, c, "of the new coordinator", want)
	checkStages(ctx, t, c, shards)
}
