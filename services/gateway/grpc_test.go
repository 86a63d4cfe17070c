package gateway

import (
	"context"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

func (f *front) dialGRPC(t *testing.T) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(f.GRPCAddr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func prompt(text string) *pb.GenerateRequest {
	return &pb.GenerateRequest{Generation: &pb.Generation{Input: &pb.Generation_Prompt{Prompt: text}}}
}

func TestGRPCGenerate(t *testing.T) {
	f := serve(t)
	client := pb.NewGenerateServiceClient(f.dialGRPC(t))
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	in := prompt("hi")
	in.Generation.Tenant = "somebody else"
	stream, err := client.Generate(ctx, in)
	if err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		switch e := resp.GetEvent().GetEvent().(type) {
		case *pb.Event_Accepted:
			kinds = append(kinds, "accepted")
		case *pb.Event_Token:
			kinds = append(kinds, e.Token.GetDelta().GetContent())
		case *pb.Event_Complete:
			kinds = append(kinds, e.Complete.GetFinishReason())
		}
	}
	if got := strings.Join(kinds, "|"); got != "accepted|Hello| |world|stop" {
		t.Errorf("events %s", got)
	}
	g := f.next(t)
	if g.GetTenant() != "local" || g.GetDeadlineMs() < time.Now().UnixMilli() || g.GetPrompt() != "hi" {
		t.Errorf("the coordinator saw %v", g.Generation)
	}
	models, err := client.Models(t.Context(), &pb.ModelsRequest{})
	if err != nil || len(models.GetModels()) != 1 || models.GetModels()[0].GetName() != "tiny" {
		t.Errorf("models %v, %v", models, err)
	}
}

func TestGRPCCancelStops(t *testing.T) {
	f := serve(t)
	f.fake.set((*fakeGeneration).endless)
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := pb.NewGenerateServiceClient(f.dialGRPC(t)).Generate(ctx, prompt("go on"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	cancel()
	f.next(t).wantStop(t, "client")
}

func TestGRPCRefuses(t *testing.T) {
	f := serve(t)
	client := pb.NewGenerateServiceClient(f.dialGRPC(t))
	with := func(edit func(*pb.Generation)) *pb.GenerateRequest {
		r := prompt("hi")
		r.Generation.Sampling = &pb.Sampling{}
		edit(r.Generation)
		return r
	}
	sampling := func(edit func(*pb.Sampling)) *pb.GenerateRequest {
		return with(func(g *pb.Generation) { edit(g.Sampling) })
	}
	for name, c := range map[string]struct {
		in    *pb.GenerateRequest
		code  codes.Code
		param string
	}{
		"nothing":      {&pb.GenerateRequest{}, codes.InvalidArgument, "input"},
		"no messages":  {with(func(g *pb.Generation) { g.Input = &pb.Generation_Chat{} }), codes.InvalidArgument, "chat.messages"},
		"role":         {with(func(g *pb.Generation) { g.Input = chatOf("wizard") }), codes.InvalidArgument, "chat.messages[0].role"},
		"empty raw":    {with(func(g *pb.Generation) { g.Input = &pb.Generation_Raw{} }), codes.InvalidArgument, "raw"},
		"resumption":   {with(func(g *pb.Generation) { g.Input = &pb.Generation_Resumption{} }), codes.InvalidArgument, "resumption"},
		"long model":   {with(func(g *pb.Generation) { g.Model = strings.Repeat("m", 10_000) }), codes.NotFound, "model"},
		"stops":        {with(func(g *pb.Generation) { g.Stop = make([]string, 17) }), codes.InvalidArgument, "stop"},
		"empty stop":   {with(func(g *pb.Generation) { g.Stop = []string{"a", ""} }), codes.InvalidArgument, "stop[1]"},
		"past":         {with(func(g *pb.Generation) { g.DeadlineMs = -1 }), codes.InvalidArgument, "deadline_ms"},
		"NaN":          {sampling(func(s *pb.Sampling) { s.Temperature = float32(math.NaN()) }), codes.InvalidArgument, "sampling.temperature"},
		"infinite":     {sampling(func(s *pb.Sampling) { s.PresencePenalty = float32(math.Inf(1)) }), codes.InvalidArgument, "sampling.presence_penalty"},
		"negative":     {sampling(func(s *pb.Sampling) { s.MaxTokens = -1 }), codes.InvalidArgument, "sampling.max_tokens"},
		"top_p":        {sampling(func(s *pb.Sampling) { s.TopP = 1.5 }), codes.InvalidArgument, "sampling.top_p"},
		"bias":         {sampling(func(s *pb.Sampling) { s.Bias = []*pb.LogitBias{{Id: -1}} }), codes.InvalidArgument, "sampling.bias[0]"},
		"bias is NaN":  {sampling(func(s *pb.Sampling) { s.Bias = []*pb.LogitBias{{Value: float32(math.NaN())}} }), codes.InvalidArgument, "sampling.bias[0]"},
		"stop ids":     {sampling(func(s *pb.Sampling) { s.StopIds = make([]int32, 65) }), codes.InvalidArgument, "sampling.stop_ids"},
		"alternatives": {sampling(func(s *pb.Sampling) { s.TopLogprobs = 21 }), codes.InvalidArgument, "sampling.top_logprobs"},
	} {
		t.Run(name, func(t *testing.T) {
			stream, err := client.Generate(t.Context(), c.in)
			if err == nil {
				_, err = stream.Recv()
			}
			if status.Code(err) != c.code || !strings.Contains(status.Convert(err).Message(), ": "+c.param+")") {
				t.Errorf("error %v, want %v on %s", err, c.code, c.param)
			}
		})
	}
}

func chatOf(role string) *pb.Generation_Chat {
	return &pb.Generation_Chat{Chat: &pb.Chat{Messages: []*pb.Message{{Role: role, Content: "x"}}}}
}

func TestGRPCKeys(t *testing.T) {
	f := serve(t, func(c *Config, _ *Deps) { c.APIKeys = []string{"sesame"} })
	conn := f.dialGRPC(t)
	client := pb.NewGenerateServiceClient(conn)
	for _, key := range []string{"", "Bearer wrong", "sesame"} {
		ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", key)
		if _, err := client.Models(ctx, &pb.ModelsRequest{}); status.Code(err) != codes.Unauthenticated {
			t.Errorf("key %q: %v", key, err)
		}
		stream, err := client.Generate(ctx, prompt("hi"))
		if err == nil {
			_, err = stream.Recv()
		}
		if status.Code(err) != codes.Unauthenticated {
			t.Errorf("key %q: %v", key, err)
		}
	}
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer sesame")
	stream, err := client.Generate(ctx, prompt("hi"))
	if err == nil {
		_, err = stream.Recv()
	}
	if err != nil {
		t.Fatal(err)
	}
	if g := f.next(t); !strings.HasPrefix(g.GetTenant(), "key-") || strings.Contains(g.GetTenant(), "sesame") {
		t.Errorf("tenant %q", g.GetTenant())
	}
	if _, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
		t.Errorf("health without a key: %v", err)
	}
}

// Health follows the cluster, and a drain ends it.
func TestGRPCHealth(t *testing.T) {
	t.Parallel()
	f := serve(t)
	watch, err := healthpb.NewHealthClient(f.dialGRPC(t)).Watch(t.Context(), &healthpb.HealthCheckRequest{Service: "shoal.v1.GenerateService"})
	if err != nil {
		t.Fatal(err)
	}
	await := func(want healthpb.HealthCheckResponse_ServingStatus) {
		t.Helper()
		for {
			resp, err := watch.Recv()
			if err != nil {
				t.Fatal(err)
			}
			if resp.GetStatus() == want {
				return
			}
		}
	}
	await(healthpb.HealthCheckResponse_SERVING)
	f.report(t, &pb.ClusterResponse{Ready: false})
	await(healthpb.HealthCheckResponse_NOT_SERVING)
}

func TestGRPCReflectionOnLoopback(t *testing.T) {
	f := serve(t)
	stream, err := reflectionpb.NewServerReflectionClient(f.dialGRPC(t)).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	resp, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range resp.GetListServicesResponse().GetService() {
		names = append(names, s.GetName())
	}
	if !strings.Contains(strings.Join(names, " "), "shoal.v1.GenerateService") {
		t.Errorf("services %v", names)
	}
}
