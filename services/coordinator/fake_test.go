package coordinator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/shoal-llm/shoal/internal/cluster"
	"github.com/shoal-llm/shoal/internal/pki"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/coordinator/generation"
	"github.com/shoal-llm/shoal/services/coordinator/plan"
)

// The toy vocabulary: the 256 bytes, and an end.
const (
	toyEnd   = 256
	toyVocab = 257
	toyRows  = 4 // of a picture, where the model reads some
)

// toyText is the toy vocabulary with a template that writes a line per message.
type toyText struct{}

func (toyText) Chat(messages []Message, tools []json.RawMessage) ([]int32, error) {
	var b strings.Builder
	for _, t := range tools {
		fmt.Fprintf(&b, "tool: %s\n", t)
	}
	for _, m := range messages {
		fmt.Fprintf(&b, "%s: %s\n", m.Role, m.Content)
	}
	return toyText{}.Raw(b.String())
}

func (toyText) Raw(text string) ([]int32, error) {
	ids := make([]int32, len(text))
	for i := range len(text) {
		ids[i] = int32(text[i])
	}
	return ids, nil
}

func (toyText) Token(id int32) string               { return string(rune(id)) }
func (toyText) Detokenizer() generation.Detokenizer { return &toyDetokenizer{} }

type toyDetokenizer struct{ held []byte }

func (d *toyDetokenizer) Push(id int32) string {
	d.held = append(d.held, byte(id))
	if !utf8.FullRune(d.held) {
		return ""
	}
	return d.Flush()
}

func (d *toyDetokenizer) Flush() string {
	out := strings.ToValidUTF8(string(d.held), "\uFFFD")
	d.held = nil
	return out
}

// toyModel has four layers of a megabyte and a context of 256 positions.
func toyModel() Model {
	return Model{
		Name: "toy", Precision: "fp16", Vocab: toyVocab, Hidden: 8, Text: toyText{}, StopIDs: []int32{toyEnd},
		Facts: plan.Model{Name: "toy", LayerBytes: []uint64{1 << 20, 1 << 20, 1 << 20, 1 << 20}, KVPage: 1 << 10, Context: 256,
			Shapes: []string{"layer", "layer", "layer", "layer"}, HeadShape: "head"},
	}
}

// onePerNode is a placer that has every node hold the whole model.
func onePerNode(f plan.Facts) (plan.Placement, error) {
	var out plan.Placement
	for _, n := range f.Nodes {
		if slices.ContainsFunc(slices.Concat(f.Kept, f.Leaving), func(p *plan.Pipeline) bool { return p.OfNode(n.ID) >= 0 }) {
			continue
		}
		p, err := plan.Split(plan.Facts{Model: f.Model, Wishes: f.Wishes, Nodes: []plan.Node{n}})
		if err != nil {
			return out, err
		}
		out.Pipelines = append(out.Pipelines, p.Pipelines...)
	}
	out.Pipelines = append(out.Pipelines, f.Leaving...)
	return out, nil
}

// gossip is a member list that tests change.
type gossip struct {
	changed chan struct{}
	mu      sync.Mutex
	members []cluster.Member
}

func (g *gossip) Changed() <-chan struct{} { return g.changed }

func (g *gossip) Members() []cluster.Member {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.members)
}

func (g *gossip) add(id, addr string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.members = append(g.members, cluster.Member{NodeID: id, Meta: cluster.Meta{Roles: []pki.Role{pki.Shard}, GRPCAddr: addr}})
	select {
	case g.changed <- struct{}{}:
	default:
	}
}

