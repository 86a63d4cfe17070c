package systemtest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/shoal-llm/shoal/internal/measure"
)

// held is what processes hold: goroutines, file descriptors and cache pages, by
// process and metric.
type held map[string]float64

func (c *system) held(ctx context.Context) (held, error) {
	h := held{}
	for _, name := range services {
		metrics := []string{"go_goroutines", "process_open_fds"}
		if slices.Contains(shards, name) {
			metrics = append(metrics, "shoal_kv_used")
		}
		for _, metric := range metrics {
			v, found, err := c.nodes[name].metric(ctx, metric)
			if err != nil {
				return nil, err
			}
			if !found {
				return nil, fmt.Errorf("%s does not show %s", name, metric)
			}
			h[name+" "+metric] = v
		}
	}
	return h, nil
}

// beyond is what h holds more than another.
func (h held) beyond(than held) (more held, sum float64) {
	more = held{}
	for k, v := range h {
		if d := v - than[k]; d > 0 {
			more[k] = d
			sum += d
		}
	}
	return more, sum
}

// abort asks for n answers, several at once, and leaves each at a random moment.
func (c *system) abort(ctx context.Context, n int) {
	const atOnce = 8
	work := make(chan int)
	var clients sync.WaitGroup
	for range atOnce {
		clients.Go(func() {
			for i := range work {
				left, leave := context.WithTimeout(ctx, time.Duration(rand.IntN(60_000))*time.Microsecond)
				_, _ = c.client().stream(left, longChat(i%6), nil) // it is left: any end will do
				leave()
			}
		})
	}
	for i := range n {
		work <- i
	}
	close(work)
	clients.Wait()
}

// TestAborts has clients leave at random moments: afterwards every process holds
// what it held before. SHOAL_CHAOS_ABORTS says how many.
func TestAborts(t *testing.T) {
	aborts := howMany(t, "SHOAL_CHAOS_ABORTS", "make chaos-aborts")
	ctx := within(t, 3*time.Minute+time.Duration(aborts)*50*time.Millisecond)
	c := prepareCluster(ctx, t)
	c.nodes["gateway"].args = append(c.nodes["gateway"].args, "--log-level=warn") // it writes of each request
	for _, name := range services {
		c.start(t, name)
	}
	c.waitHealthy(ctx, t, services...)
	c.abort(ctx, 300) // connections and caches that stay are made
	c.waitIdle(ctx, t)
	before := c.settled(ctx, t)
	t.Logf("before: %v", before)
	c.abort(ctx, aborts)
	c.waitIdle(ctx, t)
	var leaks float64
	for range 100 { // until what is on its way out is gone
		h, err := c.held(ctx)
		if err != nil {
			t.Fatal(err)
		}
		var more held
		if more, leaks = h.beyond(before); leaks == 0 {
			break
		}
		t.Logf("more than before: %v", more)
		pauseFor(ctx, 200*time.Millisecond)
	}
	if leaks != 0 {
		t.Errorf("%v goroutines, descriptors and pages are left of %d answers; before it was %v", leaks, aborts, before)
	}
	if file := os.Getenv("SHOAL_CHAOS_SAVE"); file != "" {
		err := measure.Save(file, []measure.Figure{{
			Name: "abort_leaks", Value: leaks, Unit: "goroutines, descriptors and pages more than before", Runs: aborts,
			Machine: fmt.Sprintf("%d threads", runtime.NumCPU()), Command: "make chaos-aborts",
		}})
		if err != nil {
			t.Error(err)
		}
	}
}

// settled waits until nothing is given up any more, and returns what is held.
func (c *system) settled(ctx context.Context, t *testing.T) (h held) {
	t.Helper()
	eventually(ctx, t, "processes go on giving things up", func() error {
		earlier, err := c.held(ctx)
		if err != nil {
			return err
		}
		pauseFor(ctx, time.Second)
		if h, err = c.held(ctx); err != nil {
			return err
		}
		if less, n := earlier.beyond(h); n > 0 {
			return fmt.Errorf("given up meanwhile: %v", less)
		}
		return nil
	})
	return h
}
