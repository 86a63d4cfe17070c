package systemtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/shoal-llm/shoal/internal/measure"
)

// What the clients of TestChaos ask for: long answers, and long prompts with
// short answers, so that faults meet decoding and prefill.
const (
	chaosTokens = 400
	chaosPrompt = 400 // words
)

// chaosMemory is what a shard may use: it is enough for one stage.
const chaosMemory = "24MiB"

// chaosStreams is how many answers are given at any time.
const chaosStreams = 8

// chaosRequest is what the i-th client asks for, again and again: half of them
// at a temperature of zero, a quarter of them with a long prompt.
func chaosRequest(i int) request {
	prompt, tokens := fmt.Sprintf("Tell me story number %d.", i), chaosTokens
	if i%4 >= 2 && i >= chaosStreams/2 {
		prompt, tokens = strings.Repeat(fmt.Sprintf("word %d ", i), chaosPrompt/2), chaosTokens/8
	}
	return request{name: fmt.Sprintf("client %d", i), chat: chat(prompt, object{
		"temperature": []float64{0, 0.8}[i%2], "seed": i + 1, "max_tokens": tokens, "logit_bias": object{"0": -100, "2": -100},
	})}
}

// givenUp ends an answer that was being prepared at two deaths in a row: it is
// taken for their cause. Kills in quick succession hit the innocent; that is
// counted by itself.
const givenUp = "request_crashes_shards"

// witness is one client and what it saw.
type witness struct {
	request
	want    string
	tokens  atomic.Int64 // in all answers
	givenUp atomic.Int64 // answers
	refused atomic.Int64 // requests, while there were too few shards
	mu      sync.Mutex
	last    time.Time     // of the last token, or of the request
	pause   time.Duration // the longest since it was asked for; guarded by mu
}

// saw notes a sign of life.
func (w *witness) saw() {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	w.pause = max(w.pause, now.Sub(w.last))
	w.last = now
}

// longest returns the longest pause since the last call, also one that lasts.
func (w *witness) longest() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	pause := max(w.pause, time.Since(w.last))
	w.pause = 0
	return pause
}

// watch asks until stop is closed. Each answer must be the undisturbed one, to
// the last token. It returns how many were not, and how many there were.
func (w *witness) watch(ctx context.Context, t *testing.T, c *system, stop <-chan struct{}) (wrong, all int) {
	for ctx.Err() == nil {
		select {
		case <-stop:
			return wrong, all
		default:
		}
		w.mu.Lock()
		w.last = time.Now()
		w.mu.Unlock()
		all++
		text, err := w.run(ctx, t, c.client(), func() { w.tokens.Add(1); w.saw() })
		switch {
		case err != nil && strings.Contains(err.Error(), givenUp) && strings.HasPrefix(w.want, text):
			w.givenUp.Add(1)
			t.Logf("%s: %v", w.name, err)
		case err != nil && text == "" && strings.Contains(err.Error(), http.StatusText(http.StatusServiceUnavailable)):
			w.refused.Add(1) // there is no answer to lose: it may come again
			pauseFor(ctx, 100*time.Millisecond)
		case err != nil || text != w.want:
			wrong++
			t.Errorf("%s: %v; the text is\n%.300q, want\n%.300q", w.name, err, text, w.want)
		}
	}
	return wrong, all
}

// chaosFault is one kind of harm. It returns the process that it was done to.
type chaosFault struct {
	name  string
	kills int // shards that it kills
	do    func(t *testing.T) (victim string)
}

// chaosFaults are the kinds; processes that are started again live as long as
// whole.
func (c *system) chaosFaults(ctx context.Context, whole *testing.T) []chaosFault {
	kill := func(name string) string {
		c.nodes[name].kill()
		c.start(whole, name)
		return name
	}
	stage := func(i int) func(*testing.T) string {
		return func(t *testing.T) string { return kill(c.stageNodes(ctx, t)[i]) }
	}
	return []chaosFault{
		{"kill_first", 1, stage(0)},
		{"kill_middle", 1, stage(1)},
		{"kill_last", 1, stage(2)},
		{"kill_in_recovery", 2, func(t *testing.T) string {
			nodes := c.stageNodes(ctx, t)
			i := rand.IntN(len(nodes))
			kill(nodes[i])
			pauseFor(ctx, time.Duration(rand.IntN(300))*time.Millisecond)
			return kill(nodes[(i+1)%len(nodes)])
		}},
		{"freeze", 0, func(t *testing.T) string {
			name := c.stageNodes(ctx, t)[rand.IntN(3)]
			c.nodes[name].signal(t, syscall.SIGSTOP)
			pauseFor(ctx, 3*time.Second)
			c.nodes[name].signal(t, syscall.SIGCONT)
			return name
		}},
		{"kill_coordinator", 0, func(*testing.T) string { return kill("coordinator") }},
	}
}

