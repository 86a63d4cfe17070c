package driver

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shoal-llm/shoal/pkg/frame"
)

var update = flag.Bool("update", false, "rewrite the expected output of testdata/*.txt")

// TestScripts runs testdata/*.txt. A script is blocks of lines, a line of ----
// and what the machine says to each:
//
//	driver slots=2 pages=8 context=100 rows=8 chunk=4 lanes=1 flight=2
//	submit 0 a1 1..6 [ahead=4] [deadline=100] [pooling=1]
//	result 1 [0 a1 @6 =9 [stop|length]] [0 a1 @6 pooled] [0 a1 @6 !words]   one outcome a line below
//	commit 0 a1 7 | halt 0 a1 | tick 100 | guessed 0 a1 8,9 [failed]
//
// 1..3,9 stands for the ids 1, 2, 3 and 9.
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
			s := &script{t: t}
			got := s.run(string(text))
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

type script struct {
	t   *testing.T
	m   *Machine
	now time.Time
}

func (s *script) run(text string) string {
	var out strings.Builder
	for block := range strings.SplitSeq(strings.TrimSpace(text), "\n\n") {
		commands, _, _ := strings.Cut(block, "----\n")
		commands = strings.TrimSpace(commands)
		fmt.Fprintf(&out, "%s\n", commands)
		var lines []string
		for line := range strings.SplitSeq(commands, "\n") {
			if !strings.HasPrefix(line, "#") {
				lines = append(lines, line)
			}
		}
		answer := ""
		for i := 0; i < len(lines); i++ {
			words := strings.Fields(lines[i])
			if words[0] == "driver" {
				answer += s.make(words[1:])
				continue
			}
			ev := s.event(words)
			if r, ok := ev.(Returned); ok {
				for ; i+1 < len(lines) && strings.HasPrefix(lines[i+1], " "); i++ {
					r.Result.Sampled = append(r.Result.Sampled, s.sampled(strings.Fields(lines[i+1])))
				}
			}
			answer += describe(s.m.Step(s.now, ev))
		}
		if len(lines) > 0 {
			fmt.Fprintf(&out, "----\n%s", answer)
		}
		fmt.Fprintln(&out)
	}
	return strings.TrimSpace(out.String()) + "\n"
}

func (s *script) make(words []string) string {
	cfg := Config{Epoch: 1, Stages: 1}
	fields := map[string]*int{
		"slots": &cfg.Slots, "pages": &cfg.Pages, "context": &cfg.Context, "rows": &cfg.Rows,
		"chunk": &cfg.Chunk, "lanes": &cfg.Lanes, "flight": &cfg.InFlight, "stages": &cfg.Stages,
		"drafts": &cfg.Drafts, "cached": &cfg.Cached,
	}
	for _, w := range words {
		key, value, _ := strings.Cut(w, "=")
		if key == "drafter" {
			cfg.Drafter = value == "yes"
			continue
		}
		*fields[key] = s.number(value)
	}
	var err error
	s.now = time.UnixMilli(0)
	if s.m, err = New(cfg); err != nil {
		return fmt.Sprintf("%v\n", err)
	}
	return ""
}

func (s *script) event(words []string) Event {
	slot := frame.Slot(s.number(words[1]))
	switch words[0] {
	case "submit":
		e := Submit{Open: &frame.Open{Slot: slot, Attempt: s.attempt(words[2])}, Tokens: s.ids(words[3]), Ahead: 4}
		for _, w := range words[4:] {
			key, value, _ := strings.Cut(w, "=")
			switch key {
			case "ahead":
				e.Ahead = s.number(value)
			case "deadline":
				e.Open.DeadlineMS = int64(s.number(value))
			case "weight":
				e.Open.Weight = float32(s.number(value))
			case "adapter":
				e.Open.Adapter = value
			case "pooling":
				e.Open.Pooling = frame.Pooling(s.number(value))
			case "kv":
				e.Open.KV.Bits = uint8(s.number(value))
			}
		}
		e.Open.AnswerStart = int32(len(e.Tokens))
		return e
	case "commit":
		return Commit{Slot: slot, Attempt: s.attempt(words[2]), Length: s.number(words[3])}
	case "halt":
		return Halt{Slot: slot, Attempt: s.attempt(words[2])}
	case "guessed":
		e := Guessed{Slot: slot, Attempt: s.attempt(words[2])}
		for _, w := range words[3:] {
			if w == "failed" {
				e.Failed = true
			} else {
				e.IDs = s.ids(w)
			}
		}
		return e
	case "tick":
		s.now = time.UnixMilli(int64(s.number(words[1])))
		return Tick{}
	case "result":
		return Returned{&frame.Result{Epoch: 1, Step: uint64(s.number(words[1]))}}
	}
	s.t.Fatalf("unknown command %q", words[0])
	return nil
}

