package systemtest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// metric reads the sum of a metric's samples from a node's admin listener, and
// whether there are any: a counter that has counted nothing is not shown.
func (n *node) metric(ctx context.Context, name string) (sum float64, found bool, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.admin+"/metrics", nil)
	if err != nil {
		return 0, false, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, false, err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		line := lines.Text()
		if rest, ok := strings.CutPrefix(line, name); !ok || rest == "" || rest[0] != ' ' && rest[0] != '{' {
			continue
		}
		v, err := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64)
		if err != nil {
			return 0, false, fmt.Errorf("metric %q: %w", line, err)
		}
		sum, found = sum+v, true
	}
	return sum, found, lines.Err()
}

// work is what the cluster has computed so far: tokens committed, and rows by
// shard.
type work map[string]float64

// work reads the counters.
func (c *system) work(ctx context.Context, t *testing.T) work {
	t.Helper()
	w := work{}
	read := func(name, metric string) {
		v, _, err := c.nodes[name].metric(ctx, metric)
		if err != nil {
			t.Fatal(err)
		}
		w[name] = v
	}
	read("coordinator", "shoal_tokens_generated_total")
	for _, s := range shards {
		read(s, "shoal_stage_rows_sum")
	}
	return w
}

// since is what was computed between earlier and w.
func (w work) since(earlier work) work {
	d := work{}
	for k, v := range w {
		d[k] = v - earlier[k]
	}
	return d
}

// TestLeavingStopsTheWork leaves a long answer in every way that a client can.
// The cluster then computes nothing for it any more: what it computes for the
// next request is exactly what that request costs alone.
func TestLeavingStopsTheWork(t *testing.T) {
	ctx := within(t, time.Minute)
	c := startCluster(ctx, t)
	short := func() work {
		t.Helper()
		before := c.work(ctx, t)
		if _, err := c.client().whole(ctx, prompts[0]); err != nil {
			t.Fatal(err)
		}
		return c.work(ctx, t).since(before)
	}
	short()
	alone := short()
	for who, n := range alone { // so the counters do count
		if n < maxTokens || who == "coordinator" && n > maxTokens {
			t.Fatalf("a request of %d tokens costs %v", maxTokens, alone)
		}
	}
	for name, leave := range map[string]func(t *testing.T){
		"close handshake":  func(t *testing.T) { leaveSocket(ctx, t, c, func(w *websocket.Conn) error { return w.Close(1000, "") }) },
		"lost connection":  func(t *testing.T) { leaveSocket(ctx, t, c, (*websocket.Conn).CloseNow) },
		"event stream":     func(t *testing.T) { leaveStream(ctx, t, c) },
		"unread, unspoken": func(t *testing.T) { leaveWaiting(ctx, t, c) },
	} {
		t.Run(name, func(t *testing.T) {
			before := c.work(ctx, t)
			leave(t)
			c.waitIdle(ctx, t)
			short() // flushes steps that were in flight
			spent := c.work(ctx, t).since(before).since(alone)
			for who, n := range spent {
				if n < 1 || n > longTokens/2 {
					t.Errorf("%s: %v tokens or rows for an answer of %d that was left after a few", who, n, longTokens)
				}
			}
			if again := short(); !maps.Equal(again, alone) {
				t.Errorf("the next request costs %v, alone it costs %v", again, alone)
			}
			t.Logf("left answer cost %v", spent)
		})
	}
}

// waitIdle waits until no session is left, at the coordinator and at drivers.
func (c *system) waitIdle(ctx context.Context, t *testing.T) {
	t.Helper()
	eventually(ctx, t, "the answer goes on", func() error {
		for metric, who := range map[string][]string{
			"shoal_requests_running": {"coordinator"}, "shoal_requests_waiting": {"coordinator"}, "shoal_sessions": shards,
		} {
			sum, seen := 0.0, false
			for _, name := range who {
				v, found, err := c.nodes[name].metric(ctx, metric)
				if err != nil {
					return err
				}
				sum, seen = sum+v, seen || found
			}
			if sum != 0 || !seen {
				return fmt.Errorf("%s is %v (shown: %v)", metric, sum, seen)
			}
		}
		return nil
	})
}

const enough = 5 // tokens after which a client leaves

func leaveSocket(ctx context.Context, t *testing.T, c *system, leave func(*websocket.Conn) error) {
	t.Helper()
	s := c.client().dial(ctx, t)
	if err := s.send(ctx, longMessage(0)); err != nil {
		t.Fatal(err)
	}
	_, end, err := s.answer(ctx, func(m message) error {
		if m.Seq == enough {
			return errEnough
		}
		return nil
	})
	if !errors.Is(err, errEnough) {
		t.Fatalf("the answer ended with %+v, %v", end, err)
	}
	_ = leave(s.conn) // a handshake may meet tokens that are under way
}

func leaveStream(ctx context.Context, t *testing.T, c *system) {
	t.Helper()
	n := 0
	_, err := c.client().stream(ctx, longChat(1), func(chunk) error {
		if n++; n == enough {
			return errEnough
		}
		return nil
	})
	if !errors.Is(err, errEnough) {
		t.Fatalf("the stream ended: %v", err)
	}
}

// leaveWaiting goes away while the server computes and has not said a word.
func leaveWaiting(ctx context.Context, t *testing.T, c *system) {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	answered := make(chan error, 1)
	before := c.work(ctx, t)
	go func() {
		_, err := c.client().complete(ctx, longChat(2))
		answered <- err
	}()
	eventually(ctx, t, "no token is computed", func() error {
		if n := c.work(ctx, t).since(before)["coordinator"]; n < enough {
			return fmt.Errorf("%v tokens", n)
		}
		return nil
	})
	cancel()
	if err := <-answered; !errors.Is(err, context.Canceled) {
		t.Fatalf("the answer came: %v", err)
	}
}
