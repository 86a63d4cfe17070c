package shard

import (
	"fmt"
	"log/slog"
	"runtime"
	"testing"

	"google.golang.org/grpc/encoding"

	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/internal/telemetry"
	"github.com/shoal-llm/shoal/internal/wire"
	"github.com/shoal-llm/shoal/pkg/compute/cpu"
	"github.com/shoal-llm/shoal/pkg/engine"
	"github.com/shoal-llm/shoal/pkg/frame"
	"github.com/shoal-llm/shoal/pkg/model"
	"github.com/shoal-llm/shoal/pkg/sample"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// line is two stages of the built-in model on two devices, with everything that a
// step passes on two shards but the driver and the sockets: feeding, the device,
// its engine, the outbox and the codec on both sides, and the results of a
// subscriber. The test is the owner of both devices.
type line struct {
	tb     testing.TB
	codec  encoding.CodecV2
	stages [2]*stage
	sub    *subscription
	frame  frame.Frame
}

func newLine(tb testing.TB, sessions int) *line {
	m, err := library.Library{}.Open("tiny")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { m.Close() })
	p := &pipeline{epoch: 1, plan: &pb.Pipeline{Stages: make([]*pb.Stage, 2)}, fuse: newFuse(), results: newResults()}
	l := &line{tb: tb, codec: wire.NewCodec(), sub: p.results.subscribe(), frame: frame.Frame{Epoch: 1}}
	for i, part := range []model.Part{{End: 4, Embed: true}, {First: 4, End: 8, Head: true}} {
		be, err := cpu.Open(cpu.Config{Threads: 1})
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { be.Close() })
		e, err := loadEngine(be, m.Arch, m.Source, m.Spec, engine.Config{
			Epoch: 1, Stage: uint32(i), Part: part, Pages: 128, Slots: 16, Rows: 64, Context: 512,
		})
		if err != nil {
			tb.Fatal(err)
		}
		d := newDevice(i, Device{Backend: be}, telemetry.Nop(), slog.New(slog.DiscardHandler))
		l.stages[i] = newStage(p, i, d)
		d.add(l.stages[i], e, nil)
	}
	for slot := range frame.Slot(sessions) {
		open := &frame.Open{Slot: slot, Attempt: 1, AnswerStart: 1, Sampling: sample.Spec{Temperature: 0.8, TopP: 0.9, Seed: uint64(slot)}}
		l.frame.Ops = append(l.frame.Ops, frame.Op{Open: open})
		l.frame.Spans = append(l.frame.Spans, frame.Span{Slot: slot, Attempt: 1, Tokens: []int32{1}, Output: frame.OutputSample})
	}
	l.step()
	l.frame.Ops = nil
	return l
}

// compute gives a frame to a stage and takes what it became off its device.
func (l *line) compute(st *stage, p *wire.Push) {
	if !st.feed(p) {
		l.tb.Fatal(st.pipe.fuse.err)
	}
	st.dev.start()
	st.dev.finish(<-st.dev.be.Completions())
	if st.pipe.fuse.blown() {
		l.tb.Fatal(st.pipe.fuse.err)
	}
}

// step takes a step from the driver's frame to the result's bytes.
func (l *line) step() *frame.Result {
	l.frame.Step++
	first, last := l.stages[0], l.stages[1]
	l.compute(first, &wire.Push{Frame: &l.frame})
	sent, err := l.codec.Marshal(&wire.Push{Frame: first.out.advance()})
	if err != nil {
		l.tb.Fatal(err)
	}
	received := new(wire.Push)
	if err := l.codec.Unmarshal(sent, received); err != nil {
		l.tb.Fatal(err)
	}
	sent.Free()
	if err := first.out.took(l.frame.Step); err != nil {
		l.tb.Fatal(err)
	}
	l.compute(last, received)
	result := <-l.sub.results
	said, err := l.codec.Marshal(&wire.Said{Result: result})
	if err != nil {
		l.tb.Fatal(err)
	}
	said.Free()
	for i := range result.Sampled {
		s := &result.Sampled[i]
		if s.Err != "" || len(s.IDs) != 1 {
			l.tb.Fatalf("session %d: %+v", i, s)
		}
		l.frame.Spans[i].Start, l.frame.Spans[i].Tokens[0] = s.Position, s.IDs[0]
	}
	return result
}

// TestResultsOutliveTheEngine: a subscriber that is behind reads what was said,
// not what the engine has put in its place.
func TestResultsOutliveTheEngine(t *testing.T) {
	l := newLine(t, 2)
	var kept []*frame.Result
	var texts []string
	for range 12 {
		r := l.step()
		kept, texts = append(kept, r), append(texts, fmt.Sprintf("%+v", *r))
	}
	for i, r := range kept {
		if now := fmt.Sprintf("%+v", *r); now != texts[i] {
			t.Errorf("result %d was %s and became %s", i, texts[i], now)
		}
	}
}

