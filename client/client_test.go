package client_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/shoal-llm/shoal/client"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/gateway"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// coordinator answers the words of its prompt, or for ever.
type coordinator struct {
	pb.UnimplementedCoordinatorServiceServer
	stopped chan string
	asked   chan *pb.Generation
}

func (c *coordinator) Cluster(context.Context, *pb.ClusterRequest) (*pb.ClusterResponse, error) {
	return &pb.ClusterResponse{Ready: true, Running: 3, Models: []*pb.ModelInfo{{Name: "tiny", State: "ready"}}}, nil
}

func (c *coordinator) Relay(stream grpc.BidiStreamingServer[pb.RelayRequest, pb.RelayResponse]) error {
	var sending sync.Mutex
	open := map[uint64]bool{}
	send := func(number uint64, e *pb.Event) {
		sending.Lock()
		defer sending.Unlock()
		_ = stream.Send(&pb.RelayResponse{Messages: []*pb.Downward{{Number: number, Event: e}}})
	}
	for {
		req, err := stream.Recv()
		if err != nil {
			return nil
		}
		for _, m := range req.GetMessages() {
			switch msg := m.GetMessage().(type) {
			case *pb.Upward_Start:
				open[m.GetNumber()] = true
				c.asked <- msg.Start
				c.answer(msg.Start, func(e *pb.Event) { send(m.GetNumber(), e) })
			case *pb.Upward_Stop:
				c.stopped <- msg.Stop.GetReason()
			}
		}
	}
}

// answer sends the prompt as one token; "endless" is never complete, "broken"
// fails.
func (c *coordinator) answer(g *pb.Generation, send func(*pb.Event)) {
	send(&pb.Event{Event: &pb.Event_Accepted{Accepted: &pb.Accepted{Model: "tiny", PromptIds: []int32{1, 2}}}})
	if g.GetTokenize() {
		send(&pb.Event{Event: &pb.Event_Complete{Complete: &pb.Complete{}}})
		return
	}
	text := g.GetPrompt() + g.GetRaw()
	send(&pb.Event{Event: &pb.Event_Token{Token: &pb.Token{Seq: 1, Delta: &pb.Delta{Delta: &pb.Delta_Content{Content: text}}}}})
	switch text {
	case "endless":
	case "broken":
		send(&pb.Event{Event: &pb.Event_Error{Error: &pb.Error{Code: "shard_lost", Message: "Gone.", Retryable: true}}})
	default:
		send(&pb.Event{Event: &pb.Event_Complete{Complete: &pb.Complete{FinishReason: "stop", Text: "!"}}})
	}
}

// dial runs a gateway that asks for the key "k", and returns a client of it.
func dial(t *testing.T, key string) (*client.Client, *coordinator) {
	t.Helper()
	c := &coordinator{stopped: make(chan string, 16), asked: make(chan *pb.Generation, 16)}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	pb.RegisterCoordinatorServiceServer(server, c)
	go server.Serve(ln)
	conn, err := grpc.NewClient(ln.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	g, err := gateway.New(gateway.Config{
		Listen: "127.0.0.1:0", GRPCListen: "127.0.0.1:0", APIKeys: []string{"k"}, Limits: gateway.Limits{Drain: 10 * time.Millisecond},
	}, gateway.Deps{Coordinator: conn})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	cl, err := client.New(client.Config{Address: g.GRPCAddr().String(), Key: key})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cl.Close()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("gateway: %v", err)
		}
		conn.Close()
		server.Stop()
	})
	return cl, c
}

func ask(prompt string) *pb.Generation {
	return &pb.Generation{Input: &pb.Generation_Prompt{Prompt: prompt}}
}

func TestText(t *testing.T) {
	c, _ := dial(t, "k")
	if text, err := c.Text(t.Context(), ask("hello")); text != "hello!" || err != nil {
		t.Errorf("text %q, %v", text, err)
	}
	var failed *client.Error
	if _, err := c.Text(t.Context(), ask("broken")); !errors.As(err, &failed) || failed.Code != "shard_lost" || !failed.Retryable {
		t.Errorf("error %v", err)
	}
}

