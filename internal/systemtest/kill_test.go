package systemtest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// tellWithin is how soon every client must know that something is gone.
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

// endlessTokens is long enough that harm is done in the middle of an answer.
const endlessTokens = 500

// endlessChat asks for an answer of endlessTokens tokens at a temperature: the
// tokens that end an answer are forbidden.
func endlessChat(temperature float64, seed int) object {
	return chat(longPrompt, object{
		"temperature": temperature, "seed": seed, "max_tokens": endlessTokens,
		"logit_bias": object{"0": -100, "2": -100},
	})
}

// request is one client's: by an event stream, or by a socket.
type request struct {
	name    string
	chat    object // of the stream; nil for a socket
	message object
}

func endlessMessage() object {
	m := longMessage(0)
	m["maxTokens"] = endlessTokens
	return m
}

// longRequests are what clients ask while shards are killed, at a temperature of
// zero and others.
func longRequests() []request {
	return []request{
		{name: "greedy", chat: endlessChat(0, 1)},
		{name: "temperature 0.8", chat: endlessChat(0.8, 7)},
		{name: "temperature 0.8, another seed", chat: endlessChat(0.8, 8)},
		{name: "socket", message: endlessMessage()},
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
				t.Errorf("%s: %v; after %d tokens the text is\n%.300q, want\n%.300q", r.name, err, tokens, text, want[r.name])
			}
			t.Logf("%s: the longest pause was %v", r.name, gap.Round(time.Millisecond))
		})
	}
	begun.Wait()
	harm()
	ended.Wait()
}

// TestAnswersSurvive does harm to a cluster of three shards while answers are
// given: no client notices more than a pause.
func TestAnswersSurvive(t *testing.T) {
	ctx := within(t, 90*time.Second)
	c := prepareCluster(ctx, t)
	head := c.nodes["coordinator"]
	head.args = append(head.args, "--steady=200ms", "--max-losses=0")
	for _, name := range services {
		c.start(t, name)
	}
	c.waitHealthy(ctx, t, services...)
	solo := solo(ctx, t, prompts[0])
	requests := longRequests()
	want := undisturbed(ctx, t, c, requests)
	for _, h := range c.harms(ctx, t) {
		t.Run(h.name, func(t *testing.T) {
			checkUndisturbed(ctx, t, c, requests, want, func() { h.do(t) })
			if h.undo != nil {
				h.undo(t)
			}
			c.waitHealthy(ctx, t, services...)
		})
		if t.Failed() {
			return
		}
	}
	checkAnswered(ctx, t, c, "in the end", solo)
}

// harm is something that happens to a cluster while answers are given.
type harm struct {
	name     string
	do, undo func(t *testing.T)
}

// harms are those that are done one after the other; processes that are started
// again live as long as whole, the test of all of them.
func (c *system) harms(ctx context.Context, whole *testing.T) []harm {
	restart := func(name string) {
		c.nodes[name].kill()
		c.start(whole, name)
	}
	var frozen string
	var drained []string
	return []harm{
		{name: "first stage killed", do: func(t *testing.T) { restart(c.stageNodes(ctx, t)[0]) }},
		{name: "middle stage killed", do: func(t *testing.T) { restart(c.stageNodes(ctx, t)[1]) }},
		{name: "last stage killed", do: func(t *testing.T) { restart(c.stageNodes(ctx, t)[2]) }},
		{name: "coordinator killed", do: func(*testing.T) { restart("coordinator") }},
		{name: "all but one killed", do: func(*testing.T) {
			for _, name := range shards[1:] {
				c.nodes[name].kill()
			}
			for _, name := range shards[1:] {
				c.start(whole, name)
			}
		}},
		{name: "frozen", do: func(t *testing.T) {
			frozen = c.stageNodes(ctx, t)[1]
			c.nodes[frozen].signal(t, syscall.SIGSTOP)
		}, undo: func(t *testing.T) { c.nodes[frozen].signal(t, syscall.SIGCONT) }},
		{name: "drained", do: func(t *testing.T) {
			for range 2 {
				node := c.stageNodes(ctx, t)[2]
				drained = append(drained, node)
				c.operate(ctx, t, "drain", node)
				eventually(ctx, t, "not drained", func() error {
					if slices.Contains(c.stageNodes(ctx, t), node) {
						return fmt.Errorf("%s holds a stage", node)
					}
					return nil
				})
			}
		}, undo: func(t *testing.T) {
			for _, node := range drained {
				c.operate(ctx, t, "undrain", node)
			}
		}},
	}
}

// stageNodes waits for a plan and returns the nodes of its first pipeline's
// stages, in order.
func (c *system) stageNodes(ctx context.Context, t *testing.T) (nodes []string) {
	t.Helper()
	eventually(ctx, t, "no stages", func() error {
		var models struct {
			Data []struct {
				Shoal modelState `json:"shoal"`
			} `json:"data"`
		}
		if err := c.client().read(ctx, "/v1/models", nil, &models); err != nil {
			return err
		}
		if len(models.Data) != 1 || len(models.Data[0].Shoal.Stages) != 3 {
			return fmt.Errorf("models are %+v, want one of three stages", models.Data)
		}
		nodes = nil
		for _, s := range models.Data[0].Shoal.Stages {
			name, _, _ := strings.Cut(s, "/")
			nodes = append(nodes, name)
		}
		return nil
	})
	return nodes
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

// operate gives a command about a node to the coordinator, as an operator.
func (c *system) operate(ctx context.Context, t *testing.T, command, node string) {
	t.Helper()
	_, stderr, code := shoal(ctx, t, nil, command, node, "--cluster-secret-file="+c.secretFile, "--coordinator="+c.nodes["coordinator"].grpc)
	if code != 0 {
		t.Fatalf("shoal %s %s: %s", command, node, stderr)
	}
}
