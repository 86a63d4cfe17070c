package shard

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/compute/cpu"
	"github.com/shoal-llm/shoal/pkg/model"
	"github.com/shoal-llm/shoal/pkg/quant/formats"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// next makes the plan of a later epoch, which keeps some pipelines and adds
// those of another plan under a number of their own.
func later(epoch uint64, kept []*pb.Pipeline, fresh *pb.Plan, id uint32) *pb.Plan {
	p := proto.CloneOf(fresh)
	p.Epoch, p.Pipelines = epoch, nil
	for _, pl := range kept {
		p.Pipelines = append(p.Pipelines, proto.CloneOf(pl))
	}
	for _, pl := range fresh.Pipelines {
		pl = proto.CloneOf(pl)
		pl.Id, pl.Epoch = id, epoch
		p.Pipelines = append(p.Pipelines, pl)
	}
	return p
}

// attachTo opens what a coordinator has to a pipeline of a plan.
func (b *boss) attachTo(pl *pb.Pipeline, first, last *node) (pb.ShardService_DriveClient, pb.ShardService_ResultsClient) {
	b.t.Helper()
	results, err := b.dial(b.identity, last).Results(b.ctx, &pb.ResultsRequest{Epoch: pl.Epoch, Pipeline: pl.Id})
	if err == nil {
		_, err = results.Header()
	}
	if err != nil {
		b.t.Fatal(err)
	}
	drive, err := b.dial(b.identity, first).Drive(b.ctx)
	if err == nil {
		err = drive.Send(&pb.DriveRequest{Message: &pb.DriveRequest_Attach{Attach: &pb.DriveOpen{Epoch: pl.Epoch, Pipeline: pl.Id}}})
	}
	if err != nil {
		b.t.Fatal(err)
	}
	return drive, results
}

func checkAlone(t *testing.T, answers []*answer) {
	t.Helper()
	for i, a := range answers {
		if want := alone(a.seed, a.prompt, a.most); !slices.Equal(a.got, want) {
			t.Errorf("session %d got %v, alone %v", i, a.got, want)
		}
	}
}

