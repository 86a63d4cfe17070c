package shard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"github.com/shoal-llm/shoal/internal/pki"
	"github.com/shoal-llm/shoal/internal/telemetry"
	"github.com/shoal-llm/shoal/internal/wire"
	"github.com/shoal-llm/shoal/pkg/compute"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is when a test gives up on something that should happen.
const patience = 10 * time.Second

// node is a shard in this process.
type node struct {
	id        string
	addr      string
	backend   *fakeBackend
	shard     *Shard // of real ones
	telemetry *telemetry.Telemetry
	kill      func()          // ends it and waits
	ended     <-chan struct{} // closed at its end
	sever     func()          // cuts every connection to it, as when its process is killed
	listener  *severable
}

// severable is a listener whose connections can be cut.
type severable struct {
	net.Listener
	mu    sync.Mutex
	conns []net.Conn    // guarded by mu
	deaf  atomic.Bool   // what is sent to the node is lost
	dumb  atomic.Bool   // what it sends is
	over  chan struct{} // closed when the node ends
}

func (s *severable) Accept() (net.Conn, error) {
	c, err := s.Listener.Accept()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns = append(s.conns, c)
	return &quiet{Conn: c, of: s, closed: make(chan struct{})}, nil
}

// quiet is a connection over which messages get lost without an error.
type quiet struct {
	net.Conn
	of     *severable
	once   sync.Once
	closed chan struct{}
}

func (q *quiet) Read(p []byte) (int, error) {
	n, err := q.Conn.Read(p)
	if err == nil && q.of.deaf.Load() {
		select {
		case <-q.closed:
		case <-q.of.over:
		}
		return 0, net.ErrClosed
	}
	return n, err
}

func (q *quiet) Write(p []byte) (int, error) {
	if q.of.dumb.Load() {
		return len(p), nil
	}
	return q.Conn.Write(p)
}

func (q *quiet) Close() error {
	q.once.Do(func() { close(q.closed) })
	return q.Conn.Close()
}

func (s *severable) sever() {
	s.Listener.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		c.Close()
	}
}

// bench is a cluster of shards and who calls them.
type bench struct {
	t      testing.TB
	ctx    context.Context
	secret pki.Secret
	nodes  []*node
}

func newBench(t testing.TB, shards int) *bench {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	t.Cleanup(cancel)
	b := &bench{t: t, ctx: ctx, secret: pki.NewSecret()}
	for i := range shards {
		b.nodes = append(b.nodes, b.start(fmt.Sprint("shard-", i), "k1"))
	}
	return b
}

func (b *bench) identity(id string, roles ...pki.Role) *pki.Identity {
	b.t.Helper()
	identity, err := pki.New(b.secret, pki.Node{ID: id, Roles: roles})
	if err != nil {
		b.t.Fatal(err)
	}
	return identity
}

func (b *bench) start(id, kernels string, change ...func(*Deps)) *node {
	b.t.Helper()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.t.Fatal(err)
	}
	l := &severable{Listener: inner, over: make(chan struct{})}
	n := &node{id: id, addr: l.Addr().String(), backend: newFakeBackend()}
	n.telemetry, _, err = telemetry.New(b.ctx, telemetry.Options{ServiceName: "test", NodeID: id})
	if err != nil {
		b.t.Fatal(err)
	}
	deps := Deps{
		Identity: b.identity(id, pki.Shard), Listener: l, Devices: []Device{{Backend: n.backend}},
		Open: fakeModel, Load: loadFake, Telemetry: n.telemetry, Log: slog.New(slog.DiscardHandler),
	}
	for _, c := range change {
		c(&deps)
	}
	s, err := New(Config{Version: "test", KernelSet: kernels, Chunk: 16}, deps)
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := s.Run(ctx); err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, compute.ErrLost) {
			b.t.Errorf("shard %s: %v", id, err)
		}
	}()
	n.shard, n.ended = s, ended
	end := sync.OnceFunc(func() { close(l.over) })
	n.kill = func() { end(); cancel(); <-ended }
	n.sever, n.listener = l.sever, l
	b.t.Cleanup(n.kill)
	return n
}

// dial connects to a node as somebody.
func (b *bench) dial(as *pki.Identity, n *node) pb.ShardServiceClient {
	b.t.Helper()
	options := append(wire.DialOptions(), grpc.WithTransportCredentials(as.ClientCredentials(n.id, pki.Shard)))
	conn, err := grpc.NewClient("passthrough:///"+n.addr, options...)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { conn.Close() })
	return pb.NewShardServiceClient(conn)
}

// plan splits the fake model over the nodes in order; a node may occur again.
func (b *bench) plan(epoch uint64, nodes ...*node) *pb.Plan {
	p := &pb.Plan{
		Epoch: epoch, Coordinator: "boss",
		Model: &pb.Model{Name: "fake", Digest: append([]byte{1, 2, 3}, make([]byte, 29)...), Layers: fakeLayers, Hidden: fakeHidden, Vocab: fakeVocab, Context: fakeContext},
	}
	pl := &pb.Pipeline{Id: 4, Pages: 64, Slots: 8, Rows: 32, Lanes: 2, Context: fakeContext}
	for i, n := range nodes {
		first, end := i*fakeLayers/len(nodes), (i+1)*fakeLayers/len(nodes)
		pl.Stages = append(pl.Stages, &pb.Stage{
			Node: n.id, Address: n.addr, First: uint32(first), End: uint32(end), Embed: i == 0, Head: end == fakeLayers,
		})
	}
	p.Pipelines = []*pb.Pipeline{pl}
	return p
}

