package telemetry

import (
	"context"
	"sync"
	"time"

	"go.opentelemetry.io/otel/metric"
)

// maxSamples is how many samples wait before they go into their histograms.
const maxSamples = 64

// gathered holds what is measured with every step and token, until the metrics
// are read or there are many samples: recording them together costs a fraction
// of recording each when the caches hold something else. Its methods may be
// called from any goroutine.
type gathered struct {
	mu        sync.Mutex
	samples   []sample // guarded by mu; at most maxSamples
	prompt    int64    // guarded by mu, as all following
	generated int64
	hopBytes  int64
	running   int64
	waiting   int64
	counted   bool // running and waiting were set
	driving   Driving
	kv        map[string]pages            // by stage
	members   func() (alive, refused int) // nil: nobody counts
	at        [1]metric.RecordOption      // of record
}

// pages are those of a stage's KV cache.
type pages struct{ used, capacity int64 }

// sampleKind says which histograms a sample is for.
type sampleKind uint8

const (
	stageSample sampleKind = iota
	waitSample
	hopSample
)

// sample is one measurement of a step.
type sample struct {
	kind  sampleKind
	stage string
	took  time.Duration
	rows  int
}

// sample keeps a measurement.
func (t *Telemetry) sample(s sample) {
	g := &t.gathered
	g.mu.Lock()
	defer g.mu.Unlock()
	g.samples = append(g.samples, s)
	if len(g.samples) == maxSamples {
		t.record()
	}
}

// record puts the samples into their histograms. The caller holds the lock.
func (t *Telemetry) record() {
	in := &t.instruments
	at := t.gathered.at[:] // of its own for each call, a list would be allocated
	for _, s := range t.gathered.samples {
		switch s.kind {
		case stageSample:
			at[0] = t.labels.of(label{stage: s.stage})
			in.stageDuration.Record(background, s.took.Seconds(), at...)
			in.stageRows.Record(background, int64(s.rows), at...)
		case waitSample:
			at[0] = t.labels.of(label{stage: s.stage})
			in.stageWait.Record(background, s.took.Seconds(), at...)
		case hopSample:
			in.hopDuration.Record(background, s.took.Seconds())
		}
	}
	t.gathered.samples = t.gathered.samples[:0]
}

// collect tells a reader of metrics what was gathered. Readers call it before
// they look at the histograms.
func (t *Telemetry) collect(_ context.Context, to metric.Observer) error {
	g, in := &t.gathered, &t.instruments
	g.mu.Lock()
	defer g.mu.Unlock()
	t.record()
	for _, c := range []struct {
		counter metric.Int64ObservableCounter
		n       int64
	}{{in.tokensPrompt, g.prompt}, {in.tokensGenerated, g.generated}, {in.hopBytes, g.hopBytes}} {
		if c.n > 0 {
			to.ObserveInt64(c.counter, c.n)
		}
	}
	if g.counted {
		to.ObserveInt64(in.sessions, g.running, t.labels.of(label{state: "running"}))
		to.ObserveInt64(in.sessions, g.waiting, t.labels.of(label{state: "waiting"}))
	}
	if d := g.driving; d.Lanes > 0 {
		to.ObserveInt64(in.lanes, int64(d.Lanes))
		to.ObserveInt64(in.drafts, int64(d.Drafted), t.labels.of(label{state: "drafted"}))
		to.ObserveInt64(in.drafts, int64(d.Accepted), t.labels.of(label{state: "accepted"}))
		to.ObserveInt64(in.tokensCached, int64(d.Cached))
	}
	for stage, p := range g.kv {
		at := t.labels.of(label{stage: stage})
		to.ObserveInt64(in.kvUsed, p.used, at)
		to.ObserveInt64(in.kvCapacity, p.capacity, at)
	}
	if g.members != nil {
		alive, refused := g.members()
		to.ObserveInt64(in.members, int64(alive), t.labels.of(label{state: "alive"}))
		to.ObserveInt64(in.members, int64(refused), t.labels.of(label{state: "refused"}))
	}
	return nil
}
