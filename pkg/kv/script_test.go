package kv

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/shoal-llm/shoal/pkg/frame"
)

var update = flag.Bool("update", false, "rewrite the expected output of testdata/*.txt")

// TestScripts runs testdata/*.txt. A script is blocks of commands, a line of
// ---- and what the log answers:
//
//	log pages=4 slots=2 rows=128 context=256
//	frame [step=N] [epoch=N] [pipeline=N]   followed by lines of operations and spans
//	  open 0 a1 [salt=x] [history=1..64]
//	  adopt 0 1..64 [tokens=N]              the prefix is the chain of these ids
//	  publish 0 64 | truncate 0 10 | close 0 | evict 1..64
//	  span 0 a1 @0 1..5
//
// A range 1..64 stands for the ids 1 to 64, joined by commas.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := runScript(t, string(text))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(text), got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", file, diff)
			}
		})
	}
}

// runScript returns the script with the answers the log gives now.
func runScript(t *testing.T, text string) string {
	t.Helper()
	var out strings.Builder
	var log *Log
	for block := range strings.SplitSeq(strings.TrimSpace(text), "\n\n") {
		commands, _, _ := strings.Cut(block, "----\n")
		commands = strings.TrimSpace(commands)
		fmt.Fprintf(&out, "%s\n", commands)
		var lines []string
		for line := range strings.SplitSeq(commands, "\n") {
			if !strings.HasPrefix(line, "#") {
				lines = append(lines, strings.TrimSpace(line))
			}
		}
		if len(lines) == 0 {
			fmt.Fprintln(&out)
			continue
		}
		answer := ""
		switch words := strings.Fields(lines[0]); words[0] {
		case "log":
			log = NewLog(scriptConfig(t, words[1:]))
			answer = fmt.Sprintf("free %d\n", log.Free())
		case "frame":
			f := scriptFrame(t, log, words[1:], lines[1:])
			answer = describe(log.Apply(f)) + fmt.Sprintf("next %d, free %d\n", log.Next(), log.Free())
		default:
			t.Fatalf("unknown command %q", lines[0])
		}
		fmt.Fprintf(&out, "----\n%s\n", answer)
	}
	return strings.TrimSpace(out.String()) + "\n"
}

func scriptConfig(t *testing.T, words []string) Config {
	cfg := Config{Epoch: 1}
	for _, w := range words {
		key, value, _ := strings.Cut(w, "=")
		n := number(t, value)
		switch key {
		case "pages":
			cfg.Pages = n
		case "slots":
			cfg.Slots = n
		case "rows":
			cfg.Rows = n
		case "context":
			cfg.Context = n
		default:
			t.Fatalf("unknown setting %q", w)
		}
	}
	return cfg
}

func scriptFrame(t *testing.T, log *Log, header, lines []string) *frame.Frame {
	f := &frame.Frame{Epoch: 1, Step: log.Next()}
	for _, w := range header {
		key, value, _ := strings.Cut(w, "=")
		switch key {
		case "step":
			f.Step = uint64(number(t, value))
		case "epoch":
			f.Epoch = uint64(number(t, value))
		case "pipeline":
			f.Pipeline = uint32(number(t, value))
		default:
			t.Fatalf("unknown setting %q", w)
		}
	}
	for _, line := range lines {
		words := strings.Fields(line)
		if words[0] == "span" {
			f.Spans = append(f.Spans, frame.Span{
				Slot: slotOf(t, words[1]), Attempt: attemptOf(t, words[2]),
				Start: int32(number(t, strings.TrimPrefix(words[3], "@"))), Tokens: idsOf(t, words[4]),
			})
			continue
		}
		f.Ops = append(f.Ops, scriptOp(t, words))
	}
	return f
}

func scriptOp(t *testing.T, words []string) frame.Op {
	switch words[0] {
	case "open":
		o := &frame.Open{Slot: slotOf(t, words[1]), Attempt: attemptOf(t, words[2])}
		for _, w := range words[3:] {
			key, value, _ := strings.Cut(w, "=")
			switch key {
			case "salt":
				o.PrefixSalt = []byte(value)
			case "history":
				o.History = idsOf(t, value)
			}
		}
		return frame.Op{Open: o}
	case "adopt":
		ids := idsOf(t, words[2])
		return frame.Op{Adopt: &frame.Adopt{Slot: slotOf(t, words[1]), Prefix: lastName(ids), Tokens: int32(len(ids))}}
	case "publish":
		return frame.Op{Publish: &frame.Publish{Slot: slotOf(t, words[1]), Tokens: int32(number(t, words[2]))}}
	case "truncate":
		return frame.Op{Truncate: &frame.Truncate{Slot: slotOf(t, words[1]), Len: int32(number(t, words[2]))}}
	case "close":
		return frame.Op{Close: &frame.Close{Slot: slotOf(t, words[1])}}
	case "evict":
		return frame.Op{Evict: &frame.Evict{Prefix: lastName(idsOf(t, words[1]))}}
	}
	t.Fatalf("unknown operation %q", words[0])
	return frame.Op{}
}

func lastName(ids []int32) [32]byte {
	names := Chain(Root(nil, frame.KVClass{}, ""), ids, nil)
	if len(names) == 0 {
		return [32]byte{}
	}
	return names[len(names)-1]
}

func slotOf(t *testing.T, w string) frame.Slot { return frame.Slot(number(t, w)) }

func attemptOf(t *testing.T, w string) uint32 { return uint32(number(t, strings.TrimPrefix(w, "a"))) }

func idsOf(t *testing.T, text string) []int32 {
	var ids []int32
	for part := range strings.SplitSeq(text, ",") {
		first, last, isRange := strings.Cut(part, "..")
		if !isRange {
			last = first
		}
		for id := number(t, first); id <= number(t, last); id++ {
			ids = append(ids, int32(id))
		}
	}
	return ids
}

func number(t *testing.T, text string) int {
	t.Helper()
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("not a number: %q", text)
	}
	return n
}

func describe(step *Step, err error) string {
	if err != nil {
		return fmt.Sprintf("refused (%s): %v\n", sentinel(err), err)
	}
	var b strings.Builder
	for _, s := range step.Closed {
		fmt.Fprintf(&b, "closed %d\n", s)
	}
	for _, o := range step.Opened {
		fmt.Fprintf(&b, "opened %d a%d\n", o.Slot, o.Attempt)
	}
	for _, a := range step.Adopted {
		fmt.Fprintf(&b, "adopted %d: %d positions\n", a.Slot, a.Tokens)
	}
	if len(step.Clear) > 0 {
		fmt.Fprintf(&b, "clear %v\n", step.Clear)
	}
	for _, s := range step.Spans {
		fmt.Fprintf(&b, "span %d a%d row %d: %d rows @%d on %v\n", s.Slot, s.Attempt, s.Row, s.Count, s.Start, s.Pages)
	}
	return b.String()
}

func sentinel(err error) string {
	for name, want := range map[string]error{
		"repeat": ErrRepeat, "gap": ErrGap, "epoch": ErrEpoch, "invalid": ErrInvalid, "no pages": ErrNoPages,
	} {
		if errors.Is(err, want) {
			return name
		}
	}
	return "unknown"
}
