package generation

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/shoal-llm/shoal/pkg/frame"
)

var update = flag.Bool("update", false, "rewrite the scripts' answers")

// letters is a detokenizer of a toy vocabulary: an id's text is given, and it
// holds incomplete UTF-8 as the real one does.
type letters struct {
	text map[int32]string
	held string
}

func (l *letters) Push(id int32) string {
	l.held += l.text[id]
	n := len(l.held)
	for n > 0 && n > len(l.held)-4 && !utf8.ValidString(l.held[:n]) {
		n--
	}
	out := l.held[:n]
	l.held = l.held[n:]
	return out
}

func (l *letters) Flush() string {
	out := strings.ToValidUTF8(l.held, "\uFFFD")
	l.held = ""
	return out
}

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

// script is a run: its vocabulary grows by one id for every new text.
type script struct {
	ids  map[string]int32
	text map[int32]string
}

func (s *script) id(t *testing.T, word string) int32 {
	t.Helper()
	text, err := strconv.Unquote(`"` + word + `"`)
	if err != nil {
		t.Fatalf("text %s: %v", word, err)
	}
	if _, ok := s.ids[text]; !ok {
		s.ids[text] = int32(len(s.ids) + 1)
		s.text[s.ids[text]] = text
	}
	return s.ids[text]
}

func runScript(t *testing.T, text string) string {
	t.Helper()
	s := &script{ids: map[string]int32{}, text: map[int32]string{}}
	var m *Machine
	var out strings.Builder
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if strings.HasPrefix(line, "  ") {
			continue // the last run's answer
		}
		out.WriteString(line + "\n")
		if line == "" || line[0] == '#' {
			continue
		}
		words := strings.Fields(line)
		var actions []Action
		if words[0] == "answer" {
			m = New(s.config(t, words[1:]))
			actions = m.Start()
		} else {
			actions = m.Step(s.event(t, words))
		}
		if words[0] == "lost" {
			fmt.Fprintf(&out, "  goes on after %v\n", m.IDs())
		}
		for _, a := range actions {
			name := strings.TrimPrefix(fmt.Sprintf("%T", a), "generation.")
			fmt.Fprintf(&out, "  %s %s\n", strings.ToLower(name), show(a))
		}
	}
	return out.String()
}

// show writes an action's fields; a log-probability as its value.
func show(a Action) string {
	if t, ok := a.(Token); ok {
		text := fmt.Sprintf("%d id=%d %q", t.Seq, t.ID, t.Text)
		if t.LogProb != nil {
			text += fmt.Sprintf(" logprob=%v", t.LogProb.LogProb)
		}
		return text
	}
	return fmt.Sprintf("%+v", a)
}

func (s *script) config(t *testing.T, words []string) Config {
	t.Helper()
	cfg := Config{MaxTokens: 1000, Detokenizer: &letters{text: s.text}}
	for _, w := range words {
		key, value, _ := strings.Cut(w, "=")
		n, _ := strconv.Atoi(value)
		switch key {
		case "prompt":
			cfg.Prompt = n
		case "max":
			cfg.MaxTokens = n
		case "deadline":
			cfg.Deadline = time.UnixMilli(int64(n))
		case "stop":
			cfg.Stops = append(cfg.Stops, value)
		case "committed":
			for _, text := range strings.Split(value, ",") {
				cfg.Committed = append(cfg.Committed, s.id(t, text))
			}
		default:
			t.Fatalf("unknown setting %q", w)
		}
	}
	return cfg
}

func (s *script) event(t *testing.T, words []string) Event {
	t.Helper()
	number := func(i int) int {
		n, err := strconv.Atoi(words[i])
		if err != nil {
			t.Fatalf("%v: %v", words, err)
		}
		return n
	}
	switch words[0] {
	case "sampled": // sampled POSITION TEXT... [eos|length|logprobs|error=…]
		e := Sampled{Position: int32(number(1))}
		for _, w := range words[2:] {
			switch {
			case w == "eos":
				e.IDs, e.Finish = append(e.IDs, 0), frame.FinishStop
			case w == "length":
				e.Finish = frame.FinishLength
			case w == "logprobs":
				for i := range e.IDs {
					e.LogProbs = append(e.LogProbs, frame.LogProb{LogProb: -float32(i)})
				}
			case strings.HasPrefix(w, "error="):
				e.Err = strings.TrimPrefix(w, "error=")
			default:
				e.IDs = append(e.IDs, s.id(t, w))
			}
		}
		return e
	case "credit":
		return Credit{uint64(number(1))}
	case "lost":
		return Lost{}
	case "stop":
		return Stop{words[1]}
	case "fail":
		return Fail{Code: words[1], Message: "sorry", Retryable: true}
	case "tick":
		return Tick{time.UnixMilli(int64(number(1)))}
	}
	t.Fatalf("unknown event %v", words)
	return nil
}

// draw is a random answer: texts of ids, and how they arrive.
type draw struct {
	text  map[int32]string
	ids   []int32
	stops []string
	want  string // the whole text, cut at the stop string
}

