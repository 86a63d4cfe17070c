package gateway

import (
	"context"
	"crypto/tls"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"

	"github.com/shoal-llm/shoal/internal/telemetry"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// Bounds of the public gRPC listener.
const (
	grpcStreams    = 256 // at once on one connection
	grpcHeaderList = 64 << 10
	grpcPing       = 20 * time.Second
	grpcPingWait   = 10 * time.Second
	grpcIdle       = 15 * time.Minute
	grpcMinPing    = 10 * time.Second // what clients may not undercut
)

func (g *Gateway) newGRPCServer(tlsConfig *tls.Config, reflect bool) (*grpc.Server, *health.Server) {
	options := []grpc.ServerOption{
		grpc.MaxConcurrentStreams(grpcStreams),
		grpc.MaxHeaderListSize(grpcHeaderList),
		grpc.MaxRecvMsgSize(int(g.config.Limits.Body)),
		grpc.ConnectionTimeout(headerTimeout),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: grpcPing, Timeout: grpcPingWait, MaxConnectionIdle: grpcIdle}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: grpcMinPing, PermitWithoutStream: true}),
		grpc.UnaryInterceptor(g.keyedUnary),
		grpc.StreamInterceptor(g.keyedStream),
	}
	if tlsConfig != nil {
		options = append(options, grpc.Creds(credentials.NewTLS(tlsConfig)))
	}
	s := grpc.NewServer(options...)
	h := health.NewServer()
	h.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
	healthpb.RegisterHealthServer(s, h)
	pb.RegisterGenerateServiceServer(s, &generateServer{gateway: g})
	if reflect {
		reflection.Register(s)
	}
	return s, h
}

// openMethods may be called without a key.
const openMethods = "/grpc.health.v1.Health/"

func (g *Gateway) authenticate(ctx context.Context, method string) (context.Context, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	if values := md.Get("traceparent"); len(values) == 1 {
		ctx = telemetry.Extract(ctx, values[0])
	}
	who, refused := g.access.holderOf(grpcKey(md))
	if refused != nil && !strings.HasPrefix(method, openMethods) {
		g.log.InfoContext(ctx, "refused", "door", "grpc", "method", method, "code", refused.code)
		text := "an API key is needed: send it as the metadata \"authorization: Bearer KEY\""
		if who.key != nil {
			text = refused.message
		}
		return nil, status.Error(codes.Unauthenticated, text)
	}
	return withCaller(ctx, who), nil
}

// grpcKey finds the key in "authorization: Bearer KEY".
func grpcKey(md metadata.MD) string {
	if values := md.Get("authorization"); len(values) == 1 {
		if key, ok := strings.CutPrefix(values[0], "Bearer "); ok {
			return key
		}
	}
	return ""
}

func (g *Gateway) keyedUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	ctx, err := g.authenticate(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	return next(ctx, req)
}

func (g *Gateway) keyedStream(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	ctx, err := g.authenticate(s.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	return next(srv, keyedServerStream{s, ctx})
}

// keyedServerStream is a stream whose context knows who calls. The context is
// the stream's own: gRPC asks for it by a method.
type keyedServerStream struct {
	grpc.ServerStream
	ctx context.Context
}

// Context returns the context with the caller.
func (s keyedServerStream) Context() context.Context { return s.ctx }

// generateServer is the public gRPC API.
type generateServer struct {
	pb.UnimplementedGenerateServiceServer
	gateway *Gateway
}

// Generate streams one answer. Every failure after the call was admitted is the
// terminal event; the stream itself then ends with OK.
func (s *generateServer) Generate(in *pb.GenerateRequest, stream grpc.ServerStreamingServer[pb.GenerateResponse]) error {
	gen := in.GetGeneration()
	if p := s.gateway.refuseGRPC(stream.Context(), gen); p != nil {
		return p.grpc()
	}
	return s.gateway.streamGRPC(stream.Context(), gen, func(e *pb.Event) error {
		return stream.Send(&pb.GenerateResponse{Event: e})
	})
}

// refuseGRPC says what is wrong with a generation that came by gRPC.
func (g *Gateway) refuseGRPC(ctx context.Context, gen *pb.Generation) *problem {
	p := checkGeneration(gen, g.config.Limits.Messages)
	if p == nil && g.isDraining() {
		p = errDraining
	}
	if p == nil {
		p = g.charge(ctx, gen.GetModel())
	}
	if p != nil {
		_, req := g.begin(ctx, "grpc", nil)
		defer req.end()
		return req.refuse(p)
	}
	return nil
}

// streamGRPC asks for an answer and sends its events.
func (g *Gateway) streamGRPC(ctx context.Context, gen *pb.Generation, send func(*pb.Event) error) error {
	ctx, req := g.begin(ctx, "grpc", gen)
	defer req.end()
	ctx, cancel := g.untilDrained(ctx)
	defer cancel()
	for e := range g.run(ctx, req, gen) {
		if err := send(e); err != nil {
			return err
		}
	}
	return nil
}

// Models lists what can be asked.
func (s *generateServer) Models(ctx context.Context, _ *pb.ModelsRequest) (*pb.ModelsResponse, error) {
	state, err := s.gateway.cluster.state(ctx)
	if err != nil {
		return nil, errNoCoordinator.grpc()
	}
	return &pb.ModelsResponse{Models: visible(callerOf(ctx), state.GetModels())}, nil
}
