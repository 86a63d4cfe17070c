package shard

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// metric returns the value of a metric as its node shows it, or "".
func (n *node) metric(name string) string {
	w := httptest.NewRecorder()
	n.telemetry.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for line := range strings.Lines(w.Body.String()) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// TestStagesAreMeasured: every stage tells what it computed and what its cache
// holds, and all but the last what they sent.
func TestStagesAreMeasured(t *testing.T) {
	b := newBench(t, 2)
	boss := b.boss("boss")
	p := b.plan(7, b.nodes...)
	boss.install(p, b.nodes...)
	drive, results := boss.streams(p, b.nodes[0], b.nodes[1])
	generate(t, drive, results, newAnswers(4))
	for i, stage := range []string{"0", "1"} {
		for name, want := range map[string]func(string) bool{
			`shoal_stage_duration_seconds_count{shoal_stage="` + stage + `"}`: some,
			`shoal_stage_wait_seconds_count{shoal_stage="` + stage + `"}`:     some,
			`shoal_stage_rows_sum{shoal_stage="` + stage + `"}`:               some,
			`shoal_kv_capacity{shoal_stage="` + stage + `"}`:                  some,
			`shoal_kv_used{shoal_stage="` + stage + `"}`:                      func(v string) bool { return v != "" },
			`shoal_hop_bytes_total`:                                           func(v string) bool { return some(v) == (i == 0) },
		} {
			if got := b.nodes[i].metric(name); !want(got) {
				t.Errorf("stage %s: %s is %q", stage, name, got)
			}
		}
	}
}

// some reports whether a value is there and not 0.
func some(v string) bool { return v != "" && v != "0" }
