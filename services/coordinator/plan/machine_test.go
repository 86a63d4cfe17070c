package plan

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the scripts' answers")

// TestScripts runs the scripts: an event a line, answers indented below it.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := runScript(t, string(want))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if d := cmp.Diff(string(want), got); d != "" {
				t.Errorf("-want +got:\n%s", d)
			}
		})
	}
}

func runScript(t *testing.T, script string) string {
	t.Helper()
	cfg := Config{Coordinator: 1}
	var m *Machine
	var out strings.Builder
	for line := range strings.Lines(script) {
		line = strings.TrimRight(line, "\n")
		if strings.HasPrefix(line, "  ") {
			continue // the last run's answer
		}
		out.WriteString(line + "\n")
		if line == "" || line[0] == '#' {
			continue
		}
		verb, rest, _ := strings.Cut(line, " ")
		switch verb {
		case "model":
			cfg.Model = parseModel(t, rest)
			continue
		case "wish":
			cfg.Wishes = parseWishes(t, rest)
			continue
		case "show":
			fmt.Fprintf(&out, "  %s: %s\n", m.Phase(), m.Reason())
			for _, id := range slices.Sorted(maps.Keys(m.nodes)) {
				if why := m.Aside(id); why != "" {
					fmt.Fprintf(&out, "  aside: %s\n", why)
				}
			}
			continue
		}
		if m == nil {
			m = New(cfg)
		}
		for _, a := range m.Step(parseEvent(t, m, verb, rest)) {
			out.WriteString(showAction(a))
		}
	}
	return out.String()
}

// fields reads key=value pairs; numbers may end in K, M or G.
func fields(t *testing.T, text string) map[string]uint64 {
	t.Helper()
	out := map[string]uint64{}
	for _, f := range strings.Fields(text) {
		key, value, _ := strings.Cut(f, "=")
		out[key] = number(t, value)
	}
	return out
}

func number(t *testing.T, text string) uint64 {
	t.Helper()
	shift := 0
	if i := strings.IndexAny(text, "KMG"); i >= 0 {
		shift = 10 * (1 + strings.IndexByte("KMG", text[i]))
		text = text[:i]
	}
	n, err := strconv.ParseFloat(text, 64)
	if err != nil {
		t.Fatalf("number %q: %v", text, err)
	}
	return uint64(n * float64(uint64(1)<<shift))
}

func parseModel(t *testing.T, text string) Model {
	f := fields(t, text)
	m := Model{
		Name: "m", EmbedBytes: f["embed"], HeadBytes: f["head"], TiedBytes: f["tied"],
		KVPage: f["kvpage"], Context: int(f["context"]), RowScratch: f["row"], Logits: f["logits"],
	}
	for range f["layers"] {
		m.LayerBytes = append(m.LayerBytes, f["layer"])
	}
	return m
}

func parseWishes(t *testing.T, text string) Wishes {
	f := fields(t, text)
	return Wishes{
		Stages: int(f["stages"]), MinShards: int(f["shards"]), Sessions: int(f["sessions"]), Context: int(f["context"]),
		Slots: int(f["slots"]), Rows: int(f["rows"]), Settle: time.Duration(f["settle"]) * time.Millisecond,
		Steady: time.Duration(f["steady"]) * time.Millisecond, Spares: int(f["spares"]), Losses: 3,
	}
}

func parseEvent(t *testing.T, m *Machine, verb, rest string) Event {
	t.Helper()
	word, tail, _ := strings.Cut(rest, " ")
	switch verb {
	case "join":
		n := Node{ID: word, Address: word + ":7700"}
		for i, mem := range strings.Fields(tail) {
			n.Devices = append(n.Devices, Device{Index: i, Memory: number(t, mem), Class: "c"})
		}
		return Joined{Node: n}
	case "seen": // a node that has seen an epoch joins
		epoch, memory, _ := strings.Cut(tail, " ")
		return Joined{
			Node:  Node{ID: word, Address: word + ":7700", Devices: []Device{{Memory: number(t, memory), Class: "c"}}},
			Epoch: number(t, epoch),
		}
	case "lost":
		return Lost{Node: word, Reason: tail}
	case "stopped":
		return Lost{Node: word, Reason: tail, Stopped: true}
	case "loaded":
		key, stage := pipeAt(t, m, word)
		return Loaded{Pipeline: key, Stage: stage}
	case "failed":
		key, stage := pipeAt(t, m, word)
		return Loaded{Pipeline: key, Stage: stage, Err: tail}
	case "unfit":
		key, stage := pipeAt(t, m, word)
		return Loaded{Pipeline: key, Stage: stage, Err: tail, NoMemory: true}
	case "emptied":
		key, _ := pipeAt(t, m, word+"/0")
		return Emptied{key}
	case "drain":
		return Drain{Node: word}
	case "undrain":
		return Drain{Node: word, Undo: true}
	case "refused":
		epoch, reason, _ := strings.Cut(tail, " ")
		return Refused{Node: word, Epoch: number(t, epoch), Reason: reason}
	case "fault":
		key, stage := pipeAt(t, m, word)
		return Faulted{Pipeline: key, Stage: stage, Reason: tail}
	case "stale":
		return Loaded{Pipeline: Key{m.Epoch() - 256, 0}, Stage: int(number(t, word)), Err: tail}
	case "tick":
		return Tick{time.UnixMilli(int64(number(t, word)))}
	}
	t.Fatalf("unknown event %q", verb)
	return nil
}

// pipeAt reads "pipeline/stage", or a stage of the newest pipeline.
func pipeAt(t *testing.T, m *Machine, word string) (Key, int) {
	t.Helper()
	id, stage, named := strings.Cut(word, "/")
	if !named {
		id, stage = "", id
	}
	var key Key
	for _, p := range m.sorted() {
		if id == "" || fmt.Sprint(p.ID) == id {
			key = p.Key
		}
	}
	return key, int(number(t, stage))
}

func showAction(a Action) string {
	switch a := a.(type) {
	case Install:
		text := fmt.Sprintf("  install epoch %d (%#x)\n", a.Plan.Epoch, a.Plan.Epoch)
		for line := range strings.Lines(a.Plan.Explain()) {
			text += "    " + line
		}
		return text
	case Start:
		return fmt.Sprintf("  start %v\n", a.Pipeline)
	case Retire:
		return fmt.Sprintf("  retire %v: %s\n", a.Pipeline, a.Reason)
	case Drop:
		died := ""
		if a.Died != "" {
			died = " (" + a.Died + " died)"
		}
		return fmt.Sprintf("  drop %v: %s%s\n", a.Pipeline, a.Reason, died)
	case Stay:
		return fmt.Sprintf("  stay for %v: %s\n", a.Retry, a.Reason)
	case Wait:
		return fmt.Sprintf("  wait: %s\n", a.Reason)
	}
	return fmt.Sprintf("  ? %T\n", a)
}
