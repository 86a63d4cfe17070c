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

// endlessChat asks for an answer of longTokens tokens at a temperature: the
// tokens that end an answer are forbidden.
func endlessChat(temperature float64, seed int) object {
	return chat(longPrompt, object{
		"temperature": temperature, "seed": seed, "max_tokens": longTokens,
		"logit_bias": object{"0": -100, "2": -100},
	})
}

// request is one client's: by an event stream, or by a socket.
type request struct {
	name    string
	chat    object // of the stream; nil for a socket
	message object
}

// longRequests are what clients ask while shards are killed, at a temperature of
// zero and others.
func longRequests() []request {
	return []request{
		{name: "greedy", chat: endlessChat(0, 1)},
		{name: "temperature 0.8", chat: endlessChat(0.8, 7)},
		{name: "temperature 0.8, another seed", chat: endlessChat(0.8, 8)},
		{name: "socket", message: longMessage(0)},
	}
}

// run reads the answer to its end and calls each for every token.
func (r request) run(ctx context.Context, t *testing.T, c client, each func()) (string, error) {
	if r.chat == nil {
		text, end, err := c.dial(ctx, t).ask(ctx, r.message, each)
		if err == nil && end.Type != "complete" {
			err = fmt.Errorf("it ends with %+v", end)
		}
		return text, err
	}
	s, err := c.stream(ctx, r.chat, func(ch chunk) error {
		if len(ch.Choices) == 1 && ch.Choices[0].Delta.Content != "" {
			each()
		}
		return nil
	})
	if err == nil && (s.done != 1 || s.finished != 1 || len(s.errors) > 0) {
		err = fmt.Errorf("it ends with %d finish reasons, %d [DONE] and errors %v", s.finished, s.done, s.errors)
	}
	return s.text, err
}

// ask sends a request and reads its answer.
func (s *socket) ask(ctx context.Context, m object, each func()) (string, message, error) {
	if err := s.send(ctx, m); err != nil {
		return "", message{}, err
	}
	return s.answer(ctx, func(message) error { each(); return nil })
}

// undisturbed are the texts of requests that nobody disturbs.
func undisturbed(ctx context.Context, t *testing.T, c *system, requests []request) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, r := range requests {
		text, err := r.run(ctx, t, c.client(), func() {})
		if err != nil || text == "" {
			t.Fatalf("%s, undisturbed: %v", r.name, err)
		}
		out[r.name] = text
	}
	return out
}

// checkUndisturbed runs requests at once, does harm when each has some tokens,
// and wants every client to see the text that it would have seen without.
func checkUndisturbed(ctx context.Context, t *testing.T, c *system, requests []request, want map[string]string, harm func()) {
	t.Helper()
	const some = 40 // tokens
	var begun, ended sync.WaitGroup
	for _, r := range requests {
		begun.Add(1)
		started := sync.OnceFunc(begun.Done)
		ended.Go(func() {
			defer started() // also when it failed before
			tokens, last, gap := 0, time.Now(), time.Duration(0)
			text, err := r.run(ctx, t, c.client(), func() {
				if tokens++; tokens == some {
					started()
				}
				if now := time.Now(); tokens > 1 {
					gap = max(gap, now.Sub(last))
				}
				last = time.Now()
			})
			if err != nil || text != want[r.name] {
				t.Errorf("%s: %v; after %d tokens the text is\n%q, want\n%q", r.name, err, tokens, text, want[r.name])
			}
			t.Logf("%s: the longest pause was %v", r.name, gap.Round(time.Millisecond))
		})
	}
	begun.Wait()
	harm()
	ended.Wait()
}

// TestKilledShard kills each shard of three while answers are given, then one of
// the two that are left. No client notices more than a pause.
func TestKilledShard(t *testing.T) {
	requests := longRequests()
	for i, victim := range shards {
		t.Run(victim, func(t *testing.T) {
			ctx := within(t, time.Minute)
			c := startCluster(ctx, t)
			want := undisturbed(ctx, t, c, requests)
			checkUndisturbed(ctx, t, c, requests, want, c.nodes[victim].kill)
			left := slices.DeleteFunc(slices.Clone(shards), func(s string) bool { return s == victim })
			checkStages(ctx, t, c, left)
			checkUndisturbed(ctx, t, c, requests, want, c.nodes[left[i%2]].kill)
			checkStages(ctx, t, c, []string{left[1-i%2]})
		})
	}
}

// TestShardComesBack kills shards and starts them again under answers: they are
// used again, and no client notices.
func TestShardComesBack(t *testing.T) {
	requests := longRequests()
	ctx := within(t, time.Minute)
	c := startCluster(ctx, t)
	want := undisturbed(ctx, t, c, requests)
	checkUndisturbed(ctx, t, c, requests, want, func() {
		c.nodes[shards[1]].kill()
		c.start(t, shards[1])
	})
	checkStages(ctx, t, c, shards)
	checkUndisturbed(ctx, t, c, requests, want, func() {})
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
