package coordinator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/shoal-llm/shoal/internal/pki"
	"github.com/shoal-llm/shoal/internal/wire"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// Times of a link.
const (
	leaseFor     = 10 * time.Second
	leaseEvery   = leaseFor / 4
	helloTimeout = 3 * time.Second
	minRetry     = 100 * time.Millisecond
	maxRetry     = 2 * time.Second
	maxControl   = 64 // messages waiting for a shard
)

// link keeps this coordinator connected to one shard, for as long as gossip or
// the connection itself says that it is there.
type link struct {
	c     *Coordinator
	node  string
	addr  atomic.Pointer[string] // where gossip says it is
	moved chan struct{}          // capacity 1: addr has changed, or it is there again
	stop  context.CancelFunc
}

// shardConn is one connection to a shard whose handshake succeeded.
type shardConn struct {
	link    *link
	conn    *grpc.ClientConn
	control *mailbox[*pb.ControlRequest]
	hangUp  context.CancelFunc // ends it
}

// linkUp says that a shard's handshake succeeded.
type linkUp struct {
	conn   *shardConn
	hello  *pb.HelloResponse
	speeds []*pb.DeviceSpeed // of its devices, as far as it knew them
}

// linkDown says that a connection broke, or with a nil conn that none could be
// made.
type linkDown struct {
	link *link
	conn *shardConn
	err  error
}

// errRefused says that a shard is there and cannot take part.
var errRefused = errors.New("refused")

// errStanding says that a shard is free to be commanded, and that this coordinator
// stands by for another one.
var errStanding = fmt.Errorf("%w: this coordinator stands by", errRefused)

// heldError says that another coordinator commands a shard, until its lease runs
// out.
type heldError struct{ holder string }

// Error names the coordinator.
func (e *heldError) Error() string {
	return fmt.Sprintf("%v: another coordinator commands it: %s", errRefused, e.holder)
}

// Unwrap returns that the shard cannot take part.
func (e *heldError) Unwrap() error { return errRefused }

func newLink(c *Coordinator, node, addr string) *link {
	l := &link{c: c, node: node, moved: make(chan struct{}, 1)}
	l.addr.Store(&addr)
	return l
}

// move tells the link where the shard is now.
func (l *link) move(addr string) {
	if *l.addr.Load() == addr {
		return
	}
	l.addr.Store(&addr)
	l.hurry()
}

// hurry makes the link try at once: the shard is there now.
func (l *link) hurry() {
	select {
	case l.moved <- struct{}{}:
	default:
	}
}

// run connects, again and again, until ctx ends.
func (l *link) run(ctx context.Context) {
	retry := minRetry
	for ctx.Err() == nil {
		began := time.Now()
		conn, err := l.connect(ctx)
		if ctx.Err() != nil {
			return
		}
		l.c.post(linkDown{l, conn, err})
		if time.Since(began) > maxRetry {
			retry = minRetry
		}
		select {
		case <-ctx.Done():
		case <-l.moved:
			retry = minRetry
		case <-time.After(retry/2 + rand.N(retry)):
			retry = min(2*retry, maxRetry)
		}
	}
}

// connect shakes hands and serves the connection until it breaks. The
// connection is nil when there was none.
func (l *link) connect(ctx context.Context) (*shardConn, error) {
	conn, err := l.dial()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	hello, err := l.hello(ctx, conn)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &shardConn{link: l, conn: conn, control: newMailbox[*pb.ControlRequest](maxControl), hangUp: cancel}
	group, ctx := errgroup.WithContext(ctx)
	control, err := pb.NewShardServiceClient(conn).Control(ctx)
	if err != nil {
		return nil, fmt.Errorf("open control stream: %w", err)
	}
	l.c.post(linkUp{s, hello, l.c.measure(ctx, s, true, 0)})
	group.Go(func() error { return s.sendControl(ctx, control) })
	group.Go(func() error { return s.receiveControl(control) })
	group.Go(func() error { return l.beat(ctx) })
	return s, group.Wait()
}

// dial makes a connection that only this shard can answer.
func (l *link) dial() (*grpc.ClientConn, error) {
	creds := grpc.WithTransportCredentials(l.c.deps.Identity.ClientCredentials(l.node, pki.Shard))
	conn, err := grpc.NewClient("passthrough:///"+*l.addr.Load(), append(wire.DialOptions(), creds)...)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", *l.addr.Load(), err)
	}
	return conn, nil
}

// hello agrees on the protocol and checks who answers.
func (l *link) hello(ctx context.Context, conn *grpc.ClientConn) (*pb.HelloResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, helloTimeout)
	defer cancel()
	id := l.c.deps.Identity
	h, err := pb.NewShardServiceClient(conn).Hello(ctx, &pb.HelloRequest{
		ProtocolMin: wire.ProtocolMin, ProtocolMax: wire.ProtocolMax,
		Cluster: id.ClusterID(), Node: id.NodeID(), Version: l.c.cfg.Version,
	})
	if err != nil {
		return nil, fmt.Errorf("shake hands: %s", status.Convert(err).Message())
	}
	return h, l.check(h)
}

// check says why a shard that has answered the handshake cannot take part; nil
// when it can.
func (l *link) check(h *pb.HelloResponse) error {
	id := l.c.deps.Identity
	switch {
	case h.GetProtocol() < wire.ProtocolMin || h.GetProtocol() > wire.ProtocolMax:
		return fmt.Errorf("%w: it speaks protocol %d, this coordinator %d to %d", errRefused, h.GetProtocol(), wire.ProtocolMin, wire.ProtocolMax)
	case h.GetCluster() != id.ClusterID():
		return fmt.Errorf("%w: it is of cluster %q", errRefused, h.GetCluster())
	case h.GetNode() != l.node:
		return fmt.Errorf("%w: it calls itself %q", errRefused, h.GetNode())
	case h.GetHolder() != "" && h.GetHolder() != id.NodeID():
		return &heldError{h.GetHolder()}
	case l.c.standing.Load():
		return errStanding
	}
	return nil
}

// sendControl writes what the owner has for the shard.
func (s *shardConn) sendControl(ctx context.Context, stream pb.ShardService_ControlClient) error {
	for {
		messages, err := s.control.take(ctx)
		if err != nil {
			return err
		}
		for _, m := range messages {
			if err := stream.Send(m); err != nil {
				return fmt.Errorf("control stream: %w", err)
			}
		}
	}
}

// receiveControl gives the owner what the shard says of its stages.
func (s *shardConn) receiveControl(stream pb.ShardService_ControlClient) error {
	for {
		m, err := stream.Recv()
		if err != nil {
			return streamError("control stream", err)
		}
		s.link.c.post(controlled{s, m})
	}
}

// streamError says that a stream has ended; an end is never expected.
func streamError(what string, err error) error {
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: the other side ended it", what)
	}
	return fmt.Errorf("%s: %s", what, status.Convert(err).Message())
}

// beat asks for signs of life on a connection of its own, so that no large
// message is in their way. It returns when the shard has been silent too long.
func (l *link) beat(ctx context.Context) error {
	conn, err := l.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	return wire.Beat(ctx, conn)
}
