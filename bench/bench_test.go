package main

import (
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/shoal-llm/shoal/internal/measure"
)

// scripted is a runner that notes its turn and gives rates one by one.
func scripted(name string, order *[]string, rates ...float64) *runner {
	return &runner{name: name, suffix: "_" + name, run: func(context.Context) (float64, error) {
		*order = append(*order, name)
		rate := rates[0]
		rates = rates[1:]
		return rate, nil
	}}
}

func TestContestAlternatesAndTakesTheBestRival(t *testing.T) {
	var order []string
	c := &contest{
		name: "c", threads: 1,
		ours:   scripted("ours", &order, 30, 10, 20),
		rivals: []*runner{scripted("slow", &order, 4, 5, 6), scripted("fast", &order, 9, 10, 11)},
	}
	for n := range 3 {
		if err := c.round(t.Context(), n, nil); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"ours", "slow", "fast", "fast", "slow", "ours", "ours", "slow", "fast"}
	if !slices.Equal(order, want) {
		t.Errorf("turns %v, want %v", order, want)
	}
	r := report{out: io.Discard, rounds: 3}
	r.contests([]*contest{c})
	got := map[string]measure.Figure{}
	for _, f := range r.figures {
		got[f.Name] = f
	}
	if f := got["c"]; f.Value != 20 || f.Baseline != 10 || f.Ratio != 2 {
		t.Errorf("against the best rival: %+v", f)
	}
	if f := got["c_slow"]; f.Baseline != 5 || f.Ratio != 4 {
		t.Errorf("against the slow rival: %+v", f)
	}
}

func TestShareOfBandwidth(t *testing.T) {
	c := &contest{bytes: 100, limits: []float64{1000, 4000, 2000}}
	if got := c.share(15); got != 0.75 {
		t.Errorf("15 tokens/s of 100 bytes are %g of 2000 bytes/s, want 0.75", got)
	}
	if got := (&contest{}).share(15); got != 0 {
		t.Errorf("share %g of a limit that was not measured", got)
	}
}

func TestContestRefusesAResultOfNothing(t *testing.T) {
	var order []string
	c := &contest{ours: scripted("ours", &order, 1), rivals: []*runner{scripted("broken", &order, 0)}}
	if err := c.round(t.Context(), 0, nil); err == nil || !strings.Contains(err.Error(), "broken") {
		t.Errorf("error %v", err)
	}
}

func TestToldReadsEvents(t *testing.T) {
	read := func(body string) (told, error) {
		var a told
		err := a.read(&http.Response{Body: io.NopCloser(strings.NewReader(body))})
		return a, err
	}
	a, err := read(`data: {"type":"accepted"}

data: {"type":"token","seq":1,"text":"a"}

data: {"type":"token","seq":3,"text":"bc","tokens":2}

data: {"type":"usage","promptTokens":7,"completionTokens":3,"cachedTokens":4}

data: {"type":"complete"}

`)
	if err != nil || a.prompt != 7 || a.cached != 4 || len(a.times) != 3 || a.text != "abc" {
		t.Errorf("answer %+v, %v", a, err)
	}
	for _, body := range []string{"data: {\"type\":\"token\"}\n\n", "data: {\"type\":\"error\",\"message\":\"why\"}\n\n"} {
		if a, err := read(body); err == nil {
			t.Errorf("%q was an answer: %+v", body, a)
		}
	}
}

func TestLlamaCPPReadsItsJSON(t *testing.T) {
	dir := t.TempDir()
	bin := filepath.Join(dir, "build", "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := builds(dir); err == nil {
		t.Error("a folder without programs was taken")
	}
	script := "#!/bin/sh\n[ \"$2\" = good.gguf ] || { echo no such file >&2; exit 3; }\necho noise\necho '{\"avg_ts\": 12.5}'\n"
	if err := os.WriteFile(filepath.Join(bin, "llama-bench"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	found, err := builds(dir)
	if err != nil || len(found) != 1 {
		t.Fatalf("builds %+v, %v", found, err)
	}
	if rate, err := found[0].bench(t.Context(), "good.gguf", 1, 0, 1); err != nil || rate != 12.5 {
		t.Errorf("rate %g, %v", rate, err)
	}
	if _, err := found[0].bench(t.Context(), "bad.gguf", 1, 0, 1); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("error %v", err)
	}
}

// TestMachineDecodes runs every kind of task on the embedded model.
func TestMachineDecodes(t *testing.T) {
	m, err := openMachine("", "tiny", 1)
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	for range 2 { // sessions end and slots are used again
		if rate, err := m.prefill(130); err != nil || rate <= 0 {
			t.Fatalf("prefill: %g, %v", rate, err)
		}
		if rate, err := m.decode(1, 0, 3); err != nil || rate <= 0 {
			t.Fatalf("decode: %g, %v", rate, err)
		}
		if rate, err := m.decode(maxStreams, 64, 2); err != nil || rate <= 0 {
			t.Fatalf("%d streams: %g, %v", maxStreams, rate, err)
		}
	}
}
