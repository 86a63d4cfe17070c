package coordinator

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc"

	"github.com/shoal-llm/shoal/internal/cluster"
	"github.com/shoal-llm/shoal/internal/pki"
	"github.com/shoal-llm/shoal/internal/wire"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/coordinator/generation"
	"github.com/shoal-llm/shoal/services/coordinator/plan"
)

// The toy vocabulary: the 256 bytes, and an end.
const (
	toyEnd   = 256
	toyVocab = 257
)

// toyText is the toy vocabulary with a template that writes a line per message.
type toyText struct{}

func (toyText) Chat(messages []Message) ([]int32, error) {
	var b strings.Builder
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
		Facts: plan.Model{Name: "toy", LayerBytes: []uint64{1 << 20, 1 << 20, 1 << 20, 1 << 20}, KVPage: 1 << 10, Context: 256},
	}
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
	hold chan struct{} // when set, no session goes beyond its first id before it is closed

	mu      sync.Mutex
	results map[uint64]chan *pb.StepResult // by epoch
	halted  map[uint32]bool                // by attempt
	closed  map[uint32]bool
	opened  []*pb.Submit
	change  chan struct{} // closed and replaced at every change
}

func newWires() *wires {
	return &wires{
		results: map[uint64]chan *pb.StepResult{}, halted: map[uint32]bool{}, closed: map[uint32]bool{}, change: make(chan struct{}),
	}
}

func (w *wires) stream(epoch uint64) chan *pb.StepResult {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.results[epoch] == nil {
		w.results[epoch] = make(chan *pb.StepResult, 1024)
	}
	return w.results[epoch]
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
	memory uint64
	wires  *wires
	server *grpc.Server
	mute   chan struct{} // when closed, heartbeats are not answered
}

func (f *fakeShard) Hello(context.Context, *pb.HelloRequest) (*pb.HelloResponse, error) {
	return &pb.HelloResponse{Protocol: 1, Cluster: f.id.ClusterID(), Node: f.node, Version: "test",
		Devices: []*pb.Device{{MemoryBytes: f.memory, NumericsClass: "toy"}}}, nil
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
		for i, s := range p.Pipelines[0].Stages {
			if s.Node != f.node {
				continue
			}
			for _, state := range []pb.LoadState{pb.LoadState_LOAD_STATE_LOADING, pb.LoadState_LOAD_STATE_READY} {
				out := &pb.StageState{Epoch: p.Epoch, Stage: uint32(i), State: state}
				if err := stream.Send(&pb.ControlResponse{Message: &pb.ControlResponse_Stage{Stage: out}}); err != nil {
					return err
				}
			}
		}
	}
}

func (f *fakeShard) Results(req *pb.ResultsRequest, stream pb.ShardService_ResultsServer) error {
	if err := stream.SendHeader(nil); err != nil {
		return err
	}
	results := f.wires.stream(req.Epoch)
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
	d := &fakeDriver{wires: f.wires, ctx: stream.Context(), send: make(chan *pb.DriveResponse, 64), commits: map[uint32]chan int32{}}
	go func() {
		for m := range d.send {
			_ = stream.Send(m) // a broken stream shows at Recv
		}
	}()
	defer func() {
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
	wires    *wires
	ctx      context.Context
	epoch    uint64
	send     chan *pb.DriveResponse
	commits  map[uint32]chan int32 // by attempt
	sessions sync.WaitGroup
}

func (d *fakeDriver) take(m *pb.DriveRequest) {
	switch m := m.Message.(type) {
	case *pb.DriveRequest_Attach:
		d.epoch = m.Attach.Epoch
	case *pb.DriveRequest_Submit:
		d.wires.update(func() { d.wires.opened = append(d.wires.opened, m.Submit) })
		commits := make(chan int32, 1024)
		d.commits[m.Submit.Open.Attempt] = commits
		d.sessions.Go(func() { d.run(m.Submit, commits) })
	case *pb.DriveRequest_Commit:
		d.commits[m.Commit.Attempt] <- m.Commit.Length
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
		case d.wires.stream(d.epoch) <- &pb.StepResult{PlanEpoch: d.epoch, Step: uint64(i + 1), Sampled: []*pb.Sampled{r}}:
		case <-d.ctx.Done():
			return
		}
		if r.Finish != pb.Finish_FINISH_UNSPECIFIED {
			break
		}
		if d.wires.hold != nil {
			for held := true; held && !halted; {
				select {
				case <-d.wires.hold:
					held = false
				case l, open := <-commits:
					note(l, open)
				case <-d.ctx.Done():
					return
				}
			}
		}
	}
	d.wires.update(func() { d.wires.closed[s.Open.Attempt] = true })
	d.reply(&pb.DriveResponse{Message: &pb.DriveResponse_Closed{Closed: &pb.Closed{Slot: s.Open.Slot, Attempt: s.Open.Attempt}}})
}

