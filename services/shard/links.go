package shard

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// Sizes and times of measuring a link.
const (
	mostPeers    = 1024
	probeTimeout = 3 * time.Second // of one peer
	probePings   = 15
	probeSmall   = 2 << 10 // bytes of a ping: about a row of activations
	probeMessage = 64 << 10
	probeLittle  = 4  // messages of the first try for the rate
	probeMuch    = 32 // messages of the second, where the first took no time
)

// Probe answers each message as it comes.
func (s *server) Probe(stream pb.ShardService_ProbeServer) error {
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if m.GetSilent() {
			continue
		}
		if err := stream.Send(&pb.ProbeResponse{Sequence: m.GetSequence()}); err != nil {
			return err
		}
	}
}

// MeasureLinks probes peers, one after the other. Those that do not answer are
// left out.
func (s *server) MeasureLinks(ctx context.Context, req *pb.MeasureLinksRequest) (*pb.MeasureLinksResponse, error) {
	if len(req.GetPeers()) > mostPeers {
		return nil, status.Errorf(codes.InvalidArgument, "%d peers, want at most %d", len(req.GetPeers()), mostPeers)
	}
	out := &pb.MeasureLinksResponse{}
	for _, p := range req.GetPeers() {
		l, err := s.probe(ctx, p)
		if ctx.Err() != nil {
			return nil, status.FromContextError(ctx.Err()).Err()
		}
		if err != nil {
			s.deps.Log.Debug("cannot measure link", "to", p.GetNode(), "err", err)
			continue
		}
		out.Links = append(out.Links, l)
	}
	return out, nil
}

// probe measures the link to one peer, over a stream of its own with the
// encryption of all others.
func (s *Shard) probe(ctx context.Context, peer *pb.Peer) (*pb.LinkSpeed, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	conn, err := s.dial(&pb.Stage{Node: peer.GetNode(), Address: peer.GetAddress()})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stream, err := pb.NewShardServiceClient(conn).Probe(ctx)
	if err != nil {
		return nil, fmt.Errorf("probe %s: %w", peer.GetNode(), streamError(err))
	}
	p := &prober{stream: stream}
	delay := p.ping() / 2
	rate := p.rate(delay)
	if p.err != nil {
		return nil, fmt.Errorf("probe %s: %w", peer.GetNode(), streamError(p.err))
	}
	return &pb.LinkSpeed{From: s.deps.Identity.NodeID(), To: peer.GetNode(), DelaySeconds: delay, Rate: rate}, stream.CloseSend()
}

// prober sends messages and waits for answers. It keeps the first error.
type prober struct {
	stream pb.ShardService_ProbeClient
	sent   uint64
	err    error
}

// ping returns the median round trip of a small message, in seconds. The first
// few find the connection cold.
func (p *prober) ping() float64 {
	var times []float64
	for i := range probePings {
		if t := p.exchange(1, probeSmall); i >= probePings/3 {
			times = append(times, t)
		}
	}
	slices.Sort(times)
	return times[len(times)/2]
}

// rate returns the bytes a second of large messages.
func (p *prober) rate(delay float64) float64 {
	n := probeLittle
	t := p.exchange(n, probeMessage)
	if t < 0.02 {
		n = probeMuch
		p.exchange(n, probeMessage) // opens the windows of flow control
		t = p.exchange(n, probeMessage)
	}
	return float64(n*probeMessage) / max(t-2*delay, 1e-6)
}

// exchange sends n messages of size bytes, and returns the seconds until the
// last was answered.
func (p *prober) exchange(n, size int) float64 {
	began := time.Now()
	for i := range n {
		if p.err != nil {
			return 0
		}
		p.sent++
		p.err = p.stream.Send(&pb.ProbeRequest{Sequence: p.sent, Payload: make([]byte, size), Silent: i < n-1})
	}
	if p.err == nil || errors.Is(p.err, io.EOF) { // the receiver knows why
		_, p.err = p.stream.Recv()
	}
	return time.Since(began).Seconds()
}
