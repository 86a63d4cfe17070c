package telemetry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"
)

// withoutOTEL clears OpenTelemetry's environment for a test.
func withoutOTEL(t *testing.T) {
	t.Helper()
	for _, entry := range os.Environ() {
		if name, _, _ := strings.Cut(entry, "="); strings.HasPrefix(name, "OTEL_") {
			t.Setenv(name, "")
		}
	}
}

func start(t *testing.T) *Telemetry {
	t.Helper()
	tel, stop, err := New(t.Context(), Options{ServiceName: "shoal", Version: "1.2.3", NodeID: "nas", Role: "shard"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := stop(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
	return tel
}

func scrape(t *testing.T, tel *Telemetry) string {
	t.Helper()
	w := httptest.NewRecorder()
	tel.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	return w.Body.String()
}

// wantLines checks that each line occurs as it is.
func wantLines(t *testing.T, text string, lines ...string) {
	t.Helper()
	all := "\n" + text
	for _, line := range lines {
		if !strings.Contains(all, "\n"+line+"\n") {
			t.Errorf("no line %q", line)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
}

func TestMetricsText(t *testing.T) {
	withoutOTEL(t)
	tel := start(t)
	done := tel.RequestStarted()
	tel.RequestStarted()
	done()
	tel.RequestWaiting()()
	tel.ObserveTTFT(Chat, "tiny", 30*time.Millisecond)
	tel.ObserveTPOT(Chat, "tiny", 20*time.Millisecond)
	tel.ObserveRequest(Chat, "tiny", "", 2*time.Second)
	tel.ObserveRequest(Chat, "tiny", "shard_lost", time.Second)
	tel.ObserveUsage(Chat, "tiny", 12, 345)
	tel.AddTokens(Prompt, 12)
	tel.AddTokens(Generated, 300)
	tel.AddTokens(Generated, 45)
	tel.ObserveStage("1", 3*time.Millisecond, 9)
	tel.ObserveStageWait("1", time.Millisecond)
	tel.ObserveHop(4096, 400*time.Microsecond)
	tel.SetKV("1", 3, 64)
	tel.AddKVEvictions("1", 2)
	tel.AddSessions(6, 5)
	tel.AddSessions(-2, 0)
	tel.AddDriving(Driving{Drafted: 4, Accepted: 3, Lanes: 1})
	tel.AddDriving(Driving{Drafted: 5, Accepted: 3, Cached: 64, Lanes: 2})
	tel.SetLayers("tiny", 6)
	tel.ObserveLoad("tiny", 1000, time.Second)
	tel.WatchMembers(func() (int, int) { return 9, 9 })
	tel.WatchMembers(func() (int, int) { return 3, 1 })
	const op = `gen_ai_operation_name="chat",gen_ai_provider_name="shoal",gen_ai_request_model="tiny"`
	wantLines(t, scrape(t, tel),
		`gen_ai_server_time_to_first_token_seconds_bucket{`+op+`,le="0.02"} 0`,
		`gen_ai_server_time_to_first_token_seconds_bucket{`+op+`,le="0.04"} 1`,
		`gen_ai_server_time_to_first_token_seconds_sum{`+op+`} 0.03`,
		`gen_ai_server_time_per_output_token_seconds_bucket{`+op+`,le="0.025"} 1`,
		`gen_ai_server_request_duration_seconds_bucket{`+op+`,le="2.56"} 1`,
		`gen_ai_server_request_duration_seconds_count{error_type="shard_lost",`+op+`} 1`,
		`gen_ai_client_token_usage_sum{`+op+`,gen_ai_token_type="input"} 12`,
		`gen_ai_client_token_usage_bucket{`+op+`,gen_ai_token_type="output",le="256"} 0`,
		`gen_ai_client_token_usage_bucket{`+op+`,gen_ai_token_type="output",le="1024"} 1`,
		`shoal_requests_running 1`,
		`shoal_requests_waiting 0`,
		`shoal_tokens_prompt_total 12`,
		`shoal_tokens_generated_total 345`,
		`shoal_stage_duration_seconds_sum{shoal_stage="1"} 0.003`,
		`shoal_stage_wait_seconds_count{shoal_stage="1"} 1`,
		`shoal_stage_rows_sum{shoal_stage="1"} 9`,
		`shoal_hop_bytes_total 4096`,
		`shoal_hop_duration_seconds_bucket{le="0.0005"} 1`,
		`shoal_kv_used{shoal_stage="1"} 3`,
		`shoal_kv_capacity{shoal_stage="1"} 64`,
		`shoal_kv_evictions_total{shoal_stage="1"} 2`,
		`shoal_sessions{shoal_state="running"} 4`,
		`shoal_sessions{shoal_state="waiting"} 5`,
		`shoal_lanes 2`,
		`shoal_drafts_total{shoal_state="accepted"} 6`,
		`shoal_drafts_total{shoal_state="drafted"} 9`,
		`shoal_tokens_cached_total 64`,
		`shoal_shard_layers{gen_ai_request_model="tiny"} 6`,
		`shoal_model_load_bytes_total{gen_ai_request_model="tiny"} 1000`,
		`shoal_gossip_members{shoal_state="alive"} 3`,
		`shoal_gossip_members{shoal_state="refused"} 1`,
	)
	text := scrape(t, tel)
	for _, part := range []string{`service_instance_id="nas"`, `shoal_role="shard"`, "go_goroutines ", "process_start_time_seconds "} {
		if !strings.Contains(text, part) {
			t.Errorf("no %q in the metrics", part)
		}
	}
	if strings.Contains(text, "inference_usage") {
		t.Error("the newer names are there without being asked for")
	}
}

// TestManySteps: none of the gathered samples is lost or counted twice, however
// often the metrics are read.
func TestManySteps(t *testing.T) {
	withoutOTEL(t)
	tel := start(t)
	const steps = 2*maxSamples + 3
	for n := range steps {
		tel.ObserveStage("0", time.Millisecond, 2)
		tel.ObserveStageWait("0", time.Millisecond)
		tel.ObserveHop(10, time.Millisecond)
		tel.AddTokens(Generated, 1)
		if n%50 == 0 {
			scrape(t, tel)
		}
	}
	wantLines(t, scrape(t, tel),
		fmt.Sprintf(`shoal_stage_duration_seconds_count{shoal_stage="0"} %d`, steps),
		fmt.Sprintf(`shoal_stage_rows_sum{shoal_stage="0"} %d`, 2*steps),
		fmt.Sprintf(`shoal_stage_wait_seconds_count{shoal_stage="0"} %d`, steps),
		fmt.Sprintf(`shoal_hop_duration_seconds_count %d`, steps),
		fmt.Sprintf(`shoal_hop_bytes_total %d`, 10*steps),
		fmt.Sprintf(`shoal_tokens_generated_total %d`, steps),
	)
	if tel.Tracing() {
		t.Error("spans are kept without an exporter")
	}
}

func TestNewerTokenNamesOnRequest(t *testing.T) {
	withoutOTEL(t)
	t.Setenv("OTEL_SEMCONV_STABILITY_OPT_IN", "http,gen_ai_latest_experimental")
	tel := start(t)
	tel.ObserveUsage(Chat, "tiny", 12, 345)
	const op = `{gen_ai_operation_name="chat",gen_ai_provider_name="shoal",gen_ai_request_model="tiny"}`
	wantLines(t, scrape(t, tel),
		"gen_ai_client_inference_usage_input_tokens_total"+op+" 12",
		"gen_ai_client_inference_usage_output_tokens_total"+op+" 345",
	)
}

func TestLabelsAreBounded(t *testing.T) {
	withoutOTEL(t)
	tel := start(t)
	for i := range 2 * maxLabels {
		tel.ObserveTTFT(Chat, fmt.Sprintf("model-%d", i), time.Second)
	}
	text := scrape(t, tel)
	if n := strings.Count(text, "gen_ai_server_time_to_first_token_seconds_count{"); n != maxLabels+1 {
		t.Errorf("%d series, want %d and one for the others", n, maxLabels)
	}
	wantLines(t, text, fmt.Sprintf(
		`gen_ai_server_time_to_first_token_seconds_count{gen_ai_operation_name="other",gen_ai_provider_name="shoal",gen_ai_request_model="other"} %d`, maxLabels))
}

func TestMeasurementsDoNotAllocateLabels(t *testing.T) {
	withoutOTEL(t)
	tel := start(t)
	tel.ObserveStage("1", time.Millisecond, 8)
	if n := testing.AllocsPerRun(100, func() { tel.ObserveStage("1", time.Millisecond, 8) }); n > 4 {
		t.Errorf("%v allocations for a stage's step", n)
	}
}

// collector is an OTLP endpoint that notes which signals come.
func collector(t *testing.T) (url string, paths <-chan string) {
	t.Helper()
	seen := make(chan string, 16)
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case seen <- r.URL.Path:
		default:
		}
	}))
	t.Cleanup(s.Close)
	return s.URL, seen
}

func run(t *testing.T) {
	t.Helper()
	tel, stop, err := New(t.Context(), Options{ServiceName: "shoal"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, span := tel.StartRequest(t.Context(), Request{Op: Chat, Model: "tiny", MaxTokens: 5})
	tel.ObserveTTFT(Chat, "tiny", time.Second)
	if TraceID(ctx) == "" {
		t.Error("a request without a trace id")
	}
	span.Answer("id", "tiny", "stop", 1, 2)
	span.Fail("shard_lost")
	span.End()
	step := tel.StartStep(t.Context(), Step{Rows: 2, Requests: []string{Inject(ctx), "junk"}})
	step.End()
	if err := stop(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestNothingIsSentWithoutEnvironment(t *testing.T) {
	withoutOTEL(t)
	if exports("OTEL_TRACES_EXPORTER") || exports("OTEL_METRICS_EXPORTER") {
		t.Error("an exporter is chosen without an environment variable")
	}
	run(t)
}

func TestExportersByEnvironment(t *testing.T) {
	for _, c := range []struct {
		name string
		env  map[string]string // URL stands for the collector
		want string            // the signals that arrive, sorted
	}{
		{"an endpoint", map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "URL"}, "/v1/metrics /v1/traces"},
		{"an endpoint, no metrics", map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "URL", "OTEL_METRICS_EXPORTER": "none"}, "/v1/traces"},
		{"switched off", map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "URL", "OTEL_SDK_DISABLED": "true"}, ""},
		{"named none", map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "URL", "OTEL_METRICS_EXPORTER": "none", "OTEL_TRACES_EXPORTER": "none"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			withoutOTEL(t)
			url, paths := collector(t)
			for name, value := range c.env {
				t.Setenv(name, strings.ReplaceAll(value, "URL", url))
			}
			run(t)
			got := map[string]bool{}
			for len(paths) > 0 {
				got[<-paths] = true
			}
			var names []string
			for _, p := range []string{"/v1/metrics", "/v1/traces"} {
				if got[p] {
					names = append(names, p)
				}
			}
			if strings.Join(names, " ") != c.want {
				t.Errorf("the collector got %v, want %q", names, c.want)
			}
		})
	}
}

func TestUnknownExporterIsRefusedByName(t *testing.T) {
	withoutOTEL(t)
	for _, name := range []string{"OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER"} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(name, "carrier-pigeon")
			if _, _, err := New(t.Context(), Options{}); err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("error %v, want one that names %s", err, name)
			}
		})
	}
}

func TestTraceparentRoundTrip(t *testing.T) {
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	if got := Inject(Extract(context.Background(), parent)); got != parent {
		t.Errorf("round trip gives %q", got)
	}
	for _, bad := range []string{"", "junk", "00-00000000000000000000000000000000-b7ad6b7169203331-01", parent + "-x"} {
		if got := Inject(Extract(context.Background(), bad)); got != "" {
			t.Errorf("%q gives %q", bad, got)
		}
	}
	tel := Nop()
	ctx, span := tel.StartRequest(Extract(context.Background(), parent), Request{Op: Chat, Model: "tiny"})
	defer span.End()
	if TraceID(ctx) != "0af7651916cd43dd8448eb211c80319c" {
		t.Errorf("a request starts trace %s below %s", TraceID(ctx), parent)
	}
	far := Extract(context.Background(), Inject(ctx))
	if TraceID(far) != TraceID(ctx) {
		t.Error("the trace is lost on the way to another node")
	}
	alone, other := tel.StartRequest(context.Background(), Request{Op: Chat, Model: "tiny"})
	defer other.End()
	if TraceID(alone) == "" || TraceID(alone) == TraceID(ctx) {
		t.Errorf("trace id %q of a request without a parent", TraceID(alone))
	}
}
