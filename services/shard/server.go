package shard

import (
	"context"
	"errors"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/shoal-llm/shoal/internal/pki"
	gather "github.com/shoal-llm/shoal/internal/weights"
	"github.com/shoal-llm/shoal/internal/wire"
	"github.com/shoal-llm/shoal/pkg/engine"
	"github.com/shoal-llm/shoal/pkg/kv"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// rules say who may call what.
func rules() pki.Rules {
	neighbours := []pki.Role{pki.Coordinator, pki.Shard}
	return pki.Rules{
		pb.ShardService_Hello_FullMethodName:        neighbours,
		pb.ShardService_Control_FullMethodName:      {pki.Coordinator},
		pb.ShardService_Drive_FullMethodName:        {pki.Coordinator},
		pb.ShardService_Push_FullMethodName:         {pki.Shard},
		pb.ShardService_Results_FullMethodName:      neighbours,
		pb.ShardService_Beat_FullMethodName:         neighbours,
		pb.ShardService_Measure_FullMethodName:      {pki.Coordinator},
		pb.ShardService_MeasureLinks_FullMethodName: {pki.Coordinator},
		pb.ShardService_Probe_FullMethodName:        {pki.Shard},
		pb.WeightService_Have_FullMethodName:        {pki.Shard},
		pb.WeightService_Segments_FullMethodName:    {pki.Shard},
		pb.ShardService_See_FullMethodName:          {pki.Coordinator},
		healthpb.Health_Check_FullMethodName:        pki.AnyRole(),
		healthpb.Health_Watch_FullMethodName:        pki.AnyRole(),
		healthpb.Health_List_FullMethodName:         pki.AnyRole(),
	}
}

// server is the shard's gRPC edge.
type server struct {
	pb.UnimplementedShardServiceServer
	*Shard
}

func (s *Shard) newServer() (*grpc.Server, error) {
	unary, stream := pki.Authorize(rules())
	options := append(wire.ServerOptions(),
		grpc.Creds(s.deps.Identity.ServerCredentials()),
		grpc.UnaryInterceptor(unary), grpc.StreamInterceptor(stream),
		grpc.WaitForHandlers(true))
	g := grpc.NewServer(options...)
	pb.RegisterShardServiceServer(g, &server{Shard: s})
	pb.RegisterWeightServiceServer(g, gather.NewService(s.deps.Weights))
	healthpb.RegisterHealthServer(g, health.NewServer()) // serving, as long as it answers
	if err := rules().Check(g.GetServiceInfo()); err != nil {
		return nil, err
	}
	return g, nil
}

// Hello says who this shard is, to peers that can work with it.
func (s *server) Hello(ctx context.Context, req *pb.HelloRequest) (*pb.HelloResponse, error) {
	peer, err := pki.PeerFromContext(ctx)
	if err != nil {
		return nil, status.Error(codes.Unauthenticated, err.Error())
	}
	id := s.deps.Identity
	switch {
	case req.ProtocolMin > wire.ProtocolMax || req.ProtocolMax < wire.ProtocolMin:
		return nil, status.Errorf(codes.FailedPrecondition, "node %s speaks protocol %d to %d, node %s %d to %d",
			peer.NodeID, req.ProtocolMin, req.ProtocolMax, id.NodeID(), wire.ProtocolMin, wire.ProtocolMax)
	case req.Cluster != id.ClusterID():
		return nil, status.Errorf(codes.FailedPrecondition, "cluster %q, node %s is of cluster %q", req.Cluster, id.NodeID(), id.ClusterID())
	case req.Node != peer.NodeID:
		return nil, status.Errorf(codes.FailedPrecondition, "node %q has the certificate of node %q", req.Node, peer.NodeID)
	}
	h := &pb.HelloResponse{
		Protocol: min(req.ProtocolMax, wire.ProtocolMax), Cluster: id.ClusterID(), Node: id.NodeID(),
		Version: s.cfg.Version, KernelSet: s.cfg.KernelSet, Epoch: s.control.highest(), Holder: s.control.holder(),
	}
	for _, d := range s.devices {
		h.Devices = append(h.Devices, d.describe())
	}
	return h, nil
}

// Beat answers every heartbeat.
func (s *server) Beat(stream pb.ShardService_BeatServer) error {
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		if err := stream.Send(&pb.BeatResponse{Sequence: m.Sequence}); err != nil {
			return err
		}
	}
}

// mayFollow reports whether the caller may see a pipeline's results: the
// coordinator in command, and the node of the driver.
func (s *server) mayFollow(ctx context.Context, p *pipeline) error {
	peer, err := pki.PeerFromContext(ctx)
	if err == nil && (s.control.holds(peer.NodeID) || peer.NodeID == p.plan.Stages[0].Node) {
		return nil
	}
	return status.Error(codes.PermissionDenied, "results go to the coordinator that holds the lease and to the driver")
}

// ended is what streams of an ended pipeline are told.
func ended(p *pipeline) error {
	code := codes.Unavailable
	switch err := p.fuse.err; {
	case errors.Is(err, engine.ErrBadFrame), errors.Is(err, kv.ErrInvalid):
		code = codes.InvalidArgument
	case errors.Is(err, kv.ErrEpoch), errors.Is(err, kv.ErrGap):
		code = codes.FailedPrecondition
	case errors.Is(err, kv.ErrNoPages):
		code = codes.ResourceExhausted
	}
	return status.Errorf(code, "pipeline %d of epoch %d ended at stage %d: %v", p.plan.Id, p.epoch, p.fuse.at, p.fuse.err)
}
