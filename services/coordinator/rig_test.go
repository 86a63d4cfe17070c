package coordinator

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/shoal-llm/shoal/internal/pki"
	"github.com/shoal-llm/shoal/internal/wire"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/coordinator/registry"
)

// rig is a coordinator with fake shards and a gateway.
type rig struct {
	t        *testing.T
	secret   pki.Secret
	registry *registry.Registry // or nil
	gossip   *gossip
	wires    *wires
	addr     string
	relay    *client
	shards   map[string]*fakeShard
	class    string // of the devices of shards that are started next,
	seen     uint64 // and the epoch that they have seen
	end      context.CancelFunc
	ended    chan error
	head     *Coordinator
}

// newRig starts a coordinator that waits for as many shards as are named.
func newRig(t *testing.T, change func(*Config, *wires), shards ...string) *rig {
	t.Helper()
	return newRigOf(t, toyModel(), pki.NewSecret(), nil, change, shards...)
}

// newRigOf is newRig of another model than toyModel, in the cluster of a secret, with a
// registry or without.
func newRigOf(t *testing.T, model Model, secret pki.Secret, book *registry.Registry, change func(*Config, *wires), shards ...string) *rig {
	t.Helper()
	r := &rig{t: t, secret: secret, registry: book, gossip: &gossip{changed: make(chan struct{}, 1)}, wires: newWires(), class: "toy",
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
		Identity: r.identity("head", pki.Coordinator), Listener: l, Members: r.gossip, Model: model, Registry: r.registry,
		Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.addr, r.end = l.Addr().String(), cancel
	r.head = c
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
	f := &fakeShard{node: name, id: r.identity(name, pki.Shard), class: r.class, seen: r.seen, memory: 64 << 20, wires: r.wires,
		mute: make(chan struct{}), leave: make(chan struct{})}
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
	return r.dialAt(r.addr, "head", id, roles...)
}

// dialAt connects to a coordinator of the cluster.
func (r *rig) dialAt(addr, node, id string, roles ...pki.Role) *grpc.ClientConn {
	r.t.Helper()
	creds := r.identity(id, roles...).ClientCredentials(node, pki.Coordinator)
	conn, err := grpc.NewClient(addr, append(wire.DialOptions(), grpc.WithTransportCredentials(creds))...)
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
	calls    []*pb.ToolCall
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
			if call := e.Token.Delta.GetToolCall(); call != nil {
				a.calls = append(a.calls, call)
			}
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
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		resp, err := r.relay.cluster.Cluster(r.t.Context(), &pb.ClusterRequest{})
		if err != nil {
			r.t.Fatal(err)
		}
		if last = resp; ok(resp) {
			return resp
		}
	}
	r.t.Fatalf("%s: not after a minute: %v", what, last)
	return nil
}

// drain has a node emptied, or used again, and returns how far it is.
func (r *rig) drain(node string, undo bool) string {
	r.t.Helper()
	c := pb.NewCoordinatorServiceClient(r.dial("somebody", pki.Operator))
	resp, err := c.Drain(r.t.Context(), &pb.DrainRequest{Node: node, Undo: undo})
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.State
}

func ready(r *pb.ClusterResponse) bool { return r.Ready }
