// Package telemetry is how Shoal is watched: traces, metrics and logs.
//
// A Telemetry is a value that is passed to whoever observes; nothing is global.
// Metrics are always there for Prometheus, on the admin listener. Where traces
// and metrics are sent besides is a matter of OpenTelemetry's environment
// variables (OTEL_TRACES_EXPORTER, OTEL_EXPORTER_OTLP_ENDPOINT and so on);
// without any of them nothing is sent and no connection is tried.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/contrib/exporters/autoexport"
	promexporter "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// Options say which process is watched.
type Options struct {
	ServiceName string // for example "shoal"; OTEL_SERVICE_NAME goes before it
	Version     string
	NodeID      string
	Role        string // empty when the process holds several
}

// Telemetry observes one process. Its methods may be called from any goroutine
// and never block on an exporter.
type Telemetry struct {
	tracer      trace.Tracer
	instruments instruments
	labels      labels
	gathered    gathered
	tracing     bool // spans are kept, not only their ids
	handler     http.Handler
}

// New starts the telemetry of a process. The returned function sends what is
// left and ends it; call it once, with a deadline.
func New(ctx context.Context, opts Options) (*Telemetry, func(context.Context) error, error) {
	if disabled() {
		return Nop(), func(context.Context) error { return nil }, nil
	}
	res, err := describe(ctx, opts)
	if err != nil {
		return nil, nil, fmt.Errorf("telemetry: describe process: %w", err)
	}
	traces, tracing, err := newTraces(ctx, res)
	if err != nil {
		return nil, nil, fmt.Errorf("telemetry: OTEL_TRACES_EXPORTER: %w", err)
	}
	registry := prometheus.NewRegistry()
	metrics, err := newMetrics(ctx, res, registry)
	if err != nil {
		return nil, nil, fmt.Errorf("telemetry: OTEL_METRICS_EXPORTER: %w", errors.Join(err, traces.Shutdown(ctx)))
	}
	stop := func(ctx context.Context) error {
		return errors.Join(traces.Shutdown(ctx), metrics.Shutdown(ctx))
	}
	t, err := build(metrics, traces, tracing, promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	if err != nil {
		return nil, nil, fmt.Errorf("telemetry: %w", errors.Join(err, stop(ctx)))
	}
	return t, stop, nil
}

// Nop returns a Telemetry that forgets everything. It still gives requests
// trace ids.
func Nop() *Telemetry {
	t, err := build(metricnoop.NewMeterProvider(), idsOnly(nil), false, http.NotFoundHandler())
	if err != nil {
		panic("telemetry: " + err.Error()) // the no-op meter refuses nothing
	}
	return t
}

func build(metrics metric.MeterProvider, traces trace.TracerProvider, tracing bool, handler http.Handler) (*Telemetry, error) {
	meter := metrics.Meter(scopeName)
	in, err := newInstruments(meter)
	if err != nil {
		return nil, err
	}
	t := &Telemetry{tracer: traces.Tracer(scopeName), instruments: in, handler: handler, tracing: tracing}
	if _, err := meter.RegisterCallback(t.collect, in.tokensPrompt, in.tokensGenerated, in.hopBytes, in.sessions, in.lanes, in.drafts, in.tokensCached, in.members, in.kvUsed, in.kvCapacity); err != nil {
		return nil, err
	}
	return t, nil
}

// Tracing reports whether spans are kept. Without, they only carry the ids of
// requests, and those that no request needs may be left out.
func (t *Telemetry) Tracing() bool { return t.tracing }

// Handler answers with the metrics in Prometheus' text format.
func (t *Telemetry) Handler() http.Handler { return t.handler }

func describe(ctx context.Context, opts Options) (*resource.Resource, error) {
	attrs := []resource.Option{resource.WithTelemetrySDK(), resource.WithAttributes(
		attrServiceName.String(opts.ServiceName),
		attrServiceVersion.String(opts.Version),
		attrServiceInstance.String(opts.NodeID),
	)}
	if opts.Role != "" {
		attrs = append(attrs, resource.WithAttributes(attrRole.String(opts.Role)))
	}
	return resource.New(ctx, append(attrs, resource.WithFromEnv())...)
}

// idsOnly gives spans an id and records none of them.
func idsOnly(res *resource.Resource) *sdktrace.TracerProvider {
	if res == nil {
		res = resource.Empty()
	}
	return sdktrace.NewTracerProvider(sdktrace.WithResource(res), sdktrace.WithSampler(sdktrace.NeverSample()))
}

// newTraces also reports whether spans are kept.
func newTraces(ctx context.Context, res *resource.Resource) (*sdktrace.TracerProvider, bool, error) {
	if !exports("OTEL_TRACES_EXPORTER") {
		return idsOnly(res), false, nil
	}
	exporter, err := autoexport.NewSpanExporter(ctx)
	if err != nil {
		return nil, false, err
	}
	if autoexport.IsNoneSpanExporter(exporter) {
		return idsOnly(res), false, nil
	}
	return sdktrace.NewTracerProvider(sdktrace.WithResource(res), sdktrace.WithBatcher(exporter)), true, nil
}

func newMetrics(ctx context.Context, res *resource.Resource, registry *prometheus.Registry) (*sdkmetric.MeterProvider, error) {
	for _, c := range []prometheus.Collector{
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	} {
		if err := registry.Register(c); err != nil {
			return nil, err
		}
	}
	local, err := promexporter.New(promexporter.WithRegisterer(registry), promexporter.WithoutScopeInfo())
	if err != nil {
		return nil, err
	}
	options := []sdkmetric.Option{sdkmetric.WithResource(res), sdkmetric.WithReader(local)}
	if exports("OTEL_METRICS_EXPORTER") {
		reader, err := autoexport.NewMetricReader(ctx)
		if err != nil {
			return nil, err
		}
		options = append(options, sdkmetric.WithReader(reader))
	}
	return sdkmetric.NewMeterProvider(options...), nil
}

// exports reports whether the environment asks for an exporter: by name, or by
// saying where OTLP goes.
func exports(variable string) bool {
	if name := os.Getenv(variable); name != "" {
		return name != "none"
	}
	return slices.ContainsFunc(os.Environ(), func(entry string) bool {
		name, value, _ := strings.Cut(entry, "=")
		return strings.HasPrefix(name, "OTEL_EXPORTER_OTLP_") && value != ""
	})
}

func disabled() bool { return strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") }

// newTokenNames reports whether the environment asks for the conventions' newer
// names beside those that dashboards know.
func newTokenNames() bool {
	names := strings.Split(os.Getenv("OTEL_SEMCONV_STABILITY_OPT_IN"), ",")
	return slices.Contains(names, "gen_ai_latest_experimental")
}
