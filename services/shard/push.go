package shard

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/shoal-llm/shoal/internal/pki"
	"github.com/shoal-llm/shoal/internal/wire"
	"github.com/shoal-llm/shoal/pkg/frame"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// Metadata of a Push stream: which stage the frames are for. The frames
// themselves name no stage, and a node may hold several.
const (
	keyEpoch    = "shoal-epoch"
	keyPipeline = "shoal-pipeline"
	keyStage    = "shoal-stage"
)

// takenEvery is how many steps are taken before the stage before hears of it,
// which keeps frame.MaxPending of them: few messages, and room in time.
const takenEvery = frame.MaxPending / 2

// helloTimeout bounds the handshake with the next stage's node.
const helloTimeout = 3 * time.Second

// hop carries a stage's frames to the next stage until ctx ends or the stream
// breaks. It never returns nil.
func (s *Shard) hop(ctx context.Context, st *stage) error {
	to := st.pipe.plan.Stages[st.index+1]
	conn, err := s.dial(to)
	if err != nil {
		return err
	}
	defer conn.Close()
	client := pb.NewShardServiceClient(conn)
	if err := s.greet(ctx, client, to.Node); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(metadata.AppendToOutgoingContext(ctx,
		keyEpoch, strconv.FormatUint(st.pipe.epoch, 10),
		keyPipeline, strconv.FormatUint(uint64(st.pipe.plan.Id), 10),
		keyStage, strconv.Itoa(st.index+1)))
	stream, err := client.Push(ctx)
	if err != nil {
		return streamError(err)
	}
	group.Go(func() error { return s.beat(ctx, to) })
	group.Go(func() error { return s.sendFrames(ctx, st.out, stream) })
	group.Go(func() error { return hearTaken(st.out, stream) })
	return group.Wait()
}

// dial makes a connection that only the planned node can answer.
func (s *Shard) dial(to *pb.Stage) (*grpc.ClientConn, error) {
	options := append(wire.DialOptions(), grpc.WithNoProxy(),
		grpc.WithTransportCredentials(s.deps.Identity.ClientCredentials(to.Node, pki.Shard)))
	conn, err := grpc.NewClient("passthrough:///"+to.Address, options...)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", to.Address, err)
	}
	return conn, nil
}

// greet shakes hands with a neighbour.
func (s *Shard) greet(ctx context.Context, client pb.ShardServiceClient, node string) error {
	ctx, cancel := context.WithTimeout(ctx, helloTimeout)
	defer cancel()
	h, err := client.Hello(ctx, &pb.HelloRequest{
		ProtocolMin: wire.ProtocolMin, ProtocolMax: wire.ProtocolMax,
		Cluster: s.deps.Identity.ClusterID(), Node: s.deps.Identity.NodeID(), Version: s.cfg.Version,
	})
	switch {
	case err != nil:
		return fmt.Errorf("shake hands with %s: %w", node, streamError(err))
	case h.KernelSet != s.cfg.KernelSet:
		return fmt.Errorf("node %s has kernel set %q, this one %q", node, h.KernelSet, s.cfg.KernelSet)
	}
	return nil
}

func (s *Shard) sendFrames(ctx context.Context, out *outbox, stream pb.ShardService_PushClient) error {
	for {
		f, err := out.next(ctx)
		if err != nil {
			return err
		}
		began := time.Now()
		if err := stream.SendMsg(&wire.Push{Frame: f}); err != nil {
			return nil // the receiver knows why
		}
		s.deps.Telemetry.ObserveHop(len(f.Rows), time.Since(began))
	}
}

func hearTaken(out *outbox, stream pb.ShardService_PushClient) error {
	for {
		m, err := stream.Recv()
		if err != nil {
			return streamError(err)
		}
		if err := out.took(m.TakenStep); err != nil {
			return err
		}
		if m.ReplayFrom != 0 {
			if err := out.replay(m.ReplayFrom); err != nil {
				return err
			}
		}
	}
}

// streamError is why a stream to another node ended; that it does is never
// expected.
func streamError(err error) error {
	if errors.Is(err, io.EOF) {
		return errors.New("the other side ended the stream")
	}
	return errors.New(status.Convert(err).Message())
}