// TestPlansSideBySide: a plan that keeps a pipeline leaves its sessions alone
// while another is loaded beside it on the same devices; one that has no place
// for it ends it, and nothing else.
func TestPlansSideBySide(t *testing.T) {
	b := newBench(t, 2)
	boss := b.boss("boss")
	p1 := later(256, nil, b.plan(256, b.nodes[0], b.nodes[1]), 0)
	boss.install(p1, b.nodes...)
	a := p1.Pipelines[0]
	driveA, resultsA := boss.attachTo(a, b.nodes[0], b.nodes[1])
	first := newAnswers(3)
	for slot, x := range first {
		if err := driveA.Send(x.submit(slot)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := resultsA.Recv(); err != nil { // they run, as far as they may without commits
		t.Fatal(err)
	}
	p2 := later(512, []*pb.Pipeline{a}, b.plan(512, b.nodes[1], b.nodes[0]), 1)
	for _, n := range b.nodes {
		boss.send(n, p2)
		boss.loaded(n, 512)
	}
	c := p2.Pipelines[1]
	driveB, resultsB := boss.attachTo(c, b.nodes[1], b.nodes[0])
	second := newAnswers(5)
	generate(t, driveB, resultsB, second)
	checkAlone(t, second)

	resume(t, driveA, resultsA, first)
	checkAlone(t, first)

	p3 := later(768, []*pb.Pipeline{c}, &pb.Plan{Coordinator: p2.Coordinator, Model: p2.Model}, 0)
	for _, n := range b.nodes {
		boss.send(n, p3)
	}
	if reason := faultOf(driveA); reason == "" {
		t.Error("a pipeline without a place in the plan ends without a word")
	}
	third := newAnswers(4)
	generate(t, driveB, resultsB, third)
	checkAlone(t, third)
	stale, err := b.dial(boss.identity, b.nodes[0]).Drive(b.ctx)
	if err == nil {
		err = stale.Send(&pb.DriveRequest{Message: &pb.DriveRequest_Attach{Attach: &pb.DriveOpen{Epoch: a.Epoch, Pipeline: a.Id}}})
	}
	if err != nil && err != io.EOF {
		t.Fatal(err)
	}
	if reason := faultOf(stale); reason == "" {
		t.Error("a pipeline that is over can be driven")
	}
}

// resume drives sessions on whose first results were received and not committed.
func resume(t *testing.T, drive pb.ShardService_DriveClient, results pb.ShardService_ResultsClient, answers []*answer) {
	t.Helper()
	for slot, a := range answers { // the same commits again: the sampled ids come again by no stream
		a.got = alone(a.seed, a.prompt, a.most)[:1]
		if err := drive.Send(commit(slot, len(a.prompt)+1)); err != nil {
			t.Fatal(err)
		}
	}
	unfinished := len(answers)
	for unfinished > 0 {
		m, err := results.Recv()
		if err != nil {
			t.Fatalf("results: %v", err)
		}
		for _, s := range m.Result.Sampled {
			a := answers[s.Slot]
			if skip := len(a.prompt) + len(a.got) - int(s.Position); skip < len(s.Ids) {
				a.got = append(a.got, s.Ids[max(skip, 0):]...)
			}
			if s.Finish != 0 {
				unfinished--
			}
			if err := drive.Send(commit(int(s.Slot), len(a.prompt)+len(a.got))); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// tinyPlan has stages of the embedded model on a node, cut at layers.
func tinyPlan(t *testing.T, epoch uint64, n *node, cuts ...uint32) *pb.Plan {
	t.Helper()
	p := &pb.Plan{Epoch: epoch, Coordinator: "boss", Model: tinyParts(t).Model}
	pl := &pb.Pipeline{Id: uint32(epoch), Epoch: epoch, Pages: 4, Slots: 2, Rows: 16, Lanes: 1, Context: 128}
	cuts = append(cuts, p.Model.Layers)
	first := uint32(0)
	for _, end := range cuts {
		pl.Stages = append(pl.Stages, &pb.Stage{Node: n.id, Address: n.addr, First: first, End: end, Embed: first == 0, Head: end == p.Model.Layers})
		first = end
	}
	p.Pipelines = []*pb.Pipeline{pl}
	return p
}

// used waits until all stages of an epoch are loaded and returns what the device
// holds then.
func (b *boss) used(n *node, epoch uint64, stages int) uint64 {
	b.t.Helper()
	for {
		m, err := b.controls[n.id].Recv()
		if err != nil {
			b.t.Fatal(err)
		}
		st := m.GetStage()
		if st.GetState() == pb.LoadState_LOAD_STATE_FAILED {
			b.t.Fatalf("stage %d: %s", st.Stage, st.Error)
		}
		if st.GetEpoch() == epoch && st.State == pb.LoadState_LOAD_STATE_READY {
			if stages--; stages == 0 {
				return st.UsedBytes
			}
		}
	}
}

// TestWeightsAreShared: pipelines side by side on a device hold each matrix once,
// however they are cut, and a device that keeps its layers gives nothing back and
// takes nothing.
func TestWeightsAreShared(t *testing.T) {
	b := newBench(t, 0)
	n := b.startReal("shard-a", "")
	boss := b.boss("boss")
	boss.lease(n)
	install := func(p *pb.Plan, fresh uint64, stages int) uint64 {
		boss.send(n, p)
		return boss.used(n, fresh, stages)
	}
	one := tinyPlan(t, 256, n)
	alone := install(one, 256, 1)
	weights := uint64(0)
	m, err := library.Library{}.Open(library.Default)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	weights = m.Bytes(model.Whole(m.Spec))
	both := tinyPlan(t, 512, n, 3)
	both.Pipelines = append(both.Pipelines, one.Pipelines...)
	if more := install(both, 512, 2) - alone; more > weights/2 {
		t.Errorf("a second pipeline beside the first takes %d bytes, all weights are %d", more, weights)
	}
	back := tinyPlan(t, 768, n)
	if again := install(back, 768, 1); again != alone {
		t.Errorf("one pipeline takes %d bytes after another plan, %d before", again, alone)
	}
}

// TestWeightsOfADevice: equal matrices are one, parts of one tensor are not, and
// what nobody uses makes room for what somebody needs.
func TestWeightsOfADevice(t *testing.T) {
	format, ok := formats.ByName("F32")
	if !ok {
		t.Fatal("no format F32")
	}
	const rows, cols = 64, 256
	data := make([]byte, 4*3*rows*cols)
	for i := range data {
		data[i] = byte(i >> 10)
		if i%4 == 3 {
			data[i] = 0x3f // a number near one
		}
	}
	part := func(i int) compute.Matrix {
		return compute.Matrix{Name: "qkv", Format: format, Rows: rows, Cols: cols, Data: data[4*i*rows*cols : 4*(i+1)*rows*cols]}
	}
	be, err := cpu.Open(cpu.Config{Threads: 1, Reference: true, Memory: 3 * 4 * rows * cols})
	if err != nil {
		t.Fatal(err)
	}
	defer be.Close()
	w := newWeights(be)
	take := func(model byte, i int) (weightKey, compute.Weight) {
		m := part(i)
		k := w.keyOf([32]byte{model}, m)
		out, err := w.take(k, m)
		if err != nil {
			t.Fatalf("take part %d of model %d: %v", i, model, err)
		}
		return k, out
	}
	k0, a := take(1, 0)
	_, again := take(1, 0)
	_, other := take(1, 1)
	k2, _ := take(2, 0)
	if a != again || a == other || len(w.held) != 3 {
		t.Errorf("%d matrices are held, want 3: two parts, and one of another model", len(w.held))
	}
	m := part(2)
	if _, err := w.take(w.keyOf([32]byte{1}, m), m); err == nil {
		t.Error("a fourth matrix fits three")
	}
	w.drop(k2)
	take(1, 2) // the room of the one that nobody uses
	w.drop(k0)
	if _, err := w.sweep(); err != nil || w.held[k0] == nil {
		t.Errorf("a matrix with one user left is gone (%v)", err)
	}
	w.drop(k0)
	if freed, err := w.sweep(); freed != 1 || err != nil {
		t.Errorf("freed %d, %v", freed, err)
	}
}

// TestReserveIsReady: a device that holds a stage's weights in reserve needs no
// bytes for them when it takes the stage over, and gives them back when the plan
// does not name them any more.
func TestReserveIsReady(t *testing.T) {
	b := newBench(t, 0)
	boss := b.boss("boss")
	weights := func(n *node) (held uint64) {
		if err := n.shard.devices[0].do(b.ctx, func() { held = n.shard.devices[0].be.Used().Weights }); err != nil {
			t.Fatal(err)
		}
		return held
	}
	other := b.startReal("shard-b", "")
	boss.lease(other)
	boss.send(other, tinyPlan(t, 256, other, 2))
	boss.used(other, 256, 2)
	all := weights(other)

	n := b.startReal("shard-a", "")
	boss.lease(n)
	p := tinyPlan(t, 256, n, 2)
	second := p.Pipelines[0].Stages[1]
	p.Spares = []*pb.Stage{proto.CloneOf(second)}
	second.Node, second.Address = "elsewhere", "127.0.0.1:1"
	boss.send(n, p)
	boss.used(n, 256, 1)
	for weights(n) < all { // the reserve comes after the stage
	}
	boss.send(n, tinyPlan(t, 512, n, 2))
	boss.used(n, 512, 2)
	if held := weights(n); held != all {
		t.Errorf("with the stage that was in reserve weights take %d bytes, want %d", held, all)
	}
	boss.send(n, tinyPlan(t, 768, n))
	boss.used(n, 768, 1)
	less := p
	less.Epoch, less.Spares, less.Pipelines[0].Id = 1024, nil, 1
	less.Pipelines[0].Epoch = 1024
	boss.send(n, less)
	boss.used(n, 1024, 1)
	for weights(n) >= all { // nobody uses the second part any more
	}
}

// TestSilentLink: a link that loses what is sent in one direction, and tells
// nobody, ends the pipeline as a lost node does, soon.
func TestSilentLink(t *testing.T) {
	for _, to := range []int{1, 2} {
		for name, cut := range map[string]func(*severable){
			"to the node":   func(l *severable) { l.deaf.Store(true) },
			"from the node": func(l *severable) { l.dumb.Store(true) },
		} {
			t.Run(fmt.Sprint(name, " of stage ", to), func(t *testing.T) {
				t.Parallel()
				b := newBench(t, 3)
				boss := b.boss("boss")
				p := b.plan(1, b.nodes...)
				boss.install(p, b.nodes...)
				drive, results := boss.streams(p, b.nodes[0], b.nodes[2])
				if err := drive.Send(newAnswers(1)[0].submit(0)); err != nil {
					t.Fatal(err)
				}
				if _, err := results.Recv(); err != nil {
					t.Fatal(err)
				}
				cut(b.nodes[to].listener)
				began := time.Now()
				if reason := faultOf(drive); !strings.Contains(reason, "lost") {
					t.Errorf("the pipeline ends by %q", reason)
				}
				t.Logf("heard after %v", time.Since(began).Round(time.Millisecond))
			})
		}
	}
}
