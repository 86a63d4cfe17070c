package gateway

import (
	"errors"
	"io"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

func openChat(t *testing.T, f *front) grpc.BidiStreamingClient[pb.ChatRequest, pb.ChatResponse] {
	t.Helper()
	stream, err := pb.NewGenerateServiceClient(f.dialGRPC(t)).Chat(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

func sendChat(t *testing.T, stream grpc.BidiStreamingClient[pb.ChatRequest, pb.ChatResponse], gen *pb.Generation) {
	t.Helper()
	m := &pb.ChatRequest{Message: &pb.ChatRequest_Stop{Stop: &pb.StopAnswer{}}}
	if gen != nil {
		m = &pb.ChatRequest{Message: &pb.ChatRequest_Generation{Generation: gen}}
	}
	if err := stream.Send(m); err != nil {
		t.Fatal(err)
	}
}

// untilTerminal reads an answer to its end.
func untilTerminal(t *testing.T, stream grpc.BidiStreamingClient[pb.ChatRequest, pb.ChatResponse]) *pb.Event {
	t.Helper()
	for {
		m, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if terminal(m.GetEvent()) {
			return m.GetEvent()
		}
	}
}

// TestGRPCChatManyAnswers asks again the moment an answer is complete, with
// stops that come too late in between.
func TestGRPCChatManyAnswers(t *testing.T) {
	f := serve(t)
	stream := openChat(t, f)
	for range 50 {
		sendChat(t, stream, prompt("hi").GetGeneration())
		if e := untilTerminal(t, stream); e.GetComplete() == nil {
			t.Fatalf("the answer ended with %v", e)
		}
		sendChat(t, stream, nil)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the stream ends with %v", err)
	}
}

func TestGRPCChatRefusesTwoAtATime(t *testing.T) {
	f := serve(t)
	f.fake.set((*fakeGeneration).endless)
	stream := openChat(t, f)
	sendChat(t, stream, prompt("hi").GetGeneration())
	g := f.next(t)
	sendChat(t, stream, prompt("again").GetGeneration())
	g.wantStop(t, "client")
	for {
		_, err := stream.Recv()
		if err == nil {
			continue
		}
		if status.Code(err) != codes.FailedPrecondition {
			t.Errorf("the stream ends with %v", err)
		}
		return
	}
}

func TestGRPCChatEndsWithItsClient(t *testing.T) {
	f := serve(t)
	f.fake.set((*fakeGeneration).endless)
	stream := openChat(t, f)
	sendChat(t, stream, prompt("hi").GetGeneration())
	g := f.next(t)
	sendChat(t, stream, nil)
	if e := untilTerminal(t, stream); e.GetStopped().GetReason() != "client" {
		t.Errorf("a stopped answer ended with %v", e)
	}
	g.wantStop(t, "client")
}

// TestGRPCClusterFollowsChanges changes what the coordinator says and waits for
// the news.
func TestGRPCClusterFollowsChanges(t *testing.T) {
	t.Parallel()
	f := serve(t)
	stream, err := pb.NewGenerateServiceClient(f.dialGRPC(t)).Cluster(t.Context(), &pb.GenerateServiceClusterRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []bool{true, false} {
		m, err := stream.Recv()
		if err != nil || m.GetReady() != want {
			t.Fatalf("state %v, %v", m, err)
		}
		f.report(t, &pb.ClusterResponse{Reason: "no shard"})
	}
}