// Push takes frames from the stage before, and runs the hop to the next one for
// as long as it does.
func (s *server) Push(stream pb.ShardService_PushServer) error {
	st, err := s.target(stream.Context())
	if err != nil {
		return err
	}
	if !st.fed.CompareAndSwap(false, true) {
		return status.Errorf(codes.FailedPrecondition, "stage %d has had its stream; a new plan makes a new one", st.index)
	}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	if st.out != nil {
		hopped := make(chan struct{})
		go func() {
			defer close(hopped)
			if err := s.hop(ctx, st); ctx.Err() == nil {
				st.pipe.fuse.blow(st.index+1, fmt.Errorf("node %s lost: %w", st.pipe.plan.Stages[st.index+1].Node, err))
			}
		}()
		defer func() { cancel(); <-hopped }()
	}
	door := &door{stage: st, wake: make(chan struct{}, 1), failed: make(chan error, 1)}
	door.expected.Store(1)
	go door.receive(stream)
	return door.answer(stream)
}

// target finds the stage a Push stream is for and checks who sends it.
func (s *server) target(ctx context.Context) (*stage, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	number := func(key string) uint64 {
		if v := md.Get(key); len(v) == 1 {
			if n, err := strconv.ParseUint(v[0], 10, 64); err == nil {
				return n
			}
		}
		return 0 // no stage is fed from outside with number 0
	}
	p, err := s.control.find(number(keyEpoch), uint32(number(keyPipeline)))
	if err != nil {
		return nil, err
	}
	index := number(keyStage)
	st := p.stages[int(min(index, wire.MaxStages))]
	if st == nil || st.index == 0 {
		return nil, status.Errorf(codes.FailedPrecondition, "stage %d of pipeline %d takes no frames on this node", index, p.plan.Id)
	}
	from := p.plan.Stages[st.index-1].Node
	if peer, err := pki.PeerFromContext(ctx); err != nil || peer.NodeID != from {
		return nil, status.Errorf(codes.PermissionDenied, "stage %d takes frames from node %s only", index, from)
	}
	return st, nil
}

// door is the entry of a stage: it lets every step in once and in order.
type door struct {
	stage    *stage
	expected atomic.Uint64 // the next step
	replay   atomic.Uint64 // a step to ask for; 0 is none
	wake     chan struct{} // capacity 1: there is something to say
	failed   chan error    // capacity 1: the stream has ended
}

// receive takes frames until the stream ends.
func (d *door) receive(stream pb.ShardService_PushServer) {
	asked := uint64(0) // a replay is asked for once
	for {
		p := new(wire.Push)
		if err := stream.RecvMsg(p); err != nil {
			d.failed <- err
			return
		}
		want, news := d.expected.Load(), false
		switch step := p.Frame.Step; {
		case step < want: // a repeat
			p.Release()
			continue
		case step > want:
			p.Release()
			if asked != want {
				asked = want
				d.replay.Store(want)
				news = true
			}
		default:
			if !d.stage.feed(p) {
				return
			}
			d.expected.Store(want + 1)
			news = want%takenEvery == 0
		}
		if news {
			d.ring()
		}
	}
}

// ring wakes answer.
func (d *door) ring() {
	select {
	case d.wake <- struct{}{}:
	default: // it has not looked yet
	}
}

// answer tells the stage before what was taken, until the pipeline ends.
func (d *door) answer(stream pb.ShardService_PushServer) error {
	fuse := d.stage.pipe.fuse
	for {
		select {
		case <-d.wake:
			m := &pb.PushResponse{TakenStep: d.expected.Load() - 1, ReplayFrom: d.replay.Swap(0)}
			if err := stream.Send(m); err != nil {
				return d.lost(err)
			}
		case err := <-d.failed:
			return d.lost(err)
		case <-fuse.done:
			_ = stream.Send(&pb.PushResponse{Refused: fuse.err.Error()}) // the status says it too
			return ended(d.stage.pipe)
		}
	}
}

// lost ends the pipeline because the stage before is gone.
func (d *door) lost(err error) error {
	before := d.stage.index - 1
	d.stage.pipe.fuse.blow(before, fmt.Errorf("node %s lost: %w", d.stage.pipe.plan.Stages[before].Node, streamError(err)))
	return ended(d.stage.pipe)
}
