package systemtest

import (
	"context"
	"errors"
	"fmt"
	"io"
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
	soakKillEvery = 30 * time.Second
	soakRound     = 2 * time.Minute  // of load, and then a look at what is held without
	soakRounds    = 5                // at least
	soakLeast     = 10 * time.Minute // whose slopes say something: shorter runs save no figures
	soakWindow    = time.Minute      // of samples, of which the least counts
)

// soakLiving are the processes that TestSoak never kills: what they hold must not grow.
var soakLiving = []string{"coordinator", "gateway", "shard-1"}

// sample is what a process holds at a moment.
type sample struct {
	at         time.Duration // since the begin
	rss        float64       // bytes of memory
	heap       float64       // bytes that are reachable, after a collection
	goroutines float64
	stage      int // that a shard has, -1 for none: it has streams to its neighbours
}

// TestSoak gives answers of all kinds for long while a shard is killed every half minute:
// every answer is the undisturbed one, and processes that live on hold no more memory and
// goroutines in the end than after a third of it. Load comes in rounds, so that what is held
// without any can be compared. SHOAL_SOAK says for how long.
func TestSoak(t *testing.T) {
	lasting, err := time.ParseDuration(os.Getenv("SHOAL_SOAK"))
	if err != nil {
		t.Skip("SHOAL_SOAK is no duration: make soak")
	}
	ctx := within(t, 5*time.Minute+2*lasting)
	c := prepareChaos(ctx, t)
	for _, name := range chaosNodes {
		c.nodes[name].args = append(c.nodes[name].args, "--log-level=warn") // what they write is kept here
	}
	c.startAll(ctx, t)
	k := &soak{system: c, began: time.Now(), samples: map[string][]sample{}}
	k.next = k.began.Add(soakKillEvery)
	for n := max(soakRounds, int(lasting/soakRound)); n > 0 && !t.Failed() && ctx.Err() == nil; n-- {
		k.round(ctx, t, lasting/time.Duration(max(soakRounds, int(lasting/soakRound))))
	}
	rss, heap, more := 0.0, 0.0, 0.0
	for _, name := range soakLiving {
		all := k.samples[name]
		s := all[len(all)/3:]
		byRSS := slope(s, func(s sample) float64 { return s.rss })
		byHeap := slope(s, func(s sample) float64 { return s.heap })
		last := s[len(s)-1]
		first := s[slices.IndexFunc(s, func(s sample) bool { return s.stage == last.stage })]
		before, after := first.goroutines, last.goroutines
		t.Logf("%s: memory %+.2f %%/h, reachable %+.2f %%/h, goroutines %v, before %v; reachable KiB %v", name, byRSS, byHeap, after, before, kib(all))
		rss, heap, more = max(rss, byRSS), max(heap, byHeap), max(more, after-before)
	}
	t.Logf("%v with %d kills: %d of %d answers were wrong, %d given up, %d requests refused", lasting, k.kills, k.result.wrong,
		k.result.all, k.result.givenUp, k.result.refused)
	kills, wrong := k.kills, k.result.wrong
	const allowed = 5 // goroutines
	if more > allowed {
		t.Errorf("%v goroutines more than before, want at most %d", more, allowed)
	}
	if file := os.Getenv("SHOAL_CHAOS_SAVE"); file != "" && lasting >= soakLeast {
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

// soak is a run of TestSoak.
type soak struct {
	*system
	began   time.Time
	next    time.Time // kill
	kills   int
	result  chaosResult
	samples map[string][]sample
}

// round is some time of load, and then a look at what is held.
func (k *soak) round(ctx context.Context, t *testing.T, lasting time.Duration) {
	t.Helper()
	w := k.startWitnesses(ctx, t)
	crowd := startCrowd(ctx, t, k.system, []string{k.url}, 2)
	for end := time.Now().Add(lasting); time.Now().Before(end) && !t.Failed() && ctx.Err() == nil; pauseFor(ctx, 100*time.Millisecond) {
		if time.Now().Before(k.next) {
			continue
		}
		k.next = time.Now().Add(soakKillEvery)
		name := chaosShards[1+k.kills%(len(chaosShards)-1)]
		k.nodes[name].kill()
		k.start(t, name)
		k.kills++
		flowing(ctx, t, w.all)
		k.waitHealthy(ctx, t, name)
	}
	var r chaosResult
	w.end(&r)
	crowd.end()
	k.result.wrong += r.wrong + int(crowd.failed.Load())
	k.result.all += r.all + int(crowd.answers.Load())
	k.result.givenUp += r.givenUp
	k.result.refused += r.refused
	k.look(ctx, t)
}

// look waits until nothing is computed, and notes what the processes that live hold.
func (k *soak) look(ctx context.Context, t *testing.T) {
	t.Helper()
	k.waitIdle(ctx, t)
	k.spreadSoon(ctx, t)
	var now map[string]sample
	eventually(ctx, t, "goroutines come and go", func() error {
		before := k.sampleAll(ctx, t)
		pauseFor(ctx, 2*time.Second)
		now = k.sampleAll(ctx, t)
		for name, s := range now {
			if s.goroutines != before[name].goroutines {
				return fmt.Errorf("%s had %v and has %v", name, before[name].goroutines, s.goroutines)
			}
		}
		return nil
	})
	stages := k.stageNodes(ctx, t)
	for name, s := range now {
		s.stage = slices.Index(stages, name)
		k.samples[name] = append(k.samples[name], s)
	}
}

func (k *soak) sampleAll(ctx context.Context, t *testing.T) map[string]sample {
	t.Helper()
	out := map[string]sample{}
	for _, name := range soakLiving {
		out[name] = k.sample(ctx, t, name, time.Since(k.began))
	}
	return out
}

func kib(samples []sample) (out []int) {
	for _, s := range samples {
		out = append(out, int(s.heap)>>10)
	}
	return out
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
	_, err = io.Copy(io.Discard, resp.Body) // else the connection ends, and a goroutine with it
	if err = errors.Join(err, resp.Body.Close()); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: its heap: %s, %v", name, resp.Status, err)
	}
	for metric, to := range map[string]*float64{
		"process_resident_memory_bytes": &s.rss, "go_memstats_heap_alloc_bytes": &s.heap, "go_goroutines": &s.goroutines,
	} {
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
		at := time.Duration(i) * soakWindow / 12
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