// wires is what the fake shards of a test share: the way from the driver on the
// first stage to the results of the last, and what tests look at.
type wires struct {
	fetched chan struct{}                                                        // closed once weights are fetched; nil: they are there
	epoch   uint64                                                               // the shards have seen it before the test
	see     func(ctx context.Context, q *pb.SeeRequest) (*pb.SeeResponse, error) // of pictures; nil: as toyModel's rows
	unseen  func() bool                                                          // reports whether a driver has lost the rows of a session's pictures; nil is no
	leaves  chan bool                                                            // each one stops a node that gets a session: true says so before its pipeline ends, false after
	poison  int32                                                                // the first stage's node dies of a prompt with this id; 0 is none
	make    string                                                               // of every shard's device
	layer   map[string]float64                                                   // seconds that a layer takes, by node; nil: shards measure nothing

	mu      sync.Mutex
	results map[plan.Key]chan *pb.StepResult
	halted  map[uint32]bool // by attempt
	closed  map[uint32]bool
	opened  []*pb.Submit
	plans   []*pb.Plan    // as shards got them
	change  chan struct{} // closed and replaced at every change
}

func newWires() *wires {
	return &wires{
		results: map[plan.Key]chan *pb.StepResult{}, halted: map[uint32]bool{}, closed: map[uint32]bool{}, change: make(chan struct{}),
	}
}

func (w *wires) stream(key plan.Key) chan *pb.StepResult {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.results[key] == nil {
		w.results[key] = make(chan *pb.StepResult, 1024)
	}
	return w.results[key]
}

func (w *wires) update(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
	close(w.change)
	w.change = make(chan struct{})
}

// wait returns when ok holds.
func (w *wires) wait(t *testing.T, what string, ok func() bool) {
	t.Helper()
	limit := time.After(10 * time.Second)
	for {
		w.mu.Lock()
		done, change := ok(), w.change
		w.mu.Unlock()
		if done {
			return
		}
		select {
		case <-change:
		case <-limit:
			t.Fatalf("%s: not after ten seconds", what)
		}
	}
}

// fakeShard answers as a shard does. Its answers repeat the prompt: the i-th id
// is the prompt's i-th, and '$' stands for the end.
type fakeShard struct {
	pb.UnimplementedShardServiceServer
	node   string
	id     *pki.Identity
	class  string
	memory uint64
	wires  *wires
	leave  chan struct{} // each ends Control with the word that the shard is stopped
	server *grpc.Server
	seen   uint64        // the epoch that Hello names
	mute   chan struct{} // when closed, heartbeats are not answered
	holder atomic.Value  // of string: the coordinator that Hello names
}

func (f *fakeShard) Hello(context.Context, *pb.HelloRequest) (*pb.HelloResponse, error) {
	holder, _ := f.holder.Load().(string)
	return &pb.HelloResponse{Protocol: 1, Cluster: f.id.ClusterID(), Node: f.node, Version: "test", Holder: holder, Epoch: f.seen,
		Devices: []*pb.Device{{MemoryBytes: f.memory, NumericsClass: f.class, Name: f.wires.make}}}, nil
}

func (f *fakeShard) See(ctx context.Context, q *pb.SeeRequest) (*pb.SeeResponse, error) {
	if f.wires.see != nil {
		return f.wires.see(ctx, q)
	}
	return &pb.SeeResponse{Rows: toyRows}, nil
}

func (f *fakeShard) Beat(stream pb.ShardService_BeatServer) error {
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		select {
		case <-f.mute:
			continue
		default:
		}
		if err := stream.Send(&pb.BeatResponse{Sequence: m.Sequence}); err != nil {
			return err
		}
	}
}

func (f *fakeShard) Control(stream pb.ShardService_ControlServer) error {
	ended := make(chan error, 1)
	go func() { ended <- f.obey(stream) }()
	select {
	case err := <-ended:
		return err
	case <-f.leave:
		err := stream.Send(&pb.ControlResponse{Message: &pb.ControlResponse_Leaving{Leaving: &pb.Leaving{Reason: "it is stopped"}}})
		return errors.Join(status.Error(codes.Aborted, "it is stopped"), err)
	}
}