// boss is a coordinator's end of things.
type boss struct {
	*bench
	identity *pki.Identity
	controls map[string]pb.ShardService_ControlClient
}

func (b *bench) boss(id string) *boss {
	return &boss{bench: b, identity: b.identity(id, pki.Coordinator), controls: map[string]pb.ShardService_ControlClient{}}
}

// lease opens the Control stream to a node.
func (b *boss) lease(n *node) pb.ShardService_ControlClient {
	b.t.Helper()
	c, err := b.dial(b.identity, n).Control(b.ctx)
	if err != nil {
		b.t.Fatal(err)
	}
	l := &pb.Lease{Coordinator: b.identity.NodeID(), DurationMs: 10_000}
	if err := c.Send(&pb.ControlRequest{Message: &pb.ControlRequest_Lease{Lease: l}}); err != nil {
		b.t.Fatal(err)
	}
	b.controls[n.id] = c
	return c
}

// install leases all nodes of a plan, sends it and waits until every stage is
// loaded.
func (b *boss) install(p *pb.Plan, nodes ...*node) {
	b.t.Helper()
	for _, n := range nodes {
		if b.controls[n.id] == nil {
			b.lease(n)
		}
		b.send(n, p)
	}
	for _, n := range nodes {
		for range count(p, n.id) {
			b.loaded(n, p.Epoch)
		}
	}
}

func count(p *pb.Plan, id string) (stages int) {
	for _, st := range p.Pipelines[0].Stages {
		if st.Node == id {
			stages++
		}
	}
	return stages
}

func (b *boss) send(n *node, p *pb.Plan) {
	b.t.Helper()
	if err := b.controls[n.id].Send(&pb.ControlRequest{Message: &pb.ControlRequest_Plan{Plan: p}}); err != nil {
		b.t.Fatal(err)
	}
}

// loaded waits for one stage to be ready.
func (b *boss) loaded(n *node, epoch uint64) {
	b.t.Helper()
	for {
		m, err := b.controls[n.id].Recv()
		if err != nil {
			b.t.Fatalf("control stream to %s: %v", n.id, err)
		}
		st := m.GetStage()
		if st == nil || st.State == pb.LoadState_LOAD_STATE_FAILED {
			b.t.Fatalf("node %s: %v", n.id, m)
		}
		if st.Epoch == epoch && st.State == pb.LoadState_LOAD_STATE_READY {
			if st.DoneBytes != st.TotalBytes || st.DoneBytes == 0 || st.UsedBytes != 1000 {
				b.t.Errorf("loaded stage says %v", st)
			}
			return
		}
	}
}

// streams opens what a coordinator has to a pipeline.
func (b *boss) streams(p *pb.Plan, first, last *node) (pb.ShardService_DriveClient, pb.ShardService_ResultsClient) {
	b.t.Helper()
	results, err := b.dial(b.identity, last).Results(b.ctx, &pb.ResultsRequest{Epoch: p.Epoch, Pipeline: 4})
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := results.Header(); err != nil {
		b.t.Fatal(err)
	}
	drive, err := b.dial(b.identity, first).Drive(b.ctx)
	if err != nil {
		b.t.Fatal(err)
	}
	attach := &pb.DriveOpen{Epoch: p.Epoch, Pipeline: 4}
	if err := drive.Send(&pb.DriveRequest{Message: &pb.DriveRequest_Attach{Attach: attach}}); err != nil {
		b.t.Fatal(err)
	}
	return drive, results
}

// answer is a session's on its way.
type answer struct {
	prompt []int32
	seed   uint64
	most   int
	got    []int32
}

func newAnswers(n int) []*answer {
	var out []*answer
	for i := range n {
		prompt := make([]int32, 1+37*i%90)
		for j := range prompt {
			prompt[j] = int32((i + 3*j) % fakeVocab)
		}
		out = append(out, &answer{prompt: prompt, seed: uint64(i), most: 60})
	}
	return out
}

func (a *answer) submit(slot int) *pb.DriveRequest {
	return &pb.DriveRequest{Message: &pb.DriveRequest_Submit{Submit: &pb.Submit{
		Open: &pb.OpenSession{
			Slot: uint32(slot), Attempt: 1, AnswerStart: int32(len(a.prompt)),
			Sampling: &pb.Sampling{Seed: a.seed, MaxTokens: int32(a.most)},
		},
		Tokens: a.prompt, Ahead: 4,
	}}}
}

func commit(slot int, length int) *pb.DriveRequest {
	return &pb.DriveRequest{Message: &pb.DriveRequest_Commit{Commit: &pb.Commit{Slot: uint32(slot), Attempt: 1, Length: int32(length)}}}
}
