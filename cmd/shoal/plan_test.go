package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shoal-llm/shoal/services/coordinator/plan/place"
)

// planText runs `shoal plan` and returns what it prints.
func planText(t *testing.T, args ...string) (string, error) {
	t.Helper()
	c := newPlan()
	var out bytes.Buffer
	c.SetOut(&out)
	c.SetErr(&out)
	c.SetArgs(args)
	c.SilenceErrors, c.SilenceUsage = true, true
	err := c.ExecuteContext(t.Context())
	return out.String(), err
}

func writeFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "cluster.yaml")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// helpCluster is the example of the command's own help.
func helpCluster(t *testing.T) string {
	t.Helper()
	_, text, ok := strings.Cut(newPlan().Long, "\n\n  devices:")
	text, _, ok2 := strings.Cut(text, "\n\nSeveral models")
	if !ok || !ok2 {
		t.Fatal("the help has no example")
	}
	return "  devices:" + text + "\n"
}

// TestPlanOfTheHelp: the cluster of the help text is one, and the command says of
// every device what it does or why it does nothing.
func TestPlanOfTheHelp(t *testing.T) {
	path := writeFile(t, helpCluster(t))
	out, err := planText(t, "tiny", "--cluster", path, "--replicas", "1", "--target", "100000000")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"model tiny: 8 layers", "tokens/s for one stream", "[0..8) embed head",
		"desk/0", "rack-1/0", "rack-4/0", "without a stage", "a stage there would make every token slower",
		"do not reach", "of memory bandwidth",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the plan does not say %q:\n%s", want, out)
		}
	}
}

// TestPlanPins: a pin and an exclusion have their effect.
func TestPlanPins(t *testing.T) {
	path := writeFile(t, helpCluster(t))
	out, err := planText(t, "tiny", "--cluster", path, "--pin", "0-3=rack-2", "--exclude", "desk")
	if err != nil || !strings.Contains(out, "stage 0: rack-2/0 [0..") || !strings.Contains(out, "desk/0: it is excluded") {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestPlanRefuses: what is wrong is named, with what would be right.
func TestPlanRefuses(t *testing.T) {
	good := writeFile(t, helpCluster(t))
	for name, c := range map[string]struct {
		args []string
		say  []string
	}{
		"no cluster":     {[]string{"tiny"}, []string{"--cluster", "--cluster-secret-file"}},
		"no such model":  {[]string{"huge", "--cluster", good}, []string{"huge", "tiny"}},
		"no such file":   {[]string{"tiny", "--cluster", good + ".not"}, []string{"--cluster"}},
		"bad pin":        {[]string{"tiny", "--cluster", good, "--pin", "three"}, []string{"three", "LAYERS=NODE"}},
		"far pin":        {[]string{"tiny", "--cluster", good, "--pin", "7-8=desk"}, []string{"layers 0 to 7"}},
		"bad objective":  {[]string{"tiny", "--cluster", good, "--objective", "fun"}, []string{"latency", "throughput"}},
		"bad budget":     {[]string{"tiny", "--cluster", good, "--model-mem", "much"}, []string{"--model-mem"}},
		"too small":      {[]string{"tiny", "--cluster", good, "--model-mem", "1MB"}, []string{"does not fit", "desk/0"}},
		"unknown field":  {[]string{"tiny", "--cluster", writeFile(t, "devices: [{node: a, memroy: 1GiB}]")}, []string{"memroy"}},
		"bad time":       {[]string{"tiny", "--cluster", writeFile(t, "devices: [{node: a, memory: 1GiB, pass: soon}]")}, []string{"soon", "1.5ms"}},
		"bad size":       {[]string{"tiny", "--cluster", writeFile(t, "devices: [{node: a, memory: big}]")}, []string{"big", "6GiB"}},
		"no devices":     {[]string{"tiny", "--cluster", writeFile(t, "link: {delay: 1ms}")}, []string{"no devices"}},
		"a device twice": {[]string{"tiny", "--cluster", writeFile(t, "devices: [{node: a, memory: 1GiB}, {node: a, memory: 1GiB}]")}, []string{"a/0", "twice"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := planText(t, c.args...)
			if err == nil {
				t.Fatal("it is accepted")
			}
			for _, want := range c.say {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
		})
	}
}

// TestSavedClusterIsTheSame: a cluster that was saved is read as it was.
func TestSavedClusterIsTheSame(t *testing.T) {
	c := &place.Cluster{
		Devices: []place.Device{{
			Node: "a", Index: 1, Name: "a CPU", Class: "cpu/v1", Memory: 123456789, Bandwidth: 12e9, Pass: 1e-6, Turn: 25e-6,
			Speeds: map[string]place.Speed{"head:x": {Fixed: 1e-3, Row: 2e-5}, "llama:y": {Fixed: 4.56e-4, Row: 3e-6, Key: 7e-9}},
		}},
		Links: place.Links{Between: map[place.Direction]place.Link{{From: "a", To: "b"}: {Delay: 1e-4, Rate: 1e8}, {From: "b", To: "a"}: {Delay: 2e-4, Rate: 5e7}}},
	}
	path := filepath.Join(t.TempDir(), "cluster.yaml")
	if err := saveCluster(path, c); err != nil {
		t.Fatal(err)
	}
	f, err := readCluster(path)
	if err != nil {
		t.Fatal(err)
	}
	m := &place.Model{Layers: []place.Layer{{Bytes: 1, Shape: "llama:y"}}, HeadShape: "head:x"}
	again := filepath.Join(t.TempDir(), "again.yaml")
	if err := saveCluster(again, f.place(m)); err != nil {
		t.Fatal(err)
	}
	first, err1 := os.ReadFile(path)
	second, err2 := os.ReadFile(again)
	if err := errors.Join(err1, err2); err != nil || !bytes.Equal(first, second) {
		t.Errorf("%v; saved:\n%s\nread and saved again:\n%s", err, first, second)
	}
	if d := f.place(m).Devices[0]; d.Memory != 123456789 || d.Speeds["llama:y"].Key != 7e-9 || d.ID() != "a/1" {
		t.Errorf("read %+v", d)
	}
}
