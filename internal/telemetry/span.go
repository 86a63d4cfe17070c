package telemetry

import (
	"context"
	"fmt"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// maxLinks bounds the requests that a step's span names.
const maxLinks = 32

// Request describes a request for its span. Zero values are left out.
// No text of a user goes into a span.
type Request struct {
	Op, Model   string // for example Chat, "tiny"
	MaxTokens   int
	Temperature *float64
	TopP        *float64
	Seed        *uint64
}

// Step describes a step for its span.
type Step struct {
	Pipeline    uint32
	Epoch, Step uint64
	Rows        int
	Requests    []string // traceparents of the requests in it; the first 32 are linked
}

// Span is a stretch of work in a trace. End must be called once. A span belongs
// to the goroutine that started it.
type Span struct{ span trace.Span }

// StartRequest opens the span of a request at the server, below the trace that
// ctx holds (see Extract) if it holds one.
func (t *Telemetry) StartRequest(ctx context.Context, r Request) (context.Context, Span) {
	attrs := []attribute.KeyValue{
		attrOperation.String(r.Op), attrProvider.String(providerName),
	}
	if r.Model != "" {
		attrs = append(attrs, attrModel.String(r.Model))
	}
	if r.MaxTokens > 0 {
		attrs = append(attrs, attrMaxTokens.Int(r.MaxTokens))
	}
	if r.Temperature != nil {
		attrs = append(attrs, attrTemperature.Float64(*r.Temperature))
	}
	if r.TopP != nil {
		attrs = append(attrs, attrTopP.Float64(*r.TopP))
	}
	if r.Seed != nil {
		attrs = append(attrs, attrSeed.Int64(int64(*r.Seed)))
	}
	ctx, span := t.tracer.Start(ctx, strings.TrimSpace(r.Op+" "+r.Model),
		trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(attrs...))
	return ctx, Span{span}
}

// StepSpan is the span of a step. Either End or EndWith must be called once.
type StepSpan struct {
	Span
	tracer trace.Tracer
	began  time.Time
}

// StartStep opens the span of a step in its driver. A step serves many
// requests, so it is a trace of its own that links to theirs.
func (t *Telemetry) StartStep(ctx context.Context, s Step) StepSpan {
	began := time.Now()
	options := []trace.SpanStartOption{trace.WithNewRoot(), trace.WithTimestamp(began), trace.WithAttributes(
		attrPipeline.Int64(int64(s.Pipeline)), attrEpoch.Int64(int64(s.Epoch)),
		attrStep.Int64(int64(s.Step)), attrRows.Int(s.Rows),
	)}
	for _, parent := range s.Requests[:min(len(s.Requests), maxLinks)] {
		if link := trace.LinkFromContext(Extract(context.Background(), parent)); link.SpanContext.IsValid() {
			options = append(options, trace.WithLinks(link))
		}
	}
	_, span := t.tracer.Start(ctx, SpanStep, options...)
	return StepSpan{Span{span}, t.tracer, began}
}

// StagePart is what one stage did of a step, by its own clock.
type StagePart struct {
	Node       string
	First, End int           // layers [First, End)
	Rows       int           // that it computed
	Wait       time.Duration // of the frame for the device
	Compute    time.Duration
}

// EndWith closes the span of a step, with a span below it for each stage's
// computation. Stages are on machines with clocks of their own, so their lengths
// are measured and their places are not: they stand in order, and what nobody
// waited or computed, which is the time of the hops, is shared out evenly
// between them.
func (s StepSpan) EndWith(parts []StagePart) {
	end := time.Now()
	hops := end.Sub(s.began)
	for _, p := range parts {
		hops -= p.Wait + p.Compute
	}
	hop := max(0, hops) / time.Duration(max(1, len(parts)))
	ctx, at := trace.ContextWithSpan(context.Background(), s.span), s.began
	for _, p := range parts {
		at = at.Add(p.Wait)
		_, part := s.tracer.Start(ctx, fmt.Sprintf("%s %s [%d..%d)", SpanStage, p.Node, p.First, p.End),
			trace.WithTimestamp(at), trace.WithAttributes(
				attrNode.String(p.Node), attrFirstLayer.Int(p.First), attrEndLayer.Int(p.End),
				attrRows.Int(p.Rows), attrWait.Float64(p.Wait.Seconds())))
		at = at.Add(p.Compute)
		part.End(trace.WithTimestamp(at))
		at = at.Add(hop)
	}
	s.span.End(trace.WithTimestamp(end))
}

// Start opens a span with one of the names of this package.
func (t *Telemetry) Start(ctx context.Context, name string) (context.Context, Span) {
	ctx, span := t.tracer.Start(ctx, name)
	return ctx, Span{span}
}

// Answer notes what a request's answer was, and which model gave it.
func (s Span) Answer(id, model, finishReason string, input, output int) {
	s.span.SetAttributes(attrResponseID.String(id), attrResponseModel.String(model), attrFinishReasons.StringSlice([]string{finishReason}),
		attrInputTokens.Int(input), attrOutputTokens.Int(output))
}

// Fail marks the span as failed with an error code, one of few.
func (s Span) Fail(errorType string) {
	s.span.SetAttributes(attrErrorType.String(errorType))
	s.span.SetStatus(codes.Error, errorType)
}

// End closes the span.
func (s Span) End() { s.span.End() }

// Inject returns the W3C traceparent of the span in ctx, or "" without one.
// See https://www.w3.org/TR/trace-context/.
func Inject(ctx context.Context) string {
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	return carrier["traceparent"]
}

// Extract returns ctx as a continuation of the trace that a W3C traceparent
// names, or ctx when it names none.
func Extract(ctx context.Context, traceparent string) context.Context {
	return propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{"traceparent": traceparent})
}

// TraceID returns the 32 hexadecimal digits of the trace in ctx, or "" without
// one. It is the request id that clients see.
func TraceID(ctx context.Context) string {
	span := trace.SpanContextFromContext(ctx)
	if !span.HasTraceID() {
		return ""
	}
	return span.TraceID().String()
}