func (f *fakeShard) obey(stream pb.ShardService_ControlServer) error {
	leased := false
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		leased = leased || m.GetLease() != nil
		p := m.GetPlan()
		if p == nil {
			continue
		}
		if !leased {
			return fmt.Errorf("a plan before a lease")
		}
		if p.Epoch <= f.wires.epoch {
			return stream.Send(&pb.ControlResponse{Message: &pb.ControlResponse_Refused{
				Refused: &pb.Refused{Reason: "it is over", Epoch: f.wires.epoch},
			}})
		}
		f.wires.update(func() { f.wires.plans = append(f.wires.plans, p) })
		for _, pl := range p.Pipelines {
			if pl.Epoch != p.Epoch { // it is loaded
				continue
			}
			if err := f.load(stream, pl); err != nil {
				return err
			}
		}
	}
}

// load says that this node's stages of a pipeline are ready, once they may be.
func (f *fakeShard) load(stream pb.ShardService_ControlServer, pl *pb.Pipeline) error {
	for i, s := range pl.Stages {
		if s.Node != f.node {
			continue
		}
		for _, state := range []pb.LoadState{pb.LoadState_LOAD_STATE_LOADING, pb.LoadState_LOAD_STATE_READY} {
			out := &pb.StageState{Epoch: pl.Epoch, Pipeline: pl.Id, Stage: uint32(i), State: state}
			if f.wires.fetched != nil {
				if state == pb.LoadState_LOAD_STATE_READY {
					<-f.wires.fetched
				} else {
					out.Phase, out.DoneBytes, out.TotalBytes, out.Rate = phaseFetch, 30, 100, 7
				}
			}
			if err := stream.Send(&pb.ControlResponse{Message: &pb.ControlResponse_Stage{Stage: out}}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f *fakeShard) Results(req *pb.ResultsRequest, stream pb.ShardService_ResultsServer) error {
	if err := stream.SendHeader(nil); err != nil {
		return err
	}
	results := f.wires.stream(plan.Key{Epoch: req.Epoch, ID: req.Pipeline})
	for {
		select {
		case <-stream.Context().Done():
			return stream.Context().Err()
		case r := <-results:
			if err := stream.Send(&pb.ResultsResponse{Result: r}); err != nil {
				return err
			}
		}
	}
}

func (f *fakeShard) Drive(stream pb.ShardService_DriveServer) error {
	d := &fakeDriver{shard: f, wires: f.wires, ctx: stream.Context(), send: make(chan *pb.DriveResponse, 64), commits: map[uint32]chan int32{}}
	go func() {
		for m := range d.send {
			_ = stream.Send(m) // a broken stream shows at Recv
		}
	}()
	defer func() {
		for _, c := range d.commits {
			close(c)
		}
		d.sessions.Wait()
		close(d.send)
	}()
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		d.take(m)
	}
}

// fakeDriver runs every session in a goroutine of its own.
type fakeDriver struct {
	shard    *fakeShard
	wires    *wires
	ctx      context.Context
	key      plan.Key
	send     chan *pb.DriveResponse
	commits  map[uint32]chan int32 // by attempt
	sessions sync.WaitGroup
}

func (d *fakeDriver) take(m *pb.DriveRequest) {
	switch m := m.Message.(type) {
	case *pb.DriveRequest_Attach:
		d.key = plan.Key{Epoch: m.Attach.Epoch, ID: m.Attach.Pipeline}
	case *pb.DriveRequest_Submit:
		d.wires.update(func() { d.wires.opened = append(d.wires.opened, m.Submit) })
		if len(m.Submit.Open.Pictures) > 0 && d.wires.unseen != nil && d.wires.unseen() {
			d.reply(&pb.DriveResponse{Message: &pb.DriveResponse_Closed{Closed: &pb.Closed{
				Slot: m.Submit.Open.Slot, Attempt: m.Submit.Open.Attempt, Reason: "unseen",
			}}})
			return
		}
		if p := d.wires.poison; p != 0 && slices.Contains(m.Submit.Tokens, p) {
			go d.shard.server.Stop()
			return
		}
		select {
		case first := <-d.wires.leaves:
			if !first {
				d.reply(&pb.DriveResponse{Message: &pb.DriveResponse_Faulted{Faulted: &pb.Faulted{Reason: "the shard is stopping"}}})
				<-d.ctx.Done()
			}
			d.shard.leave <- struct{}{}
			return
		default:
		}
		commits := make(chan int32, 1024)
		d.commits[m.Submit.Open.Attempt] = commits
		d.sessions.Go(func() { d.run(m.Submit, commits) })
	case *pb.DriveRequest_Commit:
		if c := d.commits[m.Commit.Attempt]; c != nil {
			c <- m.Commit.Length
		}
	case *pb.DriveRequest_Halt:
		d.wires.update(func() { d.wires.halted[m.Halt.Attempt] = true })
		if c := d.commits[m.Halt.Attempt]; c != nil {
			close(c)
			delete(d.commits, m.Halt.Attempt)
		}
	}
}

// run samples until the session ends or is halted, and then closes the slot.
func (d *fakeDriver) run(s *pb.Submit, commits <-chan int32) {
	prompt, n := int(s.Open.AnswerStart), len(s.Tokens)
	committed, halted := n, false
	note := func(length int32, open bool) {
		if halted = !open; open {
			committed = int(length)
		}
	}
	total := uint32(n)
	d.reply(&pb.DriveResponse{Message: &pb.DriveResponse_Prefilled{Prefilled: &pb.Prefilled{
		Slot: s.Open.Slot, Attempt: s.Open.Attempt, Done: int32(total), Total: int32(total),
	}}})
	if s.Open.Pooling != pb.Pooling_POOLING_UNSPECIFIED {
		d.embed(s)
		return
	}
	for i := n - prompt; !halted; i++ {
		select { // what is known by now
		case l, open := <-commits:
			note(l, open)
		default:
		}
		for !halted && prompt+i >= committed+int(s.Ahead) { // no credit
			l, open := <-commits
			note(l, open)
		}
		if halted {
			break
		}
		r := &pb.Sampled{Slot: s.Open.Slot, Attempt: s.Open.Attempt, Position: int32(prompt + i), Ids: []int32{s.Tokens[i%prompt]}}
		switch {
		case r.Ids[0] == '$' && slices.Contains(s.Open.Sampling.StopIds, toyEnd):
			r.Ids[0], r.Finish = toyEnd, pb.Finish_FINISH_STOP
		case int32(i+1) == s.Open.Sampling.MaxTokens:
			r.Finish = pb.Finish_FINISH_LENGTH
		}
		select {
		case d.wires.stream(d.key) <- &pb.StepResult{PlanEpoch: d.key.Epoch, Pipeline: d.key.ID, Step: uint64(i + 1), Sampled: []*pb.Sampled{r}}:
		case <-d.ctx.Done():
			return
		}
		if r.Finish != pb.Finish_FINISH_UNSPECIFIED {
			break
		}
	}
	d.wires.update(func() { d.wires.closed[s.Open.Attempt] = true })
	d.reply(&pb.DriveResponse{Message: &pb.DriveResponse_Closed{Closed: &pb.Closed{Slot: s.Open.Slot, Attempt: s.Open.Attempt}}})
}

// embed gives the prompt's ids as its embedding.
func (d *fakeDriver) embed(s *pb.Submit) {
	r := &pb.Sampled{Slot: s.Open.Slot, Attempt: s.Open.Attempt, Position: int32(len(s.Tokens)), Finish: pb.Finish_FINISH_STOP}
	r.Pooled = make([]float32, toyModel().Hidden)
	for i, id := range s.Tokens {
		r.Pooled[i%len(r.Pooled)] += float32(id)
	}
	select {
	case d.wires.stream(d.key) <- &pb.StepResult{PlanEpoch: d.key.Epoch, Pipeline: d.key.ID, Step: 1, Sampled: []*pb.Sampled{r}}:
	case <-d.ctx.Done():
		return
	}
	d.reply(&pb.DriveResponse{Message: &pb.DriveResponse_Closed{Closed: &pb.Closed{Slot: s.Open.Slot, Attempt: s.Open.Attempt}}})
}

func (d *fakeDriver) reply(m *pb.DriveResponse) {
	select {
	case d.send <- m:
	case <-d.ctx.Done():
	}
}
