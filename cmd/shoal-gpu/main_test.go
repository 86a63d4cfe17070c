package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shoal-llm/shoal/internal/measure"
	"github.com/shoal-llm/shoal/internal/supervise"
	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/compute/cpu"
)

// TestMain is also the program itself, as a benchmark starts it, with devices that
// are played.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "serve" {
		os.Exit(run(context.Background(), played(), os.Args[1:]))
	}
	os.Exit(m.Run())
}

// played is a driver whose devices are the CPU.
func played() driver {
	return driver{
		adapters: func() ([]supervise.Adapter, error) {
			return []supervise.Adapter{
				{Index: 0, Name: "Software", Software: true},
				{Index: 1, Name: "Played H200", Memory: 1 << 30},
			}, nil
		},
		open: func(a supervise.Adapter, o openOptions) (compute.Backend, error) {
			return cpu.Open(cpu.Config{Threads: 1, Reference: true, Memory: o.memory, Log: o.log})
		},
	}
}

// command runs the program and returns what it prints.
func command(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	root := newRoot(played())
	root.SetArgs(args)
	root.SetOut(&out)
	err := root.ExecuteContext(t.Context())
	return out.String(), err
}

func TestAdapters(t *testing.T) {
	out, err := command(t, "adapters")
	if err != nil {
		t.Fatal(err)
	}
	var list []supervise.Adapter
	if err := json.Unmarshal([]byte(out), &list); err != nil || len(list) != 2 || list[1].Name != "Played H200" {
		t.Errorf("%v: %s", err, out)
	}
}

// TestFind: without a name no software is taken.
func TestFind(t *testing.T) {
	for name, want := range map[string]int{"": 1, "0": 0, "gpu1": 1, "h200": 1, "soft": 0, "2": -1, "other": -1} {
		a, err := played().find(name)
		if want < 0 {
			if err == nil || !strings.Contains(err.Error(), "Played H200") {
				t.Errorf("%q: %v, want an error that lists what there is", name, err)
			}
		} else if err != nil || a.Index != want {
			t.Errorf("%q is %d (%v), want %d", name, a.Index, err, want)
		}
	}
	none := driver{adapters: func() ([]supervise.Adapter, error) { return nil, nil }}
	if _, err := none.find(""); err == nil || !strings.Contains(err.Error(), "no GPU") {
		t.Errorf("without a device: %v", err)
	}
}

// TestBench measures a small model whole and in parts, shows its operations and
// saves its figures.
func TestBench(t *testing.T) {
	file := filepath.Join(t.TempDir(), "figures.json")
	out, err := command(t, "bench", "nano", "--prefill=20", "--decode=4", "--streams=2", "--stages=2", "--runs=1",
		"--ops", "--peak-gbps=10", "--save="+file, "--baseline-decode=2")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"prefill 20", "decode  4", "| NormGateUp 512×256", "% of bandwidth", "a decode step takes"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	figures, err := measure.Load(file)
	if err != nil || len(figures) != 3 {
		t.Fatalf("%v: %+v", err, figures)
	}
	f := figures[0]
	if !strings.HasSuffix(f.Name, "_nano_2streams_2stages_decode") || f.Value <= 0 || f.Ratio != f.Value/2 {
		t.Errorf("%+v", f)
	}
	_, err = command(t, "bench", "nano", "--prefill=20", "--decode=4", "--kv=4@64") // the reference plays the device
	if !errors.Is(err, compute.ErrUnsupported) {
		t.Errorf("a class that the device lacks: %v", err)
	}
	if _, err := command(t, "bench", "nano", "--kv=5"); !errors.Is(err, compute.ErrKVClass) {
		t.Errorf("5 bits: %v", err)
	}
	if _, err := command(t, "bench", "nano", "--decode=0"); err == nil {
		t.Error("no tokens at all can be measured")
	}
	if _, err := command(t, "bench", filepath.Join(os.TempDir(), "absent.gguf")); err == nil || !strings.Contains(err.Error(), "synthetic") {
		t.Errorf("an absent model: %v", err)
	}
}

// TestPair measures two processes with a stage each against one.
func TestPair(t *testing.T) {
	file := filepath.Join(t.TempDir(), "figures.json")
	out, err := command(t, "bench", "pair", "nano", "--prefill=20", "--decode=40", "--runs=1", "--streams=1,2", "--label=x", "--save="+file)
	if err != nil {
		t.Fatal(err)
	}
	figures, err := measure.Load(file)
	if err != nil || len(figures) != 2 || !strings.Contains(out, "2 streams: one stage") {
		t.Fatalf("%v: %+v\n%s", err, figures, out)
	}
	for i, name := range []string{"x_two_stage_ratio", "x_two_stage_ratio_2streams"} {
		if f := figures[i]; f.Name != name || f.Value <= 0 || f.Ratio != f.Value/f.Baseline {
			t.Errorf("%+v, want %s", f, name)
		}
	}
}

func TestSoak(t *testing.T) {
	out, err := command(t, "soak-readback", "--count=500")
	if err != nil || !strings.Contains(out, "500 read-backs") {
		t.Errorf("%v: %s", err, out)
	}
}

func TestSelfTest(t *testing.T) {
	out, err := command(t, "self-test")
	if err != nil || !strings.Contains(out, "Played H200 is right") {
		t.Errorf("%v: %s", err, out)
	}
}

func TestLabel(t *testing.T) {
	for name, want := range map[string]string{"NVIDIA H200": "h200", "Apple GPU": "apple_gpu", "GeForce RTX 4090": "geforce_rtx_4090"} {
		if got := label(name); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
}
