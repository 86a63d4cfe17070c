package supervise

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shoal-llm/shoal/internal/enrol"
)

// TestMain is also the child: a process that does what its name says.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "child" {
		os.Exit(play())
	}
	os.Exit(m.Run())
}

func play() int {
	p, err := Meet(os.Stdin, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	ctx, cancel := p.Follow(context.Background())
	defer cancel()
	switch p.Settings.Node {
	case "serves":
		fmt.Println("a library's banner")
		slog.New(slog.NewJSONHandler(os.Stderr, nil)).Warn("hello", "number", 7)
		p.Report(Report{State: Ready, Port: 7})
		<-ctx.Done()
		return 0
	case "falls":
		p.Report(Report{State: Ready, Port: os.Getpid()})
		fmt.Fprintln(os.Stderr, `thread panicked at 'Device is lost', src/lib.rs`)
		return 3
	case "gone":
		p.Report(Report{State: Ready, Port: 1})
		p.Report(Report{State: Lost, Reason: "the device is gone"})
		select {} // the driver hangs
	case "wrong":
		p.Report(Report{State: Refused, Reason: "one and one is three"})
		select {} // a refused child is ended
	case "silent":
		<-ctx.Done()
		return 0
	case "vouched":
		if p.Settings.Identity == nil || p.Settings.Identity.Key != "a key" {
			return 8
		}
		p.News(func(n enrol.ChildNews) { p.Report(Report{State: Ready, Port: len(n.Denied)}) })
		<-ctx.Done()
		return 0
	}
	return 9
}

// heard collects reports.
type heard struct {
	mu   sync.Mutex
	all  []Report       // guarded by mu
	each func(r Report) // called with mu held; may be nil
}

func (h *heard) notify(_ Settings, r Report) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all = append(h.all, r)
	if h.each != nil {
		h.each(r)
	}
}

func (h *heard) states() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []string
	for _, r := range h.all {
		out = append(out, string(r.State))
	}
	return strings.Join(out, " ")
}

// supervised runs one child until stop, and returns what was heard of it.
func supervised(t *testing.T, node string, change func(*Config), each func(n int, r Report, stop func())) (*heard, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	h := &heard{}
	h.each = func(r Report) { each(len(h.all), r, cancel) }
	var logs bytes.Buffer
	cfg := Config{
		Program: os.Args[0], Args: []string{"child"}, Children: []Settings{{Node: node, Secret: "hush"}},
		Notify: h.notify, Log: slog.New(slog.NewTextHandler(&logs, nil)),
		Backoff: Backoff{Min: time.Millisecond, Max: 4 * time.Millisecond, Settled: time.Hour},
	}
	if change != nil {
		change(&cfg)
	}
	if err := Run(ctx, cfg); err != nil {
		t.Error(err)
	}
	if ctx.Err() == context.DeadlineExceeded {
		t.Fatalf("%s: only %s was heard in time", node, h.states())
	}
	return h, logs.String()
}

// TestServes: a child serves until the parent ends it, and its log is the
// parent's.
func TestServes(t *testing.T) {
	h, logs := supervised(t, "serves", nil, func(_ int, r Report, stop func()) {
		if r.State == Ready {
			stop()
		}
	})
	if h.states() != "starting ready" || h.all[1].Port != 7 {
		t.Errorf("heard %+v", h.all)
	}
	if !strings.Contains(logs, `level=WARN msg=hello child=serves number=7`) {
		t.Errorf("log: %s", logs)
	}
}

// TestVouched: a child gets the identity that it is vouched for, and hears what
// changes of it.
func TestVouched(t *testing.T) {
	var asked []string
	h, _ := supervised(t, "vouched", func(c *Config) {
		c.Vouch = func(_ context.Context, node string, tell func(enrol.ChildNews)) (*enrol.Child, error) {
			if asked = append(asked, node); len(asked) == 1 {
				return nil, errors.New("no coordinator answers")
			}
			tell(enrol.ChildNews{Denied: []string{"a", "b"}})
			return &enrol.Child{Key: "a key"}, nil
		}
	}, func(_ int, r Report, stop func()) {
		if r.State == Ready {
			stop()
		}
	})
	if h.states() != "lost starting ready" || h.all[2].Port != 2 || !strings.Contains(h.all[0].Reason, "no coordinator answers") {
		t.Errorf("heard %+v", h.all)
	}
	if strings.Join(asked, " ") != "vouched vouched" {
		t.Errorf("asked for %v", asked)
	}
}

