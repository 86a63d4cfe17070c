package telemetry

import (
	"context"
	"fmt"
	"testing"
	"time"

	metricnoop "go.opentelemetry.io/otel/metric/noop"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

func recording(t *testing.T) (*Telemetry, *tracetest.SpanRecorder) {
	t.Helper()
	recorder := tracetest.NewSpanRecorder()
	tel, err := build(metricnoop.NewMeterProvider(), sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder)), true, nil)
	if err != nil {
		t.Fatal(err)
	}
	return tel, recorder
}

func TestSpansOfARequest(t *testing.T) {
	tel, recorder := recording(t)
	zero, seed := 0.0, uint64(7)
	ctx, request := tel.StartRequest(context.Background(), Request{Op: Chat, Model: "tiny", MaxTokens: 9, Temperature: &zero, Seed: &seed})
	_, queue := tel.Start(ctx, SpanQueue)
	queue.End()
	request.Answer("chat-1", "tiny-q8", "length", 12, 9)
	request.Fail("deadline")
	request.End()
	spans := recorder.Ended()
	if len(spans) != 2 || spans[0].Name() != "queue" || spans[1].Name() != "chat tiny" {
		t.Fatalf("spans %v", spans)
	}
	if spans[0].Parent().SpanID() != spans[1].SpanContext().SpanID() {
		t.Error("the queue is not below the request")
	}
	if spans[1].SpanKind() != trace.SpanKindServer || spans[1].Status().Description != "deadline" {
		t.Errorf("kind %v, status %v", spans[1].SpanKind(), spans[1].Status())
	}
	want := map[string]string{
		"gen_ai.operation.name": "chat", "gen_ai.provider.name": "shoal", "gen_ai.request.model": "tiny",
		"gen_ai.request.max_tokens": "9", "gen_ai.request.temperature": "0", "gen_ai.request.seed": "7",
		"gen_ai.response.id": "chat-1", "gen_ai.response.model": "tiny-q8", "gen_ai.response.finish_reasons": `["length"]`,
		"gen_ai.usage.input_tokens": "12", "gen_ai.usage.output_tokens": "9", "error.type": "deadline",
	}
	got := map[string]string{}
	for _, a := range spans[1].Attributes() {
		got[string(a.Key)] = a.Value.String()
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("attributes\n%v, want\n%v", got, want)
	}
}

func TestStepLinksItsRequests(t *testing.T) {
	tel, recorder := recording(t)
	ctx, request := tel.StartRequest(context.Background(), Request{Op: Chat, Model: "tiny"})
	parents := []string{"junk"}
	for range 2 * maxLinks {
		parents = append(parents, Inject(ctx))
	}
	step := tel.StartStep(ctx, Step{Pipeline: 1, Epoch: 2, Step: 3, Rows: 4, Requests: parents})
	step.EndWith([]StagePart{
		{Node: "desk", First: 0, End: 4, Rows: 4, Wait: time.Millisecond, Compute: 2 * time.Millisecond},
		{Node: "nas", First: 4, End: 8, Rows: 4, Compute: 5 * time.Millisecond},
	})
	request.End()
	spans := recorder.Ended()
	if spans[0].Name() != "stage desk [0..4)" || spans[1].Name() != "stage nas [4..8)" || spans[2].Name() != "step" {
		t.Fatalf("spans %v", spans)
	}
	for i, want := range []time.Duration{2 * time.Millisecond, 5 * time.Millisecond} {
		if took := spans[i].EndTime().Sub(spans[i].StartTime()); took != want {
			t.Errorf("%s took %v, want %v", spans[i].Name(), took, want)
		}
	}
	if wait := spans[0].StartTime().Sub(spans[2].StartTime()); wait != time.Millisecond || spans[1].StartTime().Before(spans[0].EndTime()) {
		t.Errorf("the first stage began after %v, the second at %v after %v", wait, spans[1].StartTime(), spans[0].EndTime())
	}
	if n := len(spans[2].Links()); n != maxLinks-1 {
		t.Errorf("%d links, want %d (one of the first %d is junk)", n, maxLinks-1, maxLinks)
	}
	if spans[2].Links()[0].SpanContext.TraceID().String() != TraceID(ctx) || spans[2].Parent().IsValid() {
		t.Error("a step is not a trace of its own with links to its requests")
	}
	if spans[0].Parent().SpanID() != spans[2].SpanContext().SpanID() {
		t.Error("a stage is not below its step")
	}
}
