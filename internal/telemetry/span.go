package telemetry

import (
	"context"
	"fmt"

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
	Op, Model    string // for example Chat, "tiny"
	MaxTokens    int
	Temperature  *float64
	TopP         *float64
	Seed         *uint64
	Conversation string // an id that the client gave
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
		attrOperation.String(r.Op), attrProvider.String(providerName), attrModel.String(r.Model),
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
	if r.Conversation != "" {
		attrs = append(attrs, attrConversation.String(r.Conversation))
	}
	ctx, span := t.tracer.Start(ctx, r.Op+" "+r.Model,
		trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(attrs...))
	return ctx, Span{span}
}

// StartStep opens the span of a step in its driver. A step serves many
// requests, so it is a trace of its own that links to theirs.
func (t *Telemetry) StartStep(ctx context.Context, s Step) (context.Context, Span) {
	options := []trace.SpanStartOption{trace.WithNewRoot(), trace.WithAttributes(
		attrPipeline.Int64(int64(s.Pipeline)), attrEpoch.Int64(int64(s.Epoch)),
		attrStep.Int64(int64(s.Step)), attrRows.Int(s.Rows),
	)}
	for _, parent := range s.Requests[:min(len(s.Requests), maxLinks)] {
		if link := trace.LinkFromContext(Extract(context.Background(), parent)); link.SpanContext.IsValid() {
			options = append(options, trace.WithLinks(link))
		}
	}
	ctx, span := t.tracer.Start(ctx, SpanStep, options...)
	return ctx, Span{span}
}

// StartStage opens the span of one stage's part of a step: layers first to end
// (exclusive) on node.
func (t *Telemetry) StartStage(ctx context.Context, node string, first, end int) (context.Context, Span) {
	ctx, span := t.tracer.Start(ctx, fmt.Sprintf("%s %s [%d..%d)", SpanStage, node, first, end),
		trace.WithAttributes(attrNode.String(node), attrFirstLayer.Int(first), attrEndLayer.Int(end)))
	return ctx, Span{span}
}

// StartHop opens the span of a frame of n bytes on its way to node.
func (t *Telemetry) StartHop(ctx context.Context, node string, n int) (context.Context, Span) {
	ctx, span := t.tracer.Start(ctx, SpanHop, trace.WithSpanKind(trace.SpanKindProducer),
		trace.WithAttributes(attrNode.String(node), attrBytes.Int(n)))
	return ctx, Span{span}
}

// Start opens a span with one of the names of this package.
func (t *Telemetry) Start(ctx context.Context, name string) (context.Context, Span) {
	ctx, span := t.tracer.Start(ctx, name)
	return ctx, Span{span}
}

// Answer notes what a request's answer was.
func (s Span) Answer(id, finishReason string, input, output int) {
	s.span.SetAttributes(attrResponseID.String(id), attrFinishReasons.StringSlice([]string{finishReason}),
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