// TestFalls: a child that ends is reported with its last words, and started
// again, later each time.
func TestFalls(t *testing.T) {
	h, _ := supervised(t, "falls", nil, func(n int, _ Report, stop func()) {
		if n == 12 {
			stop()
		}
	})
	if h.states() != strings.TrimSpace(strings.Repeat("starting ready lost ", 4)) {
		t.Errorf("heard %s", h.states())
	}
	for i, pause := range []string{"1ms", "2ms", "4ms", "4ms"} {
		r := h.all[3*i+2]
		if !strings.Contains(r.Reason, "exit status 3") || !strings.Contains(r.Reason, "Device is lost") || !strings.Contains(r.Reason, "again in "+pause) {
			t.Errorf("end %d: %q", i, r.Reason)
		}
	}
	if h.all[1].Port == h.all[4].Port {
		t.Error("the process was the same")
	}
}

// TestWrong: a child that is refused is ended and not started again.
func TestWrong(t *testing.T) {
	h, logs := supervised(t, "wrong", nil, func(int, Report, func()) {})
	if h.states() != "starting refused" || h.all[1].Reason != "one and one is three" {
		t.Errorf("heard %+v", h.all)
	}
	if !strings.Contains(logs, "one and one is three") {
		t.Errorf("log: %s", logs)
	}
}

// TestGone: a child that says that its device is lost is ended, however it hangs,
// and started again.
func TestGone(t *testing.T) {
	h, _ := supervised(t, "gone", nil, func(n int, _ Report, stop func()) {
		if n == 6 {
			stop()
		}
	})
	if h.states() != "starting ready lost starting ready lost" || !strings.HasPrefix(h.all[2].Reason, "the device is gone; ") {
		t.Errorf("heard %+v", h.all)
	}
}

// TestSilent: a child that does not get ready is ended.
func TestSilent(t *testing.T) {
	h, _ := supervised(t, "silent", func(c *Config) { c.Patience = 20 * time.Millisecond }, func(n int, _ Report, stop func()) {
		if n == 2 {
			stop()
		}
	})
	if h.states() != "starting lost" || !strings.Contains(h.all[1].Reason, "not ready within 20ms") {
		t.Errorf("heard %+v", h.all)
	}
}

// TestNoProgram: a program that cannot be started is a lost device, not an end of
// the parent.
func TestNoProgram(t *testing.T) {
	h, _ := supervised(t, "serves", func(c *Config) { c.Program = "/absent/program" }, func(n int, _ Report, stop func()) {
		if n == 4 {
			stop()
		}
	})
	if h.states() != "starting lost starting lost" || !strings.Contains(h.all[1].Reason, "/absent/program") {
		t.Errorf("heard %+v", h.all)
	}
}

// TestParentGone: the end of the input is the end of a child.
func TestParentGone(t *testing.T) {
	in, parent := io.Pipe()
	go func() { _, _ = parent.Write([]byte("{\"node\":\"serves\"}\n")) }()
	var out bytes.Buffer
	p, err := Meet(in, &out)
	if err != nil || p.Settings.Node != "serves" {
		t.Fatalf("%+v, %v", p, err)
	}
	p.Report(Report{State: Ready, Port: 5})
	if got := out.String(); got != "{\"state\":\"ready\",\"port\":5}\n" {
		t.Errorf("report %q", got)
	}
	if _, err := Meet(strings.NewReader("{"), &out); err == nil {
		t.Error("half a line is taken for settings")
	}
}

func TestAnswers(t *testing.T) {
	a := Adapter{Index: 2, Name: "NVIDIA H200"}
	soft := Adapter{Index: 3, Name: "llvmpipe", Software: true}
	for name, want := range map[string][2]bool{
		"": {true, false}, "2": {true, false}, "gpu2": {true, false}, "gpu3": {false, true},
		"h200": {true, false}, "pipe": {false, true}, "22": {false, false},
	} {
		if a.Answers(name) != want[0] || soft.Answers(name) != want[1] {
			t.Errorf("%q: %v and %v, want %v", name, a.Answers(name), soft.Answers(name), want)
		}
	}
}
