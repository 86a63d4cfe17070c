package systemtest

import (
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestStopInOrder stops the services as compose does, those first that depend on
// others, while an answer is given. It is given to its end, and nobody ends with
// an error.
func TestStopInOrder(t *testing.T) {
	ctx := within(t, time.Minute)
	c := startCluster(ctx, t)
	stop := sync.OnceFunc(func() { c.nodes["gateway"].signal(t, syscall.SIGTERM) })
	s, err := c.client().stream(ctx, longChat(0), func(ch chunk) error {
		if len(ch.Choices) == 1 && ch.Choices[0].Delta.Content != "" {
			stop()
		}
		return nil
	})
	if err != nil || s.done != 1 || s.finished != 1 || len(s.errors) > 0 {
		t.Errorf("the answer ends with %d finish reasons, %d [DONE], errors %v (%v), want all of it", s.finished, s.done, s.errors, err)
	}
	order := append(append([]string{"gateway"}, shards...), "coordinator")
	for i, name := range order {
		for _, later := range order[i+1:] {
			_, depends := readCompose(t)[name].DependsOn[later]
			if others := name != "gateway" && later != "coordinator"; depends == others {
				t.Errorf("%s depends on %s: %v, so compose stops them in another order", name, later, depends)
			}
		}
		if name != "gateway" {
			c.nodes[name].signal(t, syscall.SIGTERM)
		}
		began := time.Now()
		if code := c.nodes[name].exitCode(ctx, t); code != 0 {
			t.Errorf("%s ends with code %d, want 0", name, code)
		}
		t.Logf("%s ended after %v", name, time.Since(began).Round(time.Millisecond))
	}
}
