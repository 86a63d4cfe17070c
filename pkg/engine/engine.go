// Package engine runs one part of a model on a device: frames of the step log
// in, frames for the next stage or results out.
//
// A Stage applies a frame to its log (pkg/kv), records one pass of the model
// and submits it; when the device is done it reads the rows, or samples where
// the logits are. It is used by the one goroutine that owns the device and
// never waits for it.
package engine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/frame"
	"github.com/shoal-llm/shoal/pkg/grammar"
	"github.com/shoal-llm/shoal/pkg/kv"
	"github.com/shoal-llm/shoal/pkg/model"
)

// ErrBadFrame says that a frame does not fit the stage: nothing of it was used.
var ErrBadFrame = errors.New("frame does not fit the stage")

// Config says which part of a model a stage is and how much it may hold.
type Config struct {
	Epoch    uint64
	Pipeline uint32
	Stage    uint32 // index in the pipeline, for timings
	Part     model.Part
	Pages    int // KV pages
	Slots    int // sessions
	Rows     int // rows of a step
	Context  int // positions of a session
	KV       compute.KVClass
	Adapters []model.Adapter // that sessions may go through, by their IDs

	Vocabulary *grammar.Vocabulary // of a stage with the head; nil: sessions with a grammar fail
}

// Output is what a frame became: a frame for the next stage, or a result.
//
// It is lent: the stage writes its memory again compute.MaxPasses frames later.
// Who keeps it longer copies it. Two things are not the stage's: the operations
// and spans of Frame are those of the frame that was started, and belong to
// whoever made that.
type Output struct {
	Frame  *frame.Frame
	Result *frame.Result
}

// Stage runs a part of a model.
type Stage struct {
	be    compute.Backend
	arena compute.Arena
	cfg   Config
	spec  model.Spec
	net   model.Stage
	log   *kv.Log
	ring  [compute.MaxPasses]work
	head  int // oldest started work
	count int // started and not finished

	sessions map[frame.Slot]*session // on the last stage
	automata automata
	pooling  map[frame.Slot]bool            // slots whose sessions make embeddings, as of the last started frame
	plain    map[frame.Slot]bool            // those whose ids are those of the largest logits
	pictures map[frame.Slot][]frame.Picture // of sessions that have some
	at       []int32                        // of the frame that is started: rows of pictures
	adapters map[frame.Slot]int             // numbers of those that sessions go through
	picks    compute.Buffer                 // what the device finds of these, where the head is: see picks.go
}

// work is one frame between Start and Finish, with buffers that are reused: a
// step like those before it allocates nothing.
type work struct {
	tag     uint64
	frame   *frame.Frame
	batch   compute.Batch
	ids     []int32
	logits  []int32   // rows that want logits
	picked  bool      // the device has found the largest of each
	values  []float32 // rows, logits or what was picked, as read
	hidden  []float32 // rows of the residual stream, where embeddings are made
	reads   [2]compute.Read
	bytes   []byte // rows of the output frame
	timings []frame.Timing
	out     frame.Frame
	outcome outcome
}

