package coordinator

import (
	"context"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"

	"github.com/shoal-llm/shoal/internal/pki"
	"github.com/shoal-llm/shoal/internal/wire"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// parentShard computes nothing, and tells of its children.
type parentShard struct {
	*fakeShard
	children chan *pb.Child
}

func (p *parentShard) Hello(ctx context.Context, req *pb.HelloRequest) (*pb.HelloResponse, error) {
	h, err := p.fakeShard.Hello(ctx, req)
	h.Devices = nil
	return h, err
}

func (p *parentShard) Control(stream pb.ShardService_ControlServer) error {
	go func() {
		for {
			if _, err := stream.Recv(); err != nil {
				return
			}
		}
	}()
	for {
		select {
		case c := <-p.children:
			if err := stream.Send(&pb.ControlResponse{Message: &pb.ControlResponse_Child{Child: c}}); err != nil {
				return err
			}
		case <-stream.Context().Done():
			return nil
		}
	}
}

// serveShard serves a fake shard and returns its address.
func (r *rig) serveShard(name string, wrap func(*fakeShard) pb.ShardServiceServer) (string, *fakeShard) {
	r.t.Helper()
	f := &fakeShard{node: name, id: r.identity(name, pki.Shard), class: r.class, memory: 64 << 20, wires: r.wires, mute: make(chan struct{})}
	f.server = grpc.NewServer(append(wire.ServerOptions(), grpc.Creds(f.id.ServerCredentials(pki.Coordinator)))...)
	pb.RegisterShardServiceServer(f.server, wrap(f))
	l := listen(r.t)
	go func() { _ = f.server.Serve(l) }()
	r.t.Cleanup(f.server.Stop)
	return l.Addr().String(), f
}

// nodeOf finds a node of a report.
func nodeOf(c *pb.ClusterResponse, name string) *pb.NodeInfo {
	i := slices.IndexFunc(c.GetNodes(), func(n *pb.NodeInfo) bool { return n.GetNode() == name })
	if i < 0 {
		return nil
	}
	return c.GetNodes()[i]
}

// TestChildren: a node that has no device tells of processes that have. They are
// shards as soon as they are ready, and their end is known with its reason, also
// of one that never came to serve.
func TestChildren(t *testing.T) {
	r := newRig(t, func(c *Config, _ *wires) { c.Wishes.MinShards = 1 })
	say := make(chan *pb.Child)
	addr, parent := r.serveShard("host", func(f *fakeShard) pb.ShardServiceServer { return &parentShard{f, say} })
	r.gossip.add("host", addr)
	child, _ := r.serveShard("host.gpu0", func(f *fakeShard) pb.ShardServiceServer { return f })
	device := &pb.Device{Kind: "vulkan", Name: "a GPU"}

	say <- &pb.Child{Node: "host.gpu0", State: pb.ChildState_CHILD_STATE_STARTING, Device: device}
	r.report("a child that starts", func(c *pb.ClusterResponse) bool {
		n := nodeOf(c, "host.gpu0")
		return n.GetState() == "joining" && n.GetDevices()[0].GetName() == "a GPU" && !c.GetReady()
	})
	say <- &pb.Child{Node: "host.gpu0", State: pb.ChildState_CHILD_STATE_READY, Address: child, Device: device}
	say <- &pb.Child{Node: "stranger.gpu0", State: pb.ChildState_CHILD_STATE_READY, Address: child, Device: device}
	r.report("a child that serves", func(c *pb.ClusterResponse) bool {
		stages := c.GetPipeline().GetStages()
		return c.GetReady() && len(stages) == 1 && stages[0].GetNode() == "host.gpu0" && nodeOf(c, "host.gpu0").GetState() == "ready"
	})
	say <- &pb.Child{Node: "host.gpu1", State: pb.ChildState_CHILD_STATE_REFUSED, Reason: "Attend is off", Device: device}
	say <- &pb.Child{Node: "host.gpu0", State: pb.ChildState_CHILD_STATE_LOST, Reason: "signal: aborted", Device: device}
	c := r.report("a child that has ended", func(c *pb.ClusterResponse) bool {
		n := nodeOf(c, "host.gpu0")
		return n.GetState() == "lost" && n.GetReason() == "signal: aborted" && !c.GetReady()
	})
	if n := nodeOf(c, "host.gpu1"); n.GetState() != "refused" || n.GetReason() != "Attend is off" {
		t.Errorf("a child that is refused: %v", n)
	}
	if n := nodeOf(c, "stranger.gpu0"); n != nil {
		t.Errorf("a node speaks for %v", n)
	}
	var told []string
	for _, e := range c.GetEvents() {
		if strings.Contains(e.GetNode(), ".gpu") && strings.HasPrefix(e.GetKind(), "node_") {
			told = append(told, e.GetKind()+" "+e.GetNode())
		}
	}
	want := []string{"node_joined host.gpu0", "node_refused host.gpu1", "node_lost host.gpu0"}
	if !slices.Equal(told, want) {
		t.Errorf("events %q, want %q", told, want)
	}

	say <- &pb.Child{Node: "host.gpu0", State: pb.ChildState_CHILD_STATE_READY, Address: child, Device: device}
	r.report("the child again", func(c *pb.ClusterResponse) bool { return c.GetReady() })
	parent.server.Stop()
	r.report("the children of a node that is gone", func(c *pb.ClusterResponse) bool {
		return nodeOf(c, "host").GetState() == "lost" && nodeOf(c, "host.gpu1") == nil
	})
}