func (d *fakeDriver) reply(m *pb.DriveResponse) {
	select {
	case d.send <- m:
	case <-d.ctx.Done():
	}
}

// rig is a coordinator with fake shards and a gateway.
type rig struct {
	t      *testing.T
	secret pki.Secret
	gossip *gossip
	wires  *wires
	addr   string
	relay  *client
	shards map[string]*fakeShard
	end    context.CancelFunc
	ended  chan error
}

// newRig starts a coordinator that waits for as many shards as are named.
func newRig(t *testing.T, change func(*Config, *wires), shards ...string) *rig {
	t.Helper()
	r := &rig{t: t, secret: pki.NewSecret(), gossip: &gossip{changed: make(chan struct{}, 1)}, wires: newWires(),
		shards: map[string]*fakeShard{}, ended: make(chan error, 1)}
	cfg := Default()
	cfg.Version = "test"
	cfg.Wishes.Settle = 0
	cfg.Wishes.MinShards = len(shards)
	if change != nil {
		change(&cfg, r.wires)
	}
	for _, name := range shards {
		r.startShard(name)
	}
	l := listen(t)
	c, err := New(cfg, Deps{
		Identity: r.identity("head", pki.Coordinator), Listener: l, Members: r.gossip, Model: toyModel(),
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.addr, r.end = l.Addr().String(), cancel
	go func() { r.ended <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-r.ended; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	r.relay = r.connect("gw")
	return r
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func (r *rig) identity(id string, roles ...pki.Role) *pki.Identity {
	r.t.Helper()
	n, err := pki.New(r.secret, pki.Node{ID: id, Roles: roles})
	if err != nil {
		r.t.Fatal(err)
	}
	return n
}

func (r *rig) startShard(name string) {
	r.t.Helper()
	f := &fakeShard{node: name, id: r.identity(name, pki.Shard), memory: 64 << 20, wires: r.wires, mute: make(chan struct{})}
	f.server = grpc.NewServer(append(wire.ServerOptions(), grpc.Creds(f.id.ServerCredentials(pki.Coordinator)))...)
	pb.RegisterShardServiceServer(f.server, f)
	l := listen(r.t)
	go func() { _ = f.server.Serve(l) }()
	r.t.Cleanup(f.server.Stop)
	r.shards[name] = f
	r.gossip.add(name, l.Addr().String())
}

// dial connects to the coordinator as a node of the cluster.
func (r *rig) dial(id string, roles ...pki.Role) *grpc.ClientConn {
	r.t.Helper()
	creds := r.identity(id, roles...).ClientCredentials("head", pki.Coordinator)
	conn, err := grpc.NewClient(r.addr, append(wire.DialOptions(), grpc.WithTransportCredentials(creds))...)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { conn.Close() })
	return conn
}

// client is a gateway: it deals events to generations by number.
type client struct {
	t       *testing.T
	cluster pb.CoordinatorServiceClient
	stream  pb.CoordinatorService_RelayClient
	cancel  context.CancelFunc
	next    uint64

	mu     sync.Mutex
	events map[uint64]chan *pb.Event
}

func (r *rig) connect(id string) *client {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r.t.Cleanup(cancel)
	c := &client{t: r.t, cluster: pb.NewCoordinatorServiceClient(r.dial(id, pki.Gateway)), cancel: cancel, events: map[uint64]chan *pb.Event{}}
	var err error
	if c.stream, err = c.cluster.Relay(ctx); err != nil {
		r.t.Fatal(err)
	}
	go c.receive()
	return c
}

func (c *client) receive() {
	for {
		m, err := c.stream.Recv()
		if err != nil {
			return
		}
		for _, d := range m.Messages {
			c.box(d.Number) <- d.Event
		}
	}
}

func (c *client) box(number uint64) chan *pb.Event {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.events[number] == nil {
		c.events[number] = make(chan *pb.Event, 4096)
	}
	return c.events[number]
}

func (c *client) up(m ...*pb.Upward) {
	c.t.Helper()
	if err := c.stream.Send(&pb.RelayRequest{Messages: m}); err != nil {
		c.t.Fatal(err)
	}
}

// ask starts a generation with credit for so many tokens.
func (c *client) ask(credit uint64, g *pb.Generation) *answer {
	c.t.Helper()
	c.next++
	c.up(&pb.Upward{Number: c.next, Message: &pb.Upward_Start{Start: g}},
		&pb.Upward{Number: c.next, Message: &pb.Upward_Credit{Credit: &pb.Credit{Seq: credit}}})
	return &answer{client: c, number: c.next, seq: uint64(len(g.GetResumption().GetCommittedIds()))}
}

// answer is one generation as its gateway sees it.
type answer struct {
	client   *client
	number   uint64
	seq      uint64
	accepted *pb.Accepted
	text     string
	ids      []int32
	terminal *pb.Event
}

// event returns the next event and notes what it says.
func (a *answer) event() *pb.Event {
	t := a.client.t
	t.Helper()
	select {
	case e := <-a.client.box(a.number):
		switch e := e.Event.(type) {
		case *pb.Event_Accepted:
			a.accepted = e.Accepted
		case *pb.Event_Token:
			if a.seq++; e.Token.Seq != a.seq || a.accepted == nil {
				t.Fatalf("token %d where %d was due, accepted %v", e.Token.Seq, a.seq, a.accepted)
			}
			a.text += e.Token.Delta.GetContent()
			a.ids = append(a.ids, e.Token.Id)
		case *pb.Event_Complete:
			a.text += e.Complete.Text
		}
		if e.GetComplete() != nil || e.GetStopped() != nil || e.GetError() != nil {
			a.terminal = e
		}
		return e
	case <-time.After(10 * time.Second):
		t.Fatalf("generation %d: no event for ten seconds, text so far %q", a.number, a.text)
		return nil
	}
}

// until returns the first event that ok accepts.
func (a *answer) until(ok func(*pb.Event) bool) *pb.Event {
	a.client.t.Helper()
	for {
		e := a.event()
		if ok(e) {
			return e
		}
		if a.terminal != nil {
			a.client.t.Fatalf("generation %d ended with %v", a.number, a.terminal)
		}
	}
}

// finish reads to the terminal.
func (a *answer) finish() *pb.Event {
	a.client.t.Helper()
	for a.terminal == nil {
		a.event()
	}
	return a.terminal
}

func (a *answer) stop() {
	a.client.up(&pb.Upward{Number: a.number, Message: &pb.Upward_Stop{Stop: &pb.Stop{Reason: "client"}}})
}

func (a *answer) credit(seq uint64) {
	a.client.up(&pb.Upward{Number: a.number, Message: &pb.Upward_Credit{Credit: &pb.Credit{Seq: seq}}})
}

// report asks until the coordinator's report is as wanted.
func (r *rig) report(what string, ok func(*pb.ClusterResponse) bool) *pb.ClusterResponse {
	r.t.Helper()
	var last *pb.ClusterResponse
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		resp, err := r.relay.cluster.Cluster(r.t.Context(), &pb.ClusterRequest{})
		if err != nil {
			r.t.Fatal(err)
		}
		if last = resp; ok(resp) {
			return resp
		}
	}
	r.t.Fatalf("%s: not after ten seconds: %v", what, last)
	return nil
}

func ready(r *pb.ClusterResponse) bool { return r.Ready }