// BenchmarkStep is a decode step of two stages without driver and sockets, of so
// many sessions. "allocs/token" is the whole step's, for each of them.
func BenchmarkStep(b *testing.B) {
	const steps = 200 // twice that is within the context
	for _, sessions := range []int{1, 4, 16} {
		b.Run(fmt.Sprint(sessions), func(b *testing.B) {
			l := newLine(b, sessions)
			allocs := testing.AllocsPerRun(steps, func() { l.step() })
			for left := 0; b.Loop(); left-- {
				if left == 0 {
					b.StopTimer()
					l, left = newLine(b, sessions), 2*steps
					b.StartTimer()
				}
				l.step()
			}
			b.ReportMetric(allocs/float64(sessions), "allocs/token")
		})
	}
}

// BenchmarkPipeline is a token of two shards that serve: driver, sockets with
// mutual TLS, and the coordinator's end in the same process. "allocs/token" is
// what all of them allocate.
func BenchmarkPipeline(b *testing.B) {
	for _, sessions := range []int{1, 4} {
		b.Run(fmt.Sprint(sessions), func(b *testing.B) {
			c := newBench(b, 0)
			first, last := c.startReal("shard-0", ""), c.startReal("shard-1", "")
			boss := c.boss("boss")
			p := c.tinyPlan(first, last)
			for _, n := range []*node{first, last} {
				boss.lease(n)
				boss.send(n, p)
			}
			for _, n := range []*node{first, last} {
				boss.ready(n)
			}
			drive, results := boss.streams(p, first, last)
			tokens := 0
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for b.Loop() {
				tokens += answerAll(b, drive, results, sessions)
			}
			runtime.ReadMemStats(&after)
			b.ReportMetric(float64(after.Mallocs-before.Mallocs)/float64(tokens), "allocs/token")
			b.ReportMetric(float64(tokens)/b.Elapsed().Seconds(), "tokens/s")
		})
	}
}

// tinyPlan splits the built-in model over two nodes.
func (b *bench) tinyPlan(first, last *node) *pb.Plan {
	m := tinyParts(b.t).Model
	m.Context = 512
	return &pb.Plan{Epoch: 1, Coordinator: "boss", Model: m, Pipelines: []*pb.Pipeline{{
		Id: 4, Pages: 64, Slots: 8, Rows: 64, Lanes: 2, Context: 512,
		Stages: []*pb.Stage{
			{Node: first.id, Address: first.addr, First: 0, End: m.Layers / 2, Embed: true},
			{Node: last.id, Address: last.addr, First: m.Layers / 2, End: m.Layers, Head: true},
		},
	}}}
}

// ready waits for the one stage of a node.
func (b *boss) ready(n *node) {
	for {
		m, err := b.controls[n.id].Recv()
		if err != nil {
			b.t.Fatal(err)
		}
		switch st := m.GetStage(); st.GetState() {
		case pb.LoadState_LOAD_STATE_READY:
			return
		case pb.LoadState_LOAD_STATE_FAILED:
			b.t.Fatalf("node %s: %v", n.id, m)
		}
	}
}

// answerAll runs sessions of 200 ids to their ends and returns how many ids came.
func answerAll(tb testing.TB, drive pb.ShardService_DriveClient, results pb.ShardService_ResultsClient, sessions int) (tokens int) {
	const most = 200
	for slot := range sessions {
		open := &pb.OpenSession{
			Slot: uint32(slot), Attempt: 1, AnswerStart: 1,
			Sampling: &pb.Sampling{Temperature: 0.8, Seed: uint64(slot), MaxTokens: most, IgnoreEos: true},
		}
		m := &pb.DriveRequest{Message: &pb.DriveRequest_Submit{Submit: &pb.Submit{Open: open, Tokens: []int32{1}, Ahead: 32}}}
		if err := drive.Send(m); err != nil {
			tb.Fatal(err)
		}
	}
	for tokens < sessions*most {
		m, err := results.Recv()
		if err != nil {
			tb.Fatal(err)
		}
		for _, s := range m.Result.Sampled {
			tokens += len(s.Ids)
			if err := drive.Send(commit(int(s.Slot), int(s.Position)+len(s.Ids))); err != nil {
				tb.Fatal(err)
			}
		}
	}
	for closed := 0; closed < sessions; {
		m, err := drive.Recv()
		if err != nil {
			tb.Fatal(err)
		}
		if m.GetClosed() != nil {
			closed++
		}
	}
	return tokens
}