// Open loads a part of a model onto a device.
func Open(be compute.Backend, arch model.Arch, src model.Source, spec model.Spec, cfg Config) (*Stage, error) {
	if cfg.Rows < 1 || cfg.Rows > frame.MaxRows || cfg.Slots < 1 || cfg.Slots > frame.MaxSlots {
		return nil, fmt.Errorf("open stage: %d rows, %d slots", cfg.Rows, cfg.Slots)
	}
	if cfg.Context < 1 || cfg.Context > spec.Context {
		return nil, fmt.Errorf("open stage: context of %d, the model has %d", cfg.Context, spec.Context)
	}
	if err := spec.CheckKV(cfg.KV); err != nil {
		return nil, fmt.Errorf("open stage: %w", err)
	}
	needs := spec.Needs
	if cfg.KV != (compute.KVClass{}) {
		needs |= compute.FeaturePackedKV
	}
	if len(cfg.Adapters) > 0 {
		needs |= compute.FeatureLowRank
	}
	if lacks := needs & be.Info().Lacks; lacks != 0 {
		return nil, fmt.Errorf("open stage: %w: %s; run this model on a CPU", compute.ErrUnsupported, lacks)
	}
	arena := be.NewArena()
	net, err := arch.Load(arena, src, spec, cfg.Part, model.Limits{
		Rows: cfg.Rows, Logits: cfg.Rows, Pages: cfg.Pages, Slots: cfg.Slots, Positions: cfg.Context, KV: cfg.KV, Adapters: cfg.Adapters,
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("load layers [%d, %d): %w", cfg.Part.First, cfg.Part.End, err), arena.Free())
	}
	picks, err := newPicks(arena, cfg)
	if err != nil {
		return nil, errors.Join(err, arena.Free())
	}
	return &Stage{
		be: be, arena: arena, cfg: cfg, spec: spec, net: net, picks: picks,
		log: kv.NewLog(kv.Config{
			Epoch: cfg.Epoch, Pipeline: cfg.Pipeline,
			Pages: cfg.Pages, Slots: cfg.Slots, Rows: cfg.Rows, Context: cfg.Context, KV: cfg.KV,
		}),
		sessions: map[frame.Slot]*session{}, pooling: map[frame.Slot]bool{}, plain: map[frame.Slot]bool{}, pictures: map[frame.Slot][]frame.Picture{},
		adapters: map[frame.Slot]int{}, automata: automata{vocab: cfg.Vocabulary},
	}, nil
}

// Next returns the number of the step that the stage expects.
func (s *Stage) Next() uint64 { return s.log.Next() }

// Pages returns how many pages of the KV cache somebody holds, and how many
// there are.
func (s *Stage) Pages() (used, capacity int) {
	return s.log.Pages() - s.log.Free(), s.log.Pages()
}

// Ready reports whether another frame may be started.
func (s *Stage) Ready() bool { return s.count < len(s.ring) }

// Start applies a frame and submits its pass under tag. Errors of the log
// (kv.ErrRepeat, kv.ErrGap, kv.ErrEpoch, ...) and ErrBadFrame change nothing.
// The frame belongs to the stage until Finish.
func (s *Stage) Start(tag uint64, f *frame.Frame) error {
	if !s.Ready() {
		return fmt.Errorf("start step %d: %d steps are in flight", f.Step, s.count)
	}
	if err := s.check(f); err != nil {
		return err
	}
	step, err := s.log.Apply(f)
	if err != nil {
		return err
	}
	w := &s.ring[(s.head+s.count)%len(s.ring)]
	s.count++
	w.fill(tag, f, step)
	s.submit(w, step)
	return nil
}

// check holds the frame's sizes against the stage's own plan, before anything
// is allocated.
func (s *Stage) check(f *frame.Frame) error {
	rows := f.NumRows()
	if rows > s.cfg.Rows {
		return fmt.Errorf("%w: %d rows, the plan allows %d", ErrBadFrame, rows, s.cfg.Rows)
	}
	if err := s.checkRows(f, rows); err != nil {
		return err
	}
	for i := range f.Spans {
		for _, id := range f.Spans[i].Tokens {
			if id < 0 || int(id) >= s.spec.Vocab {
				return fmt.Errorf("%w: token id %d of a vocabulary of %d", ErrBadFrame, id, s.spec.Vocab)
			}
		}
	}
	if err := s.checkAdapters(f); err != nil {
		return err
	}
	return s.checkPools(f)
}

// fill describes the batch of a frame.
func (w *work) fill(tag uint64, f *frame.Frame, step *kv.Step) {
	w.tag, w.frame = tag, f
	w.ids, w.logits = w.ids[:0], w.logits[:0]
	w.batch.Spans = w.batch.Spans[:0]
	w.batch.Rows = 0
	for i := range f.Spans {
		span, at := &f.Spans[i], &step.Spans[i]
		n := len(span.Tokens)
		w.batch.Spans = append(w.batch.Spans, compute.Span{
			Row: w.batch.Rows, Start: int(span.Start), Count: n, Pages: at.Pages, Recent: at.Recent, Upper: at.Upper,
			Slot: int(at.Slot), Thinned: at.Thinned,
		})
		w.ids = append(w.ids, span.Tokens...)
		w.batch.Rows += n
		if wantsLogits(span.Output) {
			for r := n - 1 - int(span.Drafted); r < n; r++ {
				w.logits = append(w.logits, int32(w.batch.Rows-n+r))
			}
		}
	}
}

