package systemtest

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

// maxTokens bounds the answers that are compared.
const maxTokens = 60

// prompts for clients that ask at once.
var prompts = []string{"Tell me a story about a fox.", "What is 17 + 25?", "Name three animals."}

// solo is what `shoal run` answers to a prompt in one process, greedily.
func solo(ctx context.Context, t *testing.T, prompt string) string {
	t.Helper()
	stdout, stderr, code := shoal(ctx, t, nil, "run", "tiny", prompt, "--temperature", "0", "--max-tokens", fmt.Sprint(maxTokens))
	if code != 0 || len(stdout) < 2 {
		t.Fatalf("shoal run: code %d: %q %s", code, stdout, stderr)
	}
	return strings.TrimSuffix(stdout, "\n")
}

// TestAnswersOfTheCluster asks three shards in every way there is and wants the
// very text that one process gives.
func TestAnswersOfTheCluster(t *testing.T) {
	ctx := within(t, time.Minute)
	c := startCluster(ctx, t)
	want := map[string]string{}
	for _, p := range prompts {
		want[p] = solo(ctx, t, p)
	}
	if want[prompts[0]] == want[prompts[1]] {
		t.Fatal("the prompts have one answer, which proves nothing")
	}
	t.Run("three stages on three nodes", func(t *testing.T) { checkStages(ctx, t, c, shards) })
	t.Run("whole", func(t *testing.T) {
		for _, p := range prompts {
			checkText(t, want[p], func() (string, error) { return c.client().whole(ctx, p) })
		}
	})
	t.Run("streamed", func(t *testing.T) {
		for _, p := range prompts {
			checkText(t, want[p], func() (string, error) { return c.client().streamedText(ctx, p) })
		}
	})
	t.Run("socket", func(t *testing.T) {
		s := c.client().dial(ctx, t)
		for _, p := range prompts { // one socket, one answer after the other
			checkText(t, want[p], func() (string, error) { return s.text(ctx, p) })
		}
	})
	t.Run("many at once", func(t *testing.T) { checkTogether(ctx, t, c.client(), want) })
	t.Run("without a key", func(t *testing.T) {
		if _, err := (client{url: c.url}).whole(ctx, prompts[0]); err == nil || !strings.Contains(err.Error(), "401") {
			t.Errorf("a client without a key gets %v, want 401", err)
		}
	})
}

// modelState is what /v1/models says of a model.
type modelState struct {
	State  string   `json:"state"`
	Layers int      `json:"layers"`
	Stages []string `json:"stages"` // "node/device [first..end) …"
}

// checkStages wants one stage on each of nodes, and all layers once. The gateway
// may remember the stages of a moment ago.
func checkStages(ctx context.Context, t *testing.T, c *system, nodes []string) {
	t.Helper()
	eventually(ctx, t, "wrong stages", func() error {
		var models struct {
			Data []struct {
				ID    string     `json:"id"`
				Shoal modelState `json:"shoal"`
			} `json:"data"`
		}
		if err := c.client().read(ctx, "/v1/models", nil, &models); err != nil {
			return err
		}
		if len(models.Data) != 1 || models.Data[0].ID != "tiny" {
			return fmt.Errorf("models are %+v, want tiny", models)
		}
		return models.Data[0].Shoal.covers(nodes)
	})
}

// covers is an error unless each of nodes has one stage and together they have
// every layer once.
func (m modelState) covers(nodes []string) error {
	if m.State != "ready" || len(m.Stages) != len(nodes) {
		return fmt.Errorf("the model is %s with stages %v, want ready on %v", m.State, m.Stages, nodes)
	}
	seen, layer := map[string]bool{}, 0
	for _, s := range m.Stages {
		place, layers, _ := strings.Cut(s, " ")
		name, _, _ := strings.Cut(place, "/")
		seen[name] = true
		var first, end int
		if _, err := fmt.Sscanf(layers, "[%d..%d)", &first, &end); err != nil || first != layer || end <= first {
			return fmt.Errorf("stage %q does not go on at layer %d", s, layer)
		}
		layer = end
	}
	for _, n := range nodes {
		if !seen[n] {
			return fmt.Errorf("stages %v: none on %s", m.Stages, n)
		}
	}
	if layer != m.Layers {
		return fmt.Errorf("stages %v of %d layers", m.Stages, m.Layers)
	}
	return nil
}

func checkText(t *testing.T, want string, ask func() (string, error)) {
	t.Helper()
	if got, err := ask(); err != nil || got != want {
		t.Errorf("answer %q (%v), want %q", got, err, want)
	}
}

// whole, streamedText and text are greedy answers by the three ways in.
func (c client) whole(ctx context.Context, prompt string) (string, error) {
	a, err := c.complete(ctx, chat(prompt, object{"temperature": 0, "max_tokens": maxTokens}))
	if err != nil {
		return "", err
	}
	return a.Choices[0].Message.Content, nil
}

func (c client) streamedText(ctx context.Context, prompt string) (string, error) {
	s, err := c.stream(ctx, chat(prompt, object{"temperature": 0, "max_tokens": maxTokens}), nil)
	if err == nil && (s.done != 1 || s.finished != 1 || len(s.errors) > 0) {
		err = fmt.Errorf("the stream ended with %+v", s)
	}
	return s.text, err
}

func (s *socket) text(ctx context.Context, prompt string) (string, error) {
	if err := s.send(ctx, object{"prompt": prompt, "temperature": 0, "maxTokens": maxTokens}); err != nil {
		return "", err
	}
	text, end, err := s.answer(ctx, nil)
	if err == nil && (end.Type != "complete" || end.Text != text) {
		err = fmt.Errorf("tokens say %q, the end says %+v", text, end)
	}
	return text, err
}

// checkTogether has clients of all kinds ask at the same time.
func checkTogether(ctx context.Context, t *testing.T, c client, want map[string]string) {
	t.Helper()
	var clients sync.WaitGroup
	gate := make(chan struct{}) // opens for all at once
	for _, p := range prompts {
		s := c.dial(ctx, t)
		for name, ask := range map[string]func() (string, error){
			"whole":    func() (string, error) { return c.whole(ctx, p) },
			"streamed": func() (string, error) { return c.streamedText(ctx, p) },
			"socket":   func() (string, error) { return s.text(ctx, p) },
		} {
			clients.Go(func() {
				<-gate
				if got, err := ask(); err != nil || got != want[p] {
					t.Errorf("%s: answer to %q beside others is %q (%v), want %q", name, p, got, err, want[p])
				}
			})
		}
	}
	close(gate)
	clients.Wait()
}
