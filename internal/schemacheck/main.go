// Command schemacheck measures constrained answers: it lets a model answer by
// generated JSON schemas at temperature 1, holds every answer that ended by
// itself against an independent validator, and writes the shares and the time
// of the masks.
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/internal/measure"
	"github.com/shoal-llm/shoal/pkg/compute/cpu"
	"github.com/shoal-llm/shoal/pkg/engine"
	"github.com/shoal-llm/shoal/pkg/frame"
	"github.com/shoal-llm/shoal/pkg/grammar"
	"github.com/shoal-llm/shoal/pkg/grammar/grammartest"
	"github.com/shoal-llm/shoal/pkg/model"
	"github.com/shoal-llm/shoal/pkg/sample"
	"github.com/shoal-llm/shoal/pkg/template"
	"github.com/shoal-llm/shoal/pkg/token"
)

// Sizes of the run.
const (
	slots     = 16
	depth     = 3 // of the schemas
	maxTokens = 512
	positions = 1024
	pageSize  = 64
	plain     = 64 // tokens without a grammar, for the time of one
	rounds    = 7
)

func main() {
	name := flag.String("model", ".cache/models/smollm2.gguf", "model file")
	count := flag.Int("count", 500, "schemas")
	threads := flag.Int("threads", runtime.NumCPU(), "threads of the engine")
	save := flag.String("save", "", "file of figures to merge the results into")
	flag.Parse()
	if err := run(*name, *count, *threads, *save); err != nil {
		fmt.Fprintln(os.Stderr, "schemacheck:", err)
		os.Exit(1)
	}
}

// check is a model that answers by schemas.
type check struct {
	model *library.Model
	vocab *token.Vocab
	words *grammar.Vocabulary
	local *engine.Local
	tally tally
}

// tally is what came out.
type tally struct {
	answers, stopped, valid int
	tokens                  int
	masking                 time.Duration
	invalid                 []string
}

func run(name string, count, threads int, save string) error {
	m, err := library.Library{}.Open(name)
	if err != nil {
		return err
	}
	defer m.Close()
	c := &check{model: m}
	if c.vocab, err = m.Vocab(); err != nil {
		return err
	}
	if c.words, err = m.Spelling(); err != nil {
		return err
	}
	be, err := cpu.Open(cpu.Config{Threads: threads})
	if err != nil {
		return err
	}
	defer be.Close()
	st, err := engine.Open(be, m.Arch, m.Source, m.Spec, engine.Config{
		Epoch: 1, Part: model.Whole(m.Spec), Slots: slots, Rows: 512,
		Pages: slots * positions / pageSize, Context: positions, Vocabulary: c.words,
	})
	if err != nil {
		return err
	}
	c.local = engine.NewLocal(st)
	defer c.local.Close()
	perToken, err := c.decodeTime()
	if err != nil {
		return err
	}
	if err := c.answerAll(count); err != nil {
		return err
	}
	return c.report(perToken, threads, count, save)
}

// decodeTime measures one token of one session without a grammar, in the best
// of some rounds.
func (c *check) decodeTime() (time.Duration, error) {
	best := time.Duration(math.MaxInt64)
	for range rounds {
		took, err := c.decodeOnce()
		if err != nil {
			return 0, err
		}
		best = min(best, took)
	}
	return best, nil
}

func (c *check) decodeOnce() (time.Duration, error) {
	open := &frame.Open{Attempt: 1, Sampling: sample.Spec{Temperature: 1, Seed: 1, MaxTokens: plain, IgnoreEOS: true}}
	var began time.Time
	n := 0
	for _, err := range c.local.Generate(context.Background(), open, c.vocab.Encode("Once upon a time")) {
		if err != nil {
			return 0, err
		}
		if n++; n == 1 {
			began = time.Now()
		}
	}
	return time.Since(began) / time.Duration(n-1), nil
}

// answer is one session on its way.
type answer struct {
	schema   []byte
	open     *frame.Open
	next     []int32 // to be computed
	position int32
	ids      []int32
}

// answerAll keeps all slots busy until every schema has its answer.
func (c *check) answerAll(count int) error {
	var busy [slots]*answer
	ops := []frame.Op{{Close: &frame.Close{}}} // of decodeTime
	for started, done := 0, 0; done < count; {
		var spans []frame.Span
		room := 512
		for slot := range busy {
			if busy[slot] == nil && started < count {
				a, err := c.begin(started, frame.Slot(slot))
				if err != nil {
					return err
				}
				started++
				busy[slot] = a
				ops = append(ops, frame.Op{Open: a.open})
			}
			if a := busy[slot]; a != nil && room > 0 {
				span := a.span(room)
				room -= len(span.Tokens)
				spans = append(spans, span)
			}
		}
		r, err := c.local.Step(ops, spans)
		if err != nil {
			return err
		}
		ops = nil
		for i := range r.Sampled {
			s := &r.Sampled[i]
			a := busy[s.Slot]
			if s.Err != "" {
				return fmt.Errorf("schema %s: %s", a.schema, s.Err)
			}
			a.ids = append(a.ids, s.IDs...)
			a.next = a.ids[len(a.ids)-len(s.IDs):] // s is lent
			if s.Finish == frame.FinishNone {
				continue
			}
			if err := c.judge(a, s.Finish == frame.FinishStop); err != nil {
				return err
			}
			busy[s.Slot] = nil
			ops = append(ops, frame.Op{Close: &frame.Close{Slot: s.Slot}})
			if done++; done%50 == 0 {
				fmt.Fprintf(os.Stderr, "%d of %d answers, %d valid of %d that ended\n", done, count, c.tally.valid, c.tally.stopped)
			}
		}
	}
	return nil
}