// wantsLogits reports whether an output is made of logits.
func wantsLogits(o frame.Output) bool { return o == frame.OutputSample || o == frame.OutputLogits }

// submit records and submits the pass of a frame. A frame without rows is an
// empty pass: it keeps its place in the order.
func (s *Stage) submit(w *work, step *kv.Step) {
	s.noteOps(w.frame.Ops)
	s.adapt(w)
	w.picked = false
	p := s.be.Begin(&w.batch)
	if len(step.Clear) > 0 {
		p.ClearPages(s.net.Cache(), step.Clear)
	}
	if w.batch.Rows == 0 {
		p.Submit(w.tag)
		return
	}
	out := s.net.Forward(p, model.Input{IDs: w.ids, Rows: w.frame.Rows, At: s.at}, w.logits)
	n := 0
	if out != nil {
		rows := w.batch.Rows
		if s.cfg.Part.Head {
			rows = len(w.logits)
			out = s.pick(p, w, out)
		}
		w.values = grow(w.values, rows*out.Cols())
		w.reads[n] = compute.Read{Src: out, Rows: rows, Dst: w.values}
		n++
	}
	if s.cfg.Part.Head && s.pools(w.frame) {
		w.hidden = grow(w.hidden, w.batch.Rows*s.spec.Hidden)
		w.reads[n] = compute.Read{Src: s.net.Hidden(), Rows: w.batch.Rows, Dst: w.hidden}
		n++
	}
	p.Submit(w.tag, w.reads[:n]...)
}

// Finish takes the completion of the oldest started frame.
func (s *Stage) Finish(c compute.Completion) (Output, error) {
	if s.count == 0 || s.ring[s.head].tag != c.Tag {
		return Output{}, fmt.Errorf("completion %d belongs to no frame of this stage", c.Tag)
	}
	w := &s.ring[s.head]
	s.head = (s.head + 1) % len(s.ring)
	s.count--
	if c.Err != nil {
		return Output{}, fmt.Errorf("compute step %d: %w", w.frame.Step, c.Err)
	}
	w.timings = append(append(w.timings[:0], w.frame.Timings...), frame.Timing{
		Stage: s.cfg.Stage, ComputeNS: uint64(c.Elapsed), Rows: uint32(w.batch.Rows),
	})
	if s.cfg.Part.Head {
		return Output{Result: s.result(w, c.NotFinite)}, nil
	}
	return Output{Frame: s.next(w)}, nil
}

// next makes the frame for the next stage.
func (s *Stage) next(w *work) *frame.Frame {
	w.out = frame.Frame{
		Epoch: w.frame.Epoch, Pipeline: w.frame.Pipeline, Step: w.frame.Step,
		Ops: w.frame.Ops, Spans: w.frame.Spans, Timings: w.timings,
	}
	if w.batch.Rows > 0 {
		w.bytes = grow(w.bytes, 4*len(w.values))
		for i, v := range w.values {
			binary.LittleEndian.PutUint32(w.bytes[4*i:], math.Float32bits(v))
		}
		w.out.DType, w.out.Rows = frame.DTypeF32, w.bytes
	}
	return &w.out
}

// Close frees what the stage holds on the device. No frame may be unfinished.
func (s *Stage) Close() error {
	s.sessions = nil
	return s.arena.Free()
}

// Used returns what the stage holds on the device.
func (s *Stage) Used() compute.Memory { return s.arena.Used() }

// grow returns a slice of n elements, reusing b's memory where it suffices.
func grow[T any](b []T, n int) []T {
	if cap(b) < n {
		return make([]T, n)
	}
	return b[:n]
}
