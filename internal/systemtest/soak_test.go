package systemtest

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/shoal-llm/shoal/internal/measure"
)

const (
	soakKillEvery   = 30 * time.Second
	soakSampleEvery = 5 * time.Second
	soakWindow      = time.Minute // of which the least sample counts: garbage comes and goes
)

// soakLiving are the processes that TestSoak never kills: what they hold must not grow.
var soakLiving = []string{"coordinator", "gateway", "shard-1"}

// sample is what a process holds at a moment.
type sample struct {
	at   time.Duration // since the begin
	rss  float64       // bytes of memory
	heap float64       // bytes that are reachable, after a collection
}

// TestSoak gives answers of all kinds for long while a shard is killed every half minute:
// every answer is the undisturbed one, and processes that live on hold no more memory and
// goroutines in the end than after a third of it. SHOAL_SOAK says for how long.
func TestSoak(t *testing.T) {
	lasting, err := time.ParseDuration(os.Getenv("SHOAL_SOAK"))
	if err != nil {
		t.Skip("SHOAL_SOAK is no duration: make soak")
	}
	ctx := within(t, 5*time.Minute+lasting+lasting/4)
	c := prepareChaos(ctx, t)
	for _, name := range chaosNodes {
		c.nodes[name].args = append(c.nodes[name].args, "--log-level=warn") // what they write is kept here
	}
	c.startAll(ctx, t)
	r := chaosResult{}
	w := c.startWitnesses(ctx, t) // connections and caches that stay are made
	flowing(ctx, t, w.all)
	w.end(&r)
	before := c.soakIdle(ctx, t)

	w = c.startWitnesses(ctx, t)
	crowd := startCrowd(ctx, t, c, []string{c.url}, 2)
	samples := map[string][]sample{}
	began, kills := time.Now(), 0
	for next := began.Add(soakKillEvery); time.Since(began) < lasting && !t.Failed() && ctx.Err() == nil; {
		if time.Now().After(next) {
			next = next.Add(soakKillEvery)
			name := chaosShards[1+kills%(len(chaosShards)-1)]
			c.nodes[name].kill()
			c.start(t, name)
			kills++
			flowing(ctx, t, w.all)
			c.waitHealthy(ctx, t, name)
		}
		for _, name := range soakLiving {
			samples[name] = append(samples[name], c.sample(ctx, t, name, time.Since(began)))
		}
		pauseFor(ctx, soakSampleEvery)
	}
	w.end(&r)
	crowd.end()
	after := c.soakIdle(ctx, t)
	more := 0.0
	for _, name := range soakLiving {
		more = max(more, after[name]-before[name])
	}
	rss, heap := 0.0, 0.0
	for _, name := range soakLiving {
		s := samples[name]
		s = slices.DeleteFunc(slices.Clone(s), func(s sample) bool { return s.at < lasting/3 })
		byRSS := slope(s, func(s sample) float64 { return s.rss })
		byHeap := slope(s, func(s sample) float64 { return s.heap })
		t.Logf("%s: memory %+.2f %%/h, reachable %+.2f %%/h, goroutines %v, before %v", name, byRSS, byHeap, after[name], before[name])
		rss, heap = max(rss, byRSS), max(heap, byHeap)
	}
	wrong := r.wrong + int(crowd.failed.Load())
	t.Logf("%v with %d kills: %d of %d answers were wrong, %d given up, %d requests refused", lasting, kills, wrong,
		r.all+int(crowd.answers.Load()), r.givenUp, r.refused)
	const allowed = 5 // goroutines
	if more > allowed {
		t.Errorf("%v goroutines more than before, want at most %d", more, allowed)
	}
	if file := os.Getenv("SHOAL_CHAOS_SAVE"); file != "" {
		figure := func(name, unit string, v float64) measure.Figure {
			return measure.Figure{Name: name, Value: v, Unit: fmt.Sprintf("%s, the last run, of %v", unit, lasting), Runs: 1,
				Machine: fmt.Sprintf("%d threads", runtime.NumCPU()), Command: "make soak"}
		}
		err := measure.Save(file, []measure.Figure{
			figure("soak_kills", "shards killed", float64(kills)), figure("soak_wrong", "answers lost, wrong or repeated", float64(wrong)),
			figure("soak_memory_slope", "% an hour, resident memory of the process that grows most after a third", rss),
			figure("soak_heap_slope", "% an hour, reachable memory of the process that grows most after a third", heap),
			figure("soak_goroutines", "goroutines more than before, of the process that has most", more),
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// soakIdle waits until nothing is computed and nothing is given up any more, and returns
// the goroutines of the processes that live.
func (c *system) soakIdle(ctx context.Context, t *testing.T) map[string]float64 {
	t.Helper()
	c.waitIdle(ctx, t)
	c.spreadSoon(ctx, t)
	read := func() (map[string]float64, error) {
		out := map[string]float64{}
		for _, name := range soakLiving {
			n, _, err := c.nodes[name].metric(ctx, "go_goroutines")
			if err != nil {
				return nil, err
			}
			out[name] = n
		}
		return out, nil
	}
	var last map[string]float64
	eventually(ctx, t, "goroutines come and go", func() error {
		earlier, err := read()
		if err != nil {
			return err
		}
		pauseFor(ctx, 2*time.Second)
		if last, err = read(); err != nil {
			return err
		}
		if !maps.Equal(earlier, last) {
			return fmt.Errorf("%v became %v", earlier, last)
		}
		return nil
	})
	return last
}

// sample has a process collect its garbage and reads what it holds.
func (c *system) sample(ctx context.Context, t *testing.T, name string, at time.Duration) sample {
	t.Helper()
	n := c.nodes[name]
	s := sample{at: at}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.admin+"/debug/pprof/heap?gc=1", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if err := resp.Body.Close(); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: its heap: %s, %v", name, resp.Status, err)
	}
	for metric, to := range map[string]*float64{"process_resident_memory_bytes": &s.rss, "go_memstats_heap_alloc_bytes": &s.heap} {
		v, found, err := n.metric(ctx, metric)
		if err != nil || !found {
			t.Fatalf("%s: %s: %v, shown: %v", name, metric, err, found)
		}
		*to = v
	}
	return s
}

// slope is by how much the least of each window grows, in percent of their mean an hour:
// the median of the slopes between all pairs (Theil 1950, Sen 1968), which a few outliers
// do not move. It is 0 where there are less than three windows.
func slope(samples []sample, of func(sample) float64) float64 {
	least := map[int]sample{}
	for _, s := range samples {
		w := int(s.at / soakWindow)
		if l, ok := least[w]; !ok || of(s) < of(l) {
			least[w] = s
		}
	}
	if len(least) < 3 {
		return 0
	}
	points := slices.SortedFunc(maps.Values(least), func(a, b sample) int { return int(a.at - b.at) })
	var slopes []float64
	mean := 0.0
	for i, a := range points {
		mean += of(a) / float64(len(points))
		for _, b := range points[i+1:] {
			slopes = append(slopes, (of(b)-of(a))/(b.at-a.at).Hours())
		}
	}
	return 100 * measure.Median(slopes) / mean
}

// TestSlope holds the slope to series of which it is known.
func TestSlope(t *testing.T) {
	var flat, rising []sample
	for i := range 120 {
		at := time.Duration(i) * soakSampleEvery
		noise := float64(i * 7 % 12) // each window has a sample without
		flat = append(flat, sample{at: at, rss: 1000 + noise})
		rising = append(rising, sample{at: at, rss: 1000 + 100*at.Truncate(soakWindow).Hours() + noise})
	}
	flat[70].rss = 10 // an outlier
	rss := func(s sample) float64 { return s.rss }
	if got := slope(flat, rss); got < -0.5 || got > 0.5 {
		t.Errorf("a flat series rises by %v %%/h", got)
	}
	if got := slope(rising, rss); got < 9 || got > 11 {
		t.Errorf("a series that rises by 10 %%/h rises by %v", got)
	}
	if got := slope(flat[:12], rss); got != 0 {
		t.Errorf("one window has the slope %v", got)
	}
}