func TestKeyIsNeeded(t *testing.T) {
	c, _ := dial(t, "wrong")
	if _, err := c.Text(t.Context(), ask("hello")); status.Code(err) != codes.Unauthenticated {
		t.Errorf("error %v", err)
	}
}

func TestLeavingTheLoopStops(t *testing.T) {
	c, fake := dial(t, "k")
	for e, err := range c.Generate(t.Context(), ask("endless")) {
		if err != nil {
			t.Fatal(err)
		}
		if e.GetToken() != nil {
			break
		}
	}
	if reason := <-fake.stopped; reason != "client" {
		t.Errorf("reason %q", reason)
	}
}

func TestDeadlineGoesAlong(t *testing.T) {
	c, fake := dial(t, "k")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := c.Text(ctx, ask("endless"))
	var stopped *client.StoppedError
	if !errors.As(err, &stopped) && status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("error %v", err)
	}
	if g := <-fake.asked; g.GetDeadlineMs() == 0 {
		t.Error("the coordinator saw no deadline")
	}
	<-fake.stopped
}

func TestChatStopsAndGoesOn(t *testing.T) {
	c, fake := dial(t, "k")
	chat, err := c.Chat(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer chat.Close()
	var stopped *client.StoppedError
	for e, err := range chat.Ask(ask("endless")) {
		if e.GetToken() != nil {
			if err := chat.Stop(); err != nil {
				t.Fatal(err)
			}
		}
		if err != nil && !errors.As(err, &stopped) {
			t.Fatal(err)
		}
	}
	if reason := <-fake.stopped; stopped == nil || stopped.Reason != "client" || reason != "client" {
		t.Errorf("%v, coordinator: %q", stopped, reason)
	}
	for e := range chat.Ask(ask("endless")) { // left early
		if e.GetToken() != nil {
			break
		}
	}
	text := ""
	for e, err := range chat.Ask(ask("again")) {
		if err != nil {
			t.Fatal(err)
		}
		text += e.GetToken().GetDelta().GetContent()
	}
	if text != "again" {
		t.Errorf("text %q", text)
	}
	var refused *client.Error
	for _, err := range chat.Ask(&pb.Generation{}) {
		if !errors.As(err, &refused) || refused.Param != "input" {
			t.Errorf("an empty request: %v", err)
		}
	}
}

func TestModelsTokenizeWatch(t *testing.T) {
	c, _ := dial(t, "k")
	models, err := c.Models(t.Context())
	if err != nil || len(models) != 1 || models[0].GetName() != "tiny" {
		t.Errorf("models %v, %v", models, err)
	}
	ids, err := c.Tokenize(t.Context(), "", "hi")
	if err != nil || !slices.Equal(ids, []int32{1, 2}) {
		t.Errorf("ids %v, %v", ids, err)
	}
	if _, err := c.Tokenize(t.Context(), "", ""); status.Code(err) != codes.InvalidArgument {
		t.Errorf("no text: %v", err)
	}
	for state, err := range c.Watch(t.Context()) {
		if err != nil || !state.GetReady() || state.GetRunning() != 3 {
			t.Errorf("state %v, %v", state, err)
		}
		break
	}
}

func TestKeysStayOnThisMachineWithoutTLS(t *testing.T) {
	for address, secure := range map[string]bool{"shoal.example:8081": false, "192.0.2.1:8081": false, "127.0.0.1:1": true, "[::1]:1": true, "localhost:1": true} {
		c, err := client.New(client.Config{Address: address, Key: "k"})
		if (err == nil) != secure {
			t.Errorf("%s without TLS: %v", address, err)
		}
		if err == nil {
			c.Close()
		}
	}
	c, err := client.New(client.Config{Address: "shoal.example:8081", Key: "k", TLS: &tls.Config{MinVersion: tls.VersionTLS13}})
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}
