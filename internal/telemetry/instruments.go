package telemetry

import (
	"errors"

	"go.opentelemetry.io/otel/metric"
)

// instruments are all measurements of a process. inputTokens and outputTokens
// are nil unless the environment asks for them.
type instruments struct {
	ttft, tpot, request       metric.Float64Histogram
	stageDuration, stageWait  metric.Float64Histogram
	hopDuration, loadDuration metric.Float64Histogram

	tokenUsage, stageRows metric.Int64Histogram

	requestsRunning, requestsWaiting metric.Int64UpDownCounter

	kvEvictions, loadBytes    metric.Int64Counter
	inputTokens, outputTokens metric.Int64Counter

	shardLayers metric.Int64Gauge

	// Of what is gathered:
	tokensPrompt, tokensGenerated, hopBytes metric.Int64ObservableCounter
	drafts, tokensCached                    metric.Int64ObservableCounter
	sessions, lanes, members                metric.Int64ObservableGauge
	kvUsed, kvCapacity                      metric.Int64ObservableGauge
}

func newInstruments(m metric.Meter) (instruments, error) {
	b := builder{meter: m}
	in := instruments{
		ttft:          b.seconds(metricTTFT, "From request to first token.", bucketsTTFT),
		tpot:          b.seconds(metricTPOT, "Per token after the first.", bucketsTPOT),
		request:       b.seconds(metricRequest, "Of a request, to its last token.", bucketsRequest),
		stageDuration: b.seconds(metricStageDuration, "A stage computes one step.", bucketsStage),
		stageWait:     b.seconds(metricStageWait, "A stage waits for its next frame.", bucketsStage),
		hopDuration:   b.seconds(metricHopDuration, "A frame goes from stage to stage.", bucketsStage),
		loadDuration:  b.seconds(metricLoadDuration, "A stage loads its weights.", bucketsLoad),

		tokenUsage: b.histogram(metricTokenUsage, "{token}", "Tokens of a request.", bucketsTokens),
		stageRows:  b.histogram(metricStageRows, "{row}", "Rows of a step.", bucketsRows),

		requestsRunning: b.upDown(metricRequestsRunning, "{request}", "Requests that are admitted."),
		requestsWaiting: b.upDown(metricRequestsWaiting, "{request}", "Requests that wait for admission."),

		kvEvictions: b.counter(metricKVEvictions, "{page}", "Cache pages dropped for others."),
		loadBytes:   b.counter(metricLoadBytes, "By", "Bytes of weights loaded."),

		tokensPrompt:    b.observedCounter(metricTokensPrompt, "{token}", "Prompt tokens taken in."),
		tokensGenerated: b.observedCounter(metricTokensGenerated, "{token}", "Tokens committed."),
		hopBytes:        b.observedCounter(metricHopBytes, "By", "Bytes of frames sent."),
		sessions:        b.observedGauge(metricSessions, "{session}", "Sessions of a pipeline."),
		lanes:           b.observedGauge(metricLanes, "{lane}", "Groups of sessions that decode side by side."),
		drafts:          b.observedCounter(metricDrafts, "{token}", "Tokens that were guessed, and those that held."),
		tokensCached:    b.observedCounter(metricTokensCached, "{token}", "Prompt tokens that a shared prefix saved."),

		kvUsed:      b.observedGauge(metricKVUsed, "{page}", "Cache pages in use."),
		kvCapacity:  b.observedGauge(metricKVCapacity, "{page}", "Cache pages there are."),
		shardLayers: b.gauge(metricShardLayers, "{layer}", "Layers that this node holds."),
		members:     b.observedGauge(metricMembers, "{node}", "Nodes that gossip knows."),
	}
	if newTokenNames() {
		in.inputTokens = b.counter(metricInputTokens, "{token}", "Tokens taken in.")
		in.outputTokens = b.counter(metricOutputTokens, "{token}", "Tokens given out.")
	}
	return in, errors.Join(b.errs...)
}

// builder makes instruments and keeps the errors.
type builder struct {
	meter metric.Meter
	errs  []error
}

func (b *builder) keep(err error) {
	if err != nil {
		b.errs = append(b.errs, err)
	}
}

func (b *builder) seconds(name, what string, buckets []float64) metric.Float64Histogram {
	h, err := b.meter.Float64Histogram(name, metric.WithUnit("s"), metric.WithDescription(what),
		metric.WithExplicitBucketBoundaries(buckets...))
	b.keep(err)
	return h
}

func (b *builder) histogram(name, unit, what string, buckets []float64) metric.Int64Histogram {
	h, err := b.meter.Int64Histogram(name, metric.WithUnit(unit), metric.WithDescription(what),
		metric.WithExplicitBucketBoundaries(buckets...))
	b.keep(err)
	return h
}

func (b *builder) counter(name, unit, what string) metric.Int64Counter {
	c, err := b.meter.Int64Counter(name, metric.WithUnit(unit), metric.WithDescription(what))
	b.keep(err)
	return c
}

func (b *builder) observedCounter(name, unit, what string) metric.Int64ObservableCounter {
	c, err := b.meter.Int64ObservableCounter(name, metric.WithUnit(unit), metric.WithDescription(what))
	b.keep(err)
	return c
}

func (b *builder) observedGauge(name, unit, what string) metric.Int64ObservableGauge {
	g, err := b.meter.Int64ObservableGauge(name, metric.WithUnit(unit), metric.WithDescription(what))
	b.keep(err)
	return g
}

func (b *builder) upDown(name, unit, what string) metric.Int64UpDownCounter {
	c, err := b.meter.Int64UpDownCounter(name, metric.WithUnit(unit), metric.WithDescription(what))
	b.keep(err)
	return c
}

func (b *builder) gauge(name, unit, what string) metric.Int64Gauge {
	g, err := b.meter.Int64Gauge(name, metric.WithUnit(unit), metric.WithDescription(what))
	b.keep(err)
	return g
}
