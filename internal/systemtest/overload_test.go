package systemtest

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shoal-llm/shoal/internal/measure"
)

// What TestOverload asks for, and how long a request may wait for a place: the longest
// time to the first token that is aimed at.
const (
	overloadTokens = 48
	overloadWait   = 2 * time.Second
	overloadTimes  = 3 // as many requests as there can be answers
)

// load is what came of requests.
type load struct {
	mu               sync.Mutex
	tokens           int
	answers, refused int
	failed           []string
	firsts, refusals []time.Duration // to the first token, to the refusal
	late             int             // refusals after a wait: places came free more slowly than before
	began, ended     time.Time
}

// ask makes one request.
func (l *load) ask(ctx context.Context, c client, i int) {
	began := time.Now()
	first := time.Duration(0)
	tokens := 0
	body := chat(fmt.Sprintf("Question %d.", i), object{"max_tokens": overloadTokens, "logit_bias": object{"0": -100, "2": -100}})
	s, err := c.stream(ctx, body, func(ch chunk) error {
		if first == 0 {
			first = time.Since(began)
		}
		tokens++
		return nil
	})
	took := time.Since(began)
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err == nil && s.done == 1:
		l.answers++
		l.tokens += tokens
		l.firsts = append(l.firsts, first)
	case err != nil && strings.Contains(err.Error(), http.StatusText(http.StatusTooManyRequests)):
		l.refused++
		l.refusals = append(l.refusals, took)
	case err != nil && strings.Contains(err.Error(), `"no_capacity"`):
		l.late++
	case ctx.Err() == nil:
		l.failed = append(l.failed, fmt.Sprint(err, s.errors))
	}
}

func (l *load) rate() float64 { return float64(l.tokens) / l.ended.Sub(l.began).Seconds() }

func quantile(d []time.Duration, q float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	slices.Sort(d)
	return d[min(len(d)-1, int(float64(len(d))*q))]
}

// TestOverload asks for three times as much as the cluster can give: it goes on giving
// that, whoever is answered does not wait for long, and the others are told at once.
// SHOAL_CHAOS_OVERLOAD says for how many seconds.
func TestOverload(t *testing.T) {
	seconds := howMany(t, "SHOAL_CHAOS_OVERLOAD", "make chaos-overload")
	ctx := within(t, 3*time.Minute+time.Duration(seconds)*time.Second)
	c := prepareCluster(ctx, t)
	c.nodes["coordinator"].args = append(c.nodes["coordinator"].args, fmt.Sprintf("--max-wait=%v", overloadWait), "--sessions=8")
	for _, name := range services {
		if n := c.nodes[name]; n.role == "gateway" {
			n.args = append(n.args, "--log-level=warn")
		}
		c.start(t, name)
	}
	c.waitHealthy(ctx, t, services...)
	peak := &load{}
	closed(ctx, c, peak, 24, 15*time.Second)
	perSecond := float64(peak.answers) / peak.ended.Sub(peak.began).Seconds()
	over := &load{}
	open(ctx, c, over, overloadTimes*perSecond, time.Duration(seconds)*time.Second)
	goodput := over.rate() / peak.rate()
	t.Logf("peak: %.0f tokens/s, %.1f answers/s; at %d times that: %.0f tokens/s (%.2f), %d answers, %d refusals; first token p50 %v p99 %v; refused p50 %v p99 %v, %d after a wait",
		peak.rate(), perSecond, overloadTimes, over.rate(), goodput, over.answers, over.refused,
		quantile(over.firsts, .5), quantile(over.firsts, .99), quantile(over.refusals, .5), quantile(over.refusals, .99), over.late)
	if len(over.failed) > 0 {
		t.Errorf("%d requests failed otherwise than by a refusal: %.300q", len(over.failed), over.failed[0])
	}
	if over.answers == 0 || over.refused == 0 {
		t.Errorf("%d answers and %d refusals: nothing was overloaded", over.answers, over.refused)
	}
	file := os.Getenv("SHOAL_CHAOS_SAVE")
	if file == "" || t.Failed() {
		return
	}
	figure := func(name, unit string, v float64) measure.Figure {
		return measure.Figure{Name: name, Value: v, Unit: unit, Runs: 1, Machine: fmt.Sprintf("%d threads", runtime.NumCPU()), Command: "make chaos-overload"}
	}
	ms := func(d time.Duration) float64 { return float64(d.Milliseconds()) }
	err := measure.Save(file, []measure.Figure{
		figure("overload_goodput", fmt.Sprintf("of the tokens a second without overload, %d s of %d times as many requests as answers", seconds, overloadTimes), goodput),
		figure("overload_ttft_p99_ms", fmt.Sprintf("ms to the first token of those answered, --max-wait %v", overloadWait), ms(quantile(over.firsts, .99))),
		figure("overload_refused_late", "of the refusals, after a wait", float64(over.late)/float64(over.late+over.refused)),
		figure("overload_refusal_p99_ms", "ms to the refusal of the others", ms(quantile(over.refusals, .99))),
	})
	if err != nil {
		t.Error(err)
	}
}

// closed has n clients ask again and again.
func closed(ctx context.Context, c *system, l *load, n int, lasting time.Duration) {
	l.began = time.Now()
	var clients sync.WaitGroup
	for i := range n {
		clients.Go(func() {
			for j := 0; time.Since(l.began) < lasting && ctx.Err() == nil; j++ {
				l.ask(ctx, c.client(), 1000*i+j)
			}
		})
	}
	clients.Wait()
	l.ended = time.Now()
}

// open has so many requests come each second, whatever becomes of them.
func open(ctx context.Context, c *system, l *load, perSecond float64, lasting time.Duration) {
	l.began = time.Now()
	var clients sync.WaitGroup
	for i := 0; time.Since(l.began) < lasting && ctx.Err() == nil; i++ {
		due := l.began.Add(time.Duration(float64(i) / perSecond * float64(time.Second)))
		pauseFor(ctx, time.Until(due))
		clients.Go(func() { l.ask(ctx, c.client(), i) })
	}
	l.ended = time.Now() // what is answered later counts too: it was computed before, by others' places
	clients.Wait()
}