func pauseFor(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// lostAfter returns when the coordinator noticed the first loss of a pipeline
// after begin.
func (c *system) lostAfter(begin time.Time) (time.Time, bool) {
	return c.saidAfter("coordinator", "pipeline lost", begin)
}

// knownAfter returns when the coordinator noticed a fault: a shard that is gone by its
// name, because layouts that are prepared beside may be lost meanwhile too, or by the
// loss of the pipeline that it served, which may be known before.
func (c *system) knownAfter(f chaosFault, victim string, begin time.Time) (time.Time, bool) {
	at, known := c.saidAfter("coordinator", "shard lost", begin, fmt.Sprintf("%q:%q", "shard", victim))
	if f.kills == 0 {
		return at, known
	}
	if lost, ok := c.lostAfter(begin); ok && (!known || lost.Before(at)) {
		return lost, true
	}
	return at, known
}

// saidAfter returns when a node first wrote a message after begin, in a line that holds
// one of some words if any are given.
func (c *system) saidAfter(node, message string, begin time.Time, words ...string) (time.Time, bool) {
	for line := range strings.Lines(c.nodes[node].err.String()) {
		var entry struct {
			Time time.Time
			Msg  string
		}
		if json.Unmarshal([]byte(line), &entry) == nil && entry.Msg == message && entry.Time.After(begin) &&
			(len(words) == 0 || slices.ContainsFunc(words, func(w string) bool { return strings.Contains(line, w) })) {
			return entry.Time, true
		}
	}
	return time.Time{}, false
}

// chaosResult is what came of the faults.
type chaosResult struct {
	command      string // of the figures
	kills        int
	detect, gaps map[string][]float64 // ms, by kind of fault
	wrong, all   int                  // answers
	givenUp      int
	refused      int
	coordinators int // killed
}

// TestChaos does harm to a cluster of three stages and a spare under eight
// streams: every stream is the undisturbed one. SHOAL_CHAOS_FAULTS says how
// often, SHOAL_CHAOS_KINDS by which kinds alone (their names or how they begin,
// separated by commas); with SHOAL_CHAOS_SAVE the figures are added to a file.
func TestChaos(t *testing.T) {
	faults := howMany(t, "SHOAL_CHAOS_FAULTS", "make chaos, make chaos-short")
	ctx := within(t, 2*time.Minute+time.Duration(faults)*15*time.Second)
	c := startChaos(ctx, t)
	kinds := c.chaosFaults(ctx, t)
	result := chaosResult{command: "make chaos"}
	if only := os.Getenv("SHOAL_CHAOS_KINDS"); only != "" {
		result.command += " KINDS=" + only
		kinds = slices.DeleteFunc(kinds, func(f chaosFault) bool {
			return !slices.ContainsFunc(strings.Split(only, ","), func(kind string) bool { return strings.HasPrefix(f.name, kind) })
		})
		if len(kinds) == 0 {
			t.Fatalf("SHOAL_CHAOS_KINDS=%s names no kind of fault", only)
		}
	}
	w := c.startWitnesses(ctx, t)
	for i := range faults {
		c.disturb(ctx, t, kinds[i%len(kinds)], w.all, &result)
		if t.Failed() {
			break
		}
	}
	w.end(&result)
	result.report(t)
}

// witnesses are the clients of a test of faults.
type witnesses struct {
	all            []*witness
	stop           chan struct{}
	clients        sync.WaitGroup
	wrong, answers atomic.Int64
}

// startWitnesses has chaosStreams clients ask until they are ended.
func (c *system) startWitnesses(ctx context.Context, t *testing.T) *witnesses {
	t.Helper()
	w := &witnesses{stop: make(chan struct{})}
	for i := range chaosStreams {
		r := chaosRequest(i)
		w.all = append(w.all, &witness{request: r, want: undisturbed(ctx, t, c, []request{r})[r.name], last: time.Now()})
	}
	for _, one := range w.all {
		w.clients.Go(func() {
			bad, n := one.watch(ctx, t, c, w.stop)
			w.wrong.Add(int64(bad))
			w.answers.Add(int64(n))
		})
	}
	return w
}

// end lets the clients read to the end of their answers, and adds up what came of them.
func (w *witnesses) end(r *chaosResult) {
	close(w.stop)
	w.clients.Wait()
	for _, one := range w.all {
		r.givenUp += int(one.givenUp.Load())
		r.refused += int(one.refused.Load())
	}
	r.wrong, r.all = int(w.wrong.Load()), int(w.answers.Load())
}

// TestNoSpare kills a stage where nothing is in reserve, and starts it again only when the
// survivors have taken its layers and all streams flow. SHOAL_CHAOS_NOSPARE says how often.
func TestNoSpare(t *testing.T) {
	faults := howMany(t, "SHOAL_CHAOS_NOSPARE", "make chaos-no-spare")
	ctx := within(t, 2*time.Minute+time.Duration(faults)*20*time.Second)
	c := prepareCluster(ctx, t)
	head := c.nodes["coordinator"]
	head.args = append(head.args, "--steady=200ms", "--max-losses=0", "--sessions=4", "--replicas=1", "--spares=0")
	for _, name := range services {
		n := c.nodes[name]
		if n.role == "shard" {
			n.args = append(n.args, "--max-mem=64MiB") // two hold the model
		}
		if n.role == "gateway" {
			n.args = append(n.args, "--log-level=warn")
		}
		c.start(t, name)
	}
	c.waitHealthy(ctx, t, services...)
	w := c.startWitnesses(ctx, t)
	r := chaosResult{command: "make chaos-no-spare"}
	const kind = "no_spare"
	for i := range faults {
		flowing(ctx, t, w.all)
		pauseFor(ctx, time.Duration(rand.IntN(1000))*time.Millisecond)
		for _, one := range w.all {
			one.longest()
		}
		victim := c.stageNodes(ctx, t)[i%3]
		began := time.Now()
		c.nodes[victim].kill()
		c.struck(ctx, false, began)
		flowing(ctx, t, w.all)
		gap := time.Duration(0)
		for _, one := range w.all {
			gap = max(gap, one.longest())
		}
		r.kills++
		r.gap(kind, gap)
		if at, ok := c.lostAfter(began); ok {
			r.known(kind, at.Sub(began))
		}
		t.Logf("%s killed without a spare: the longest pause was %v", victim, gap.Round(time.Millisecond))
		c.start(t, victim)
		c.waitHealthy(ctx, t, victim)
		c.spreadSoon(ctx, t)
		if t.Failed() {
			break
		}
	}
	w.end(&r)
	r.report(t)
}

// howMany reads a number from the environment. Without it the test is skipped:
// targets set it.
func howMany(t *testing.T, variable, targets string) int {
	t.Helper()
	n, err := strconv.Atoi(os.Getenv(variable))
	if err != nil {
		t.Skipf("%s is no number: %s", variable, targets)
	}
	return n
}

// chaosNodes are the services of the compose file and one shard more, which is the
// spare.
var (
	chaosShards = append(slices.Clone(shards), "shard-4")
	chaosNodes  = append([]string{"coordinator", "gateway"}, chaosShards...)
)

// prepareChaos makes chaosNodes and starts nothing.
func prepareChaos(ctx context.Context, t *testing.T) *system {
	t.Helper()
	c := prepareCluster(ctx, t)
	head := c.nodes["coordinator"]
	head.args = append(head.args, "--steady=200ms", "--max-losses=0", "--spares=1", "--min-shards=4", "--sessions=4", "--replicas=1")
	c.nodes["gateway"].args = append(c.nodes["gateway"].args, "--log-level=warn") // it writes of each request
	spare := *c.nodes["shard-3"]
	spare.name, spare.grpc, spare.gossip, spare.admin = "shard-4", freeAddr(t), freeAddr(t), freeAddr(t)
	spare.args = append(slices.Clone(spare.args),
		"--node-id=shard-4", "--gossip-addr="+spare.gossip, "--grpc-addr="+spare.grpc, "--admin-addr="+spare.admin)
	c.nodes["shard-4"] = &spare
	for _, name := range chaosShards { // no node can hold all of the model
		c.nodes[name].args = append(c.nodes[name].args, "--max-mem="+chaosMemory)
	}
	return c
}

func startChaos(ctx context.Context, t *testing.T) *system {
	t.Helper()
	c := prepareChaos(ctx, t)
	c.startAll(ctx, t)
	return c
}

// startAll runs chaosNodes and waits until three of them have a stage each.
func (c *system) startAll(ctx context.Context, t *testing.T) {
	t.Helper()
	for _, name := range chaosNodes {
		c.start(t, name)
	}
	c.waitHealthy(ctx, t, services...)
	c.spread(ctx, t)
}

// spread waits until three nodes have a stage each, and returns them in order.
func (c *system) spread(ctx context.Context, t *testing.T) (nodes []string) {
	t.Helper()
	eventually(ctx, t, "the stages are not spread", func() error {
		nodes = c.stageNodes(ctx, t)
		if one := slices.Compact(slices.Sorted(slices.Values(nodes))); len(one) != 3 {
			return fmt.Errorf("they are on %v", nodes)
		}
		return nil
	})
	return nodes
}

// disturb does one fault at a random moment under streams that flow, and waits
// until they flow again.
func (c *system) disturb(ctx context.Context, t *testing.T, f chaosFault, witnesses []*witness, r *chaosResult) {
	t.Helper()
	flowing(ctx, t, witnesses)
	pauseFor(ctx, time.Duration(rand.IntN(1000))*time.Millisecond)
	for _, w := range witnesses {
		w.longest()
	}
	began := time.Now()
	victim := f.do(t)
	c.struck(ctx, f.name == "kill_coordinator", began)
	flowing(ctx, t, witnesses)
	gap := time.Duration(0)
	for _, w := range witnesses {
		gap = max(gap, w.longest())
	}
	r.gap(f.name, gap)
	line := fmt.Sprintf("%s of %s: the longest pause was %v", f.name, victim, gap.Round(time.Millisecond))
	if f.name == "kill_coordinator" {
		r.coordinators++
	} else if at, ok := c.knownAfter(f, victim, began); ok {
		r.known(f.name, at.Sub(began))
		line += fmt.Sprintf(", known after %v", at.Sub(began).Round(time.Millisecond))
	}
	r.kills += f.kills
	t.Log(line)
	c.waitHealthy(ctx, t, victim)
	c.spreadSoon(ctx, t)
}

// struck waits until a fault shows: tokens that were on their way when it came are no
// sign that streams flow again. One that does not show within some seconds did no harm.
func (c *system) struck(ctx context.Context, head bool, began time.Time) {
	patience, message := 3*time.Second, "pipeline lost"
	if head { // which has started again
		patience, message = 15*time.Second, "ready"
	}
	for time.Since(began) < patience && ctx.Err() == nil {
		if _, ok := c.saidAfter("coordinator", message, began); ok {
			return
		}
		pauseFor(ctx, 10*time.Millisecond)
	}
}

// gap and known note how long clients waited for, and how long nobody knew.
func (r *chaosResult) gap(kind string, d time.Duration) {
	if r.gaps == nil {
		r.gaps = map[string][]float64{}
	}
	r.gaps[kind] = append(r.gaps[kind], float64(d.Milliseconds()))
}

func (r *chaosResult) known(kind string, d time.Duration) {
	if r.detect == nil {
		r.detect = map[string][]float64{}
	}
	r.detect[kind] = append(r.detect[kind], float64(d.Milliseconds()))
}

// spreadSoon gives the stages a moment to spread again: with as little memory as nodes
// have here, what serves may leave no room to prepare a better layout beside it.
func (c *system) spreadSoon(ctx context.Context, t *testing.T) {
	for range 10 {
		nodes := c.stageNodes(ctx, t)
		if len(slices.Compact(slices.Sorted(slices.Values(nodes)))) == 3 {
			return
		}
		pauseFor(ctx, 200*time.Millisecond)
	}
}

// flowing waits until each client has got some more tokens.
func flowing(ctx context.Context, t *testing.T, witnesses []*witness) {
	t.Helper()
	const some = 5
	for _, w := range witnesses {
		from := w.tokens.Load()
		eventually(ctx, t, w.name+" gets no tokens", func() error {
			if n := w.tokens.Load() - from; n < some && !t.Failed() {
				return fmt.Errorf("%d tokens", n)
			}
			return nil
		})
	}
}

// report logs what was measured, and adds it to the figures.
func (r *chaosResult) report(t *testing.T) {
	t.Logf("%d kills, %d coordinators killed; %d of %d answers were wrong, %d given up, %d requests refused", r.kills, r.coordinators, r.wrong, r.all, r.givenUp, r.refused)
	file := os.Getenv("SHOAL_CHAOS_SAVE")
	if file == "" {
		return
	}
	figure := func(name, unit string, v float64, runs int) measure.Figure {
		return measure.Figure{Name: name, Value: v, Unit: unit, Runs: runs, Machine: fmt.Sprintf("%d threads", runtime.NumCPU()), Command: r.command}
	}
	sum := func(name, unit string, more int) measure.Figure { return figure(name, unit, float64(more), 1) }
	failedCoordinators := 0
	if r.coordinators > 0 {
		failedCoordinators = r.wrong
	}
	var sums []measure.Figure
	if r.kills > 0 {
		sums = append(sums, sum("kills", "shards killed, accumulated", r.kills))
	}
	if r.coordinators > 0 {
		sums = append(sums, sum("coordinator_kills", "coordinators killed, accumulated", r.coordinators),
			sum("coordinator_kills_failed", "answers that failed in runs with coordinator kills, accumulated", failedCoordinators))
	}
	if n := len(r.gaps["freeze"]); n > 0 {
		sums = append(sums, sum("freeze_cycles", "shards stopped (SIGSTOP) and continued, accumulated", n),
			sum("freeze_stale_tokens", "answers lost, wrong or repeated in runs with frozen shards, accumulated", r.wrong),
			sum("freeze_unnoticed", "frozen shards that nobody took for lost, accumulated", n-len(r.detect["freeze"])))
	}
	sums = append(sums, sum("wrong_tokens", "answers lost, wrong or repeated, accumulated", r.wrong),
		sum("answers_given_up", "answers taken for the cause of two kills in a row, accumulated", r.givenUp),
		sum("requests_refused", "requests that found too few shards to begin, accumulated", r.refused),
		sum("chaos_answers", "answers held against undisturbed ones, accumulated", r.all))
	var figures []measure.Figure
	if v := r.detect["freeze"]; len(v) > 0 {
		figures = append(figures, figure("freeze_lost_min_ms", "ms until a frozen shard was lost, the last run", slices.Min(v), len(v)),
			figure("freeze_lost_max_ms", "ms until a frozen shard was lost, the last run", slices.Max(v), len(v)))
	}
	add := func(name string, of map[string][]float64, only func(kind string) bool) {
		var v []float64
		for kind, w := range of {
			if only(kind) {
				v = append(v, w...)
			}
		}
		if len(v) == 0 {
			return
		}
		slices.Sort(v)
		figures = append(figures, figure(strings.Replace(name, "%", "p50", 1), "ms, the last run", v[len(v)/2], len(v)),
			figure(strings.Replace(name, "%", "p99", 1), "ms, the last run", v[(len(v)*99)/100], len(v)))
	}
	shards := func(kind string) bool { return strings.HasPrefix(kind, "kill_") && kind != "kill_coordinator" }
	add("detect_%_ms", r.detect, shards)
	add("gap_%_ms", r.gaps, shards)
	for kind := range r.gaps {
		one := func(k string) bool { return k == kind }
		add("gap_"+kind+"_%_ms", r.gaps, one)
		add("detect_"+kind+"_%_ms", r.detect, one)
	}
	if err := errors.Join(measure.Add(file, sums), measure.Save(file, figures)); err != nil {
		t.Error(err)
	}
}