// span is the next piece of an answer, of at most room rows.
func (a *answer) span(room int) frame.Span {
	n := min(room, len(a.next))
	s := frame.Span{Slot: a.open.Slot, Attempt: a.open.Attempt, Start: a.position, Tokens: a.next[:n]}
	if n == len(a.next) {
		s.Output = frame.OutputSample
	}
	a.position += int32(n)
	a.next = a.next[n:]
	return s
}

// begin makes the session of a schema.
func (c *check) begin(number int, slot frame.Slot) (*answer, error) {
	schema := grammartest.Schema(rand.New(rand.NewPCG(uint64(number), 7)), depth)
	g, err := grammar.Compile(schema)
	if err != nil {
		return nil, fmt.Errorf("compile %s: %w", schema, err)
	}
	prompt, err := c.prompt(schema)
	if err != nil {
		return nil, err
	}
	return &answer{schema: schema, next: prompt, open: &frame.Open{
		Slot: slot, Attempt: uint32(number + 2), Grammar: g.Bytes(), AnswerStart: int32(len(prompt)),
		Sampling: sample.Spec{Temperature: 1, Seed: uint64(number), MaxTokens: maxTokens, Stop: c.vocab.End()},
	}}, nil
}

// prompt asks for a document, with as much of the schema as is short.
func (c *check) prompt(schema []byte) ([]int32, error) {
	text := string(schema[:min(len(schema), 200)])
	t, err := c.model.Template()
	if err != nil {
		return nil, err
	}
	segments, err := t.Render(template.Input{
		Messages: []template.Message{
			{Role: "system", Content: "You answer in JSON."},
			{Role: "user", Content: "Give an example for this JSON schema: " + strings.ToValidUTF8(text, "")},
		},
		AddGenerationPrompt: true, Now: time.Now(), BOS: c.vocab.Text(c.vocab.BOS()), EOS: c.vocab.Text(c.vocab.EOS()),
	})
	if err != nil {
		return nil, err
	}
	return c.vocab.EncodeSegments(segments), nil
}

// judge counts an answer, and measures its masks by walking through it again.
func (c *check) judge(a *answer, stopped bool) error {
	t := &c.tally
	t.answers++
	t.tokens += len(a.ids)
	took, err := c.replay(a)
	if err != nil {
		return err
	}
	t.masking += took
	if !stopped {
		return nil
	}
	t.stopped++
	text := c.vocab.Decode(slices.DeleteFunc(slices.Clone(a.ids), func(id int32) bool { return slices.Contains(c.vocab.End(), id) }))
	if err := validate(a.schema, text); err != nil {
		t.invalid = append(t.invalid, fmt.Sprintf("%s\n  %s\n  %v", a.schema, text, err))
		return nil
	}
	t.valid++
	return nil
}

// replay returns what masks and matching of an answer take, from the parsing of
// its grammar on.
func (c *check) replay(a *answer) (time.Duration, error) {
	rows := make([]float32, c.words.Len())
	began := time.Now()
	g, err := grammar.Parse(a.open.Grammar)
	if err != nil {
		return 0, err
	}
	m := grammar.NewAutomaton(g, c.words).NewMatcher(a.open.Sampling.Stop)
	for i, id := range a.ids {
		if err := m.Mask(rows, maxTokens-i); err != nil {
			return 0, err
		}
		if err := m.Accept(id); err != nil {
			return 0, err
		}
	}
	return time.Since(began), nil
}

func validate(schema []byte, text string) error {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(schema))
	if err != nil {
		return err
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("schema.json", doc); err != nil {
		return err
	}
	s, err := compiler.Compile("schema.json")
	if err != nil {
		return err
	}
	value, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
	if err != nil {
		return err
	}
	return s.Validate(value)
}

// report prints and saves the figures. An invalid answer is an error.
func (c *check) report(perToken time.Duration, threads, count int, save string) error {
	t := &c.tally
	perMask := t.masking / time.Duration(max(t.tokens, 1))
	machine := fmt.Sprintf("%s, %d threads", runtime.GOARCH, threads)
	command := "make json-schema"
	figures := []measure.Figure{
		{Name: "json_schema_valid", Value: 100 * float64(t.valid) / float64(max(t.stopped, 1)), Unit: "% of answers that end with stop", Runs: count},
		{Name: "json_schema_stop_share", Value: 100 * float64(t.stopped) / float64(max(t.answers, 1)), Unit: "%", Runs: count},
		{Name: "json_schema_mask_us", Value: float64(perMask) / float64(time.Microsecond), Unit: "µs/token", Runs: count},
		{Name: "json_schema_mask_share", Value: 100 * float64(perMask) / float64(perToken), Unit: "% of a token's decode time", Runs: count},
	}
	for i := range figures {
		figures[i].Machine, figures[i].Command = machine, command
		fmt.Printf("%-24s %.4g %s\n", figures[i].Name, figures[i].Value, figures[i].Unit)
	}
	fmt.Printf("%d tokens, %v per token without a grammar\n", t.tokens, perToken)
	if save != "" {
		if err := measure.Save(save, figures); err != nil {
			return err
		}
	}
	if len(t.invalid) > 0 {
		return fmt.Errorf("%d answers are invalid:\n%s", len(t.invalid), strings.Join(t.invalid, "\n"))
	}
	return nil
}