func drawAnswer(t *rapid.T) draw {
	d := draw{text: map[int32]string{}}
	whole := rapid.StringOfN(rapid.RuneFrom([]rune("ab.é漢😀")), 0, 30, -1).Draw(t, "text")
	cuts := rapid.SliceOfN(rapid.IntRange(0, 5), 1, 40).Draw(t, "cuts")
	for rest, i := whole, 0; rest != ""; i++ { // pieces of any bytes, empty ones too
		n := min(cuts[i%len(cuts)], len(rest))
		if i > 200 {
			n = len(rest)
		}
		id := int32(i + 1)
		d.text[id], d.ids = rest[:n], append(d.ids, id)
		rest = rest[n:]
	}
	d.stops = rapid.SliceOfN(rapid.StringOfN(rapid.RuneFrom([]rune("ab.é漢")), 1, 4, -1), 0, 3).Draw(t, "stops")
	d.want = cutAtStop(whole, d.stops)
	return d
}

// cutAtStop is the specification: the text before the stop string that is
// complete first, the longest of those that end at one place.
func cutAtStop(text string, stops []string) string {
	end, start := len(text)+1, len(text)
	for _, s := range stops {
		i := strings.Index(text, s)
		if i < 0 {
			continue
		}
		if e := i + len(s); e < end || e == end && i < start {
			end, start = e, i
		}
	}
	return text[:start]
}

// TestTextIsTheAnswer: however text is cut into ids, ids into steps, steps
// repeated and credit given, the deltas and the last text are the answer up to
// the stop string, sequence numbers grow by one, and there is one terminal.
func TestTextIsTheAnswer(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := drawAnswer(t)
		const prompt = 5
		m := New(Config{Prompt: prompt, MaxTokens: len(d.ids) + 1, Stops: d.stops, Detokenizer: &letters{text: d.text}})
		c := collector{}
		c.take(t, m.Start())
		credit, at := 0, 0
		for !m.Done() {
			switch rapid.IntRange(0, 3).Draw(t, "what") {
			case 0:
				credit += rapid.IntRange(0, 8).Draw(t, "credit")
				c.take(t, m.Step(Credit{uint64(credit)}))
			case 1: // a repeat
				back := rapid.IntRange(0, at).Draw(t, "back")
				c.take(t, m.Step(Sampled{Position: int32(prompt + at - back), IDs: d.ids[at-back : at]}))
			default:
				n := rapid.IntRange(0, 6).Draw(t, "ids")
				if n = min(n, len(d.ids)-at, int(c.seq)+Ahead-at); n < 0 {
					n = 0
				}
				e := Sampled{Position: int32(prompt + at), IDs: d.ids[at : at+n]}
				if at += n; at == len(d.ids) && at < int(c.seq)+Ahead {
					e.IDs, e.Finish = append(e.IDs[:n:n], 0), frame.FinishStop
				}
				c.take(t, m.Step(e))
			}
			if int(c.seq) > credit {
				t.Fatalf("token %d left with credit for %d", c.seq, credit)
			}
		}
		complete, ok := c.terminal.(Complete)
		if got := c.text + complete.Text; !ok || got != d.want || complete.FinishReason != FinishStop {
			t.Fatalf("%T %+v, text %q, want %q", c.terminal, c.terminal, got, d.want)
		}
		for _, e := range []Event{Sampled{Position: prompt, IDs: d.ids}, Credit{99}, Stop{"client"}, Fail{}, Tick{}} {
			if a := m.Step(e); len(a) != 0 {
				t.Fatalf("after the terminal %T gave %v", e, a)
			}
		}
	})
}

// TestResumedAnswerContinues: an answer resumed after any number of tokens gives
// the rest of the text that the undisturbed one gives.
func TestResumedAnswerContinues(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := drawAnswer(t)
		cut := rapid.IntRange(0, len(d.ids)).Draw(t, "committed")
		texts := [2]string{}
		for i, committed := range []int{0, cut} {
			m := New(Config{Committed: d.ids[:committed], MaxTokens: len(d.ids) + 1, Stops: d.stops, Detokenizer: &letters{text: d.text}})
			c := collector{seq: uint64(committed)}
			c.take(t, m.Start())
			c.take(t, m.Step(Credit{1 << 20}))
			for at := committed; at < len(d.ids); at++ {
				before := c.text
				c.take(t, m.Step(Sampled{Position: int32(at), IDs: d.ids[at : at+1]}))
				if i == 0 && at < cut {
					texts[0] += c.text[len(before):]
				}
			}
			c.take(t, m.Step(Sampled{Position: int32(len(d.ids)), IDs: []int32{0}, Finish: frame.FinishStop}))
			complete, _ := c.terminal.(Complete)
			texts[i] += map[bool]string{true: c.text + complete.Text, false: ""}[i == 1]
			if i == 0 && c.text+complete.Text != d.want {
				t.Fatalf("text %q, want %q", c.text+complete.Text, d.want)
			}
		}
		if texts[0]+texts[1] != d.want {
			t.Fatalf("%q before the cut, %q after it, want %q", texts[0], texts[1], d.want)
		}
	})
}

// collector checks the order of actions and puts the text together.
type collector struct {
	seq      uint64
	text     string
	terminal Action
}

func (c *collector) take(t *rapid.T, actions []Action) {
	for _, a := range actions {
		if c.terminal != nil {
			t.Fatalf("%T after the terminal", a)
		}
		switch a := a.(type) {
		case Token:
			if a.Seq != c.seq+1 {
				t.Fatalf("token %d after %d", a.Seq, c.seq)
			}
			c.seq++
			c.text += a.Text
		case Complete, Stopped, Failed:
			c.terminal = a
		}
	}
}