func (s *script) sampled(words []string) frame.Sampled {
	out := frame.Sampled{
		Slot: frame.Slot(s.number(words[0])), Attempt: s.attempt(words[1]),
		Position: int32(s.number(strings.TrimPrefix(words[2], "@"))),
	}
	if why, failed := strings.CutPrefix(words[3], "!"); failed {
		out.Err = why
		return out
	}
	if words[3] == "pooled" {
		out.Pooled, out.Finish = []float32{1}, frame.FinishStop
		return out
	}
	out.IDs = s.ids(strings.TrimPrefix(words[3], "="))
	if len(words) > 4 {
		out.Finish = map[string]frame.Finish{"stop": frame.FinishStop, "length": frame.FinishLength}[words[4]]
	}
	return out
}

func (s *script) number(text string) int {
	s.t.Helper()
	n, err := strconv.Atoi(text)
	if err != nil {
		s.t.Fatalf("not a number: %q", text)
	}
	return n
}

func (s *script) attempt(w string) uint32 { return uint32(s.number(strings.TrimPrefix(w, "a"))) }

func (s *script) ids(text string) (ids []int32) {
	for part := range strings.SplitSeq(text, ",") {
		first, last, isRange := strings.Cut(part, "..")
		if !isRange {
			last = first
		}
		for id := s.number(first); id <= s.number(last); id++ {
			ids = append(ids, int32(id))
		}
	}
	return ids
}

func describe(out Output, err error) string {
	switch {
	case errors.Is(err, ErrRefused), errors.Is(err, ErrFault):
		return fmt.Sprintf("%v\n", err)
	case err != nil:
		return fmt.Sprintf("unknown error: %v\n", err)
	}
	var b strings.Builder
	for _, p := range out.Prefilled {
		fmt.Fprintf(&b, "prefilled %d a%d: %d of %d\n", p.Slot, p.Attempt, p.Done, p.Total)
	}
	for _, c := range out.Closed {
		fmt.Fprintf(&b, "closed %d a%d: %s %s\n", c.Slot, c.Attempt, c.Reason, c.Detail)
	}
	for _, w := range out.Wishes {
		fmt.Fprintf(&b, "guess %d a%d: up to %d after %s\n", w.Open.Slot, w.Open.Attempt, w.Count, listed(w.IDs))
	}
	for _, f := range out.Send {
		fmt.Fprintf(&b, "step %d:", f.Step)
		for _, op := range f.Ops {
			b.WriteString(describeOp(&op))
		}
		for _, sp := range f.Spans {
			mark := ""
			switch sp.Output {
			case frame.OutputSample:
				mark = "?"
			case frame.OutputPooled:
				mark = "!"
			}
			fmt.Fprintf(&b, " %d@%d%s%s", sp.Slot, sp.Start, listed(sp.Tokens), guessed(&sp)+mark)
		}
		b.WriteString("\n")
	}
	if b.Len() == 0 {
		return "-\n"
	}
	return strings.ReplaceAll(b.String(), " \n", "\n")
}

func describeOp(op *frame.Op) string {
	switch {
	case op.Open != nil:
		return fmt.Sprintf(" open %d a%d;", op.Open.Slot, op.Open.Attempt)
	case op.Adopt != nil:
		return fmt.Sprintf(" adopt %d %d;", op.Adopt.Slot, op.Adopt.Tokens)
	case op.Publish != nil:
		return fmt.Sprintf(" publish %d %d;", op.Publish.Slot, op.Publish.Tokens)
	case op.Truncate != nil:
		return fmt.Sprintf(" truncate %d %d;", op.Truncate.Slot, op.Truncate.Len)
	case op.Evict != nil:
		return " evict;"
	}
	return fmt.Sprintf(" close %d;", op.Close.Slot)
}

// listed writes ids; many that follow one another as their first and last.
func listed(ids []int32) string {
	const many = 16
	if n := len(ids) - 1; n >= many && ids[n]-ids[0] == int32(n) {
		return fmt.Sprintf("[%d..%d]", ids[0], ids[n])
	}
	return fmt.Sprint(ids)
}

// guessed says how many ids of a span are guesses.
func guessed(sp *frame.Span) string {
	if sp.Drafted == 0 {
		return ""
	}
	return fmt.Sprintf("+%d", sp.Drafted)
}
