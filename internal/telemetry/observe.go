package telemetry

import (
	"context"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// Measurements are no part of a call that could be cancelled; context.Background
// says so.
var background = context.Background()

// TokenKind is where tokens come from.
type TokenKind int

// The kinds of tokens.
const (
	Prompt    TokenKind = iota // taken in
	Generated                  // committed
)

// RequestWaiting notes that a request waits for admission; call the returned
// function once when it no longer does.
func (t *Telemetry) RequestWaiting() (done func()) {
	t.instruments.requestsWaiting.Add(background, 1)
	return func() { t.instruments.requestsWaiting.Add(background, -1) }
}

// RequestStarted notes that a request is admitted; call the returned function
// once, at its end.
func (t *Telemetry) RequestStarted() (done func()) {
	t.instruments.requestsRunning.Add(background, 1)
	return func() { t.instruments.requestsRunning.Add(background, -1) }
}

// ObserveRequest notes the duration of a request that has ended. errorType is
// the code of its error, one of few, or empty.
func (t *Telemetry) ObserveRequest(op, model, errorType string, d time.Duration) {
	t.instruments.request.Record(background, d.Seconds(), t.labels.of(label{op: op, model: model, err: errorType}))
}

// ObserveTTFT notes the time from a request to its first token.
func (t *Telemetry) ObserveTTFT(op, model string, d time.Duration) {
	t.instruments.ttft.Record(background, d.Seconds(), t.labels.of(label{op: op, model: model}))
}

// ObserveTPOT notes the mean time of a request's tokens after the first.
func (t *Telemetry) ObserveTPOT(op, model string, d time.Duration) {
	t.instruments.tpot.Record(background, d.Seconds(), t.labels.of(label{op: op, model: model}))
}

// ObserveUsage notes how many tokens a request that has ended took in and gave
// out.
func (t *Telemetry) ObserveUsage(op, model string, input, output int) {
	in := label{op: op, model: model, token: "input"}
	out := label{op: op, model: model, token: "output"}
	t.instruments.tokenUsage.Record(background, int64(input), t.labels.of(in))
	t.instruments.tokenUsage.Record(background, int64(output), t.labels.of(out))
	if t.instruments.inputTokens != nil {
		both := t.labels.of(label{op: op, model: model})
		t.instruments.inputTokens.Add(background, int64(input), both)
		t.instruments.outputTokens.Add(background, int64(output), both)
	}
}

// AddTokens counts tokens as they come.
func (t *Telemetry) AddTokens(kind TokenKind, n int) {
	g := &t.gathered
	g.mu.Lock()
	defer g.mu.Unlock()
	if kind == Generated {
		g.generated += int64(n)
	} else {
		g.prompt += int64(n)
	}
}

// ObserveStage notes that a stage computed a step of rows in d. The stage is
// named by its place in the plan, for example "1".
func (t *Telemetry) ObserveStage(stage string, d time.Duration, rows int) {
	t.sample(sample{kind: stageSample, stage: stage, took: d, rows: rows})
}

// ObserveStageWait notes that a stage was idle for d before a frame came.
func (t *Telemetry) ObserveStageWait(stage string, d time.Duration) {
	t.sample(sample{kind: waitSample, stage: stage, took: d})
}

// ObserveHop notes that a frame of n bytes took d from stage to stage.
func (t *Telemetry) ObserveHop(n int, d time.Duration) {
	t.gathered.mu.Lock()
	t.gathered.hopBytes += int64(n)
	t.gathered.mu.Unlock()
	t.sample(sample{kind: hopSample, took: d})
}

// SetKV tells how many cache pages a stage uses and has.
func (t *Telemetry) SetKV(stage string, used, capacity int) {
	g := &t.gathered
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.kv == nil {
		g.kv = map[string]pages{}
	}
	g.kv[stage] = pages{int64(used), int64(capacity)}
}

// AddKVEvictions counts cache pages that were dropped to make room.
func (t *Telemetry) AddKVEvictions(stage string, pages int) {
	t.instruments.kvEvictions.Add(background, int64(pages), t.labels.of(label{stage: stage}))
}

// AddSessions tells how many sessions more, or less, a pipeline computes and holds back.
// A pipeline that ends takes away what it has added.
func (t *Telemetry) AddSessions(running, waiting int) {
	g := &t.gathered
	g.mu.Lock()
	defer g.mu.Unlock()
	g.running, g.waiting, g.counted = g.running+int64(running), g.waiting+int64(waiting), true
}

// Driving is what the drivers of a node have done since it started, and how many
// lanes the last one has.
type Driving struct {
	Drafted, Accepted int // tokens that were guessed, and that held
	Cached            int // prompt tokens that shared prefixes saved
	Lanes             int
}

// AddDriving adds to what drivers have done; the lanes are those in force.
func (t *Telemetry) AddDriving(d Driving) {
	g := &t.gathered
	g.mu.Lock()
	defer g.mu.Unlock()
	g.driving.Drafted += d.Drafted
	g.driving.Accepted += d.Accepted
	g.driving.Cached += d.Cached
	g.driving.Lanes = d.Lanes
}

// SetLayers tells how many layers of a model this node holds.
func (t *Telemetry) SetLayers(model string, n int) {
	t.instruments.shardLayers.Record(background, int64(n), t.labels.of(label{model: model}))
}

// ObserveLoad notes that a stage of a model loaded n bytes of weights in d.
func (t *Telemetry) ObserveLoad(model string, n int64, d time.Duration) {
	at := t.labels.of(label{model: model})
	t.instruments.loadBytes.Add(background, n, at)
	t.instruments.loadDuration.Record(background, d.Seconds(), at)
}

// WatchMembers makes count, which is called from any goroutine, tell how many
// nodes gossip knows and how many it refused, whenever the metrics are read. Of
// several in one process the last is asked.
func (t *Telemetry) WatchMembers(count func() (alive, refused int)) {
	g := &t.gathered
	g.mu.Lock()
	defer g.mu.Unlock()
	g.members = count
}

// label is one combination of attribute values; empty ones are left out.
type label struct{ op, model, token, err, stage, state string }

// maxLabels bounds the combinations of a process. Further ones are all counted
// as "other", so that no client can fill the memory of a metrics store.
const maxLabels = 512

// labels keeps the attributes of the combinations that were seen, so that a
// measurement allocates none.
type labels struct {
	mu   sync.RWMutex
	seen map[label]metric.MeasurementOption // guarded by mu
}

func (l *labels) of(key label) metric.MeasurementOption {
	l.mu.RLock()
	option, ok := l.seen[key]
	l.mu.RUnlock()
	if ok {
		return option
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.seen == nil {
		l.seen = map[label]metric.MeasurementOption{}
	}
	if len(l.seen) >= maxLabels {
		return metric.WithAttributeSet(key.others().set())
	}
	option = metric.WithAttributeSet(key.set())
	l.seen[key] = option
	return option
}

// others replaces the values that come from outside.
func (k label) others() label {
	for _, v := range []*string{&k.op, &k.model, &k.err, &k.stage} {
		if *v != "" {
			*v = "other"
		}
	}
	return k
}

func (k label) set() attribute.Set {
	var attrs []attribute.KeyValue
	for _, a := range []attribute.KeyValue{
		attrOperation.String(k.op), attrModel.String(k.model), attrTokenType.String(k.token),
		attrErrorType.String(k.err), attrStage.String(k.stage), attrState.String(k.state),
	} {
		if a.Value.AsString() != "" {
			attrs = append(attrs, a)
		}
	}
	if k.op != "" {
		attrs = append(attrs, attrProvider.String(providerName))
	}
	return attribute.NewSet(attrs...)
}
