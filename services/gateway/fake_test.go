package gateway

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of these tests; nothing is measured with it.
const patience = 10 * time.Second

// fakeCoordinator serves CoordinatorService over real gRPC and answers with a
// script.
type fakeCoordinator struct {
	pb.UnimplementedCoordinatorServiceServer
	started chan *fakeGeneration
	kill    func()        // ends the server for good
	beaten  chan struct{} // a heartbeat has been answered

	mu      sync.Mutex // guards following
	keeps   bool       // claims are for the script; else there is nothing to claim
	script  func(*fakeGeneration)
	cluster *pb.ClusterResponse
	breaks  []chan struct{} // of the streams that are open
	mutes   []chan struct{} // of the streams that are to say nothing, as those over a cut link
}

// fakeGeneration is one generation as the coordinator sees it.
type fakeGeneration struct {
	*pb.Generation
	claim   *pb.Claim // instead of Generation
	number  uint64
	send    func(uint64, ...*pb.Event)
	stopped chan string // the reason of a Stop

	mu     sync.Mutex // guards credit
	credit uint64
	more   *sync.Cond
	over   bool
}

func newFake() *fakeCoordinator {
	return &fakeCoordinator{
		started: make(chan *fakeGeneration, 4096),
		beaten:  make(chan struct{}),
		script:  func(g *fakeGeneration) { g.answer("Hello", " ", "world") },
		cluster: &pb.ClusterResponse{Ready: true, Models: []*pb.ModelInfo{{
			Name: "tiny", State: "ready", Precision: "int8", Context: 2048, Layers: 8,
			Stages: []string{"ada/0 [0..4) embed", "bob/0 [4..8) head"}, Fingerprint: "f00d", Created: 1700000000, Aliases: []string{"models/llama-7b"},
		}}},
	}
}

func (f *fakeCoordinator) set(script func(*fakeGeneration)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.script = script
}

func (f *fakeCoordinator) report(c *pb.ClusterResponse) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cluster = c
}

// Cluster answers what report was told.
func (f *fakeCoordinator) Cluster(context.Context, *pb.ClusterRequest) (*pb.ClusterResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.cluster, nil
}

// breakStreams ends all relays as a crash would.
func (f *fakeCoordinator) breakStreams() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, b := range f.breaks {
		close(b)
	}
	f.breaks = nil
}

// muteStreams has all relays of now say nothing more.
func (f *fakeCoordinator) muteStreams() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range f.mutes {
		close(m)
	}
	f.mutes = nil
}

// Relay runs the script for each generation.
func (f *fakeCoordinator) Relay(stream grpc.BidiStreamingServer[pb.RelayRequest, pb.RelayResponse]) error {
	broken, mute := make(chan struct{}), make(chan struct{})
	f.mu.Lock()
	f.breaks, f.mutes = append(f.breaks, broken), append(f.mutes, mute)
	f.mu.Unlock()
	var sending sync.Mutex
	say := func(messages ...*pb.Downward) {
		sending.Lock()
		defer sending.Unlock()
		select {
		case <-mute:
		default:
			_ = stream.Send(&pb.RelayResponse{Messages: messages}) // a broken stream shows on the receiving side
		}
	}
	send := func(number uint64, events ...*pb.Event) {
		var messages []*pb.Downward
		for _, e := range events {
			messages = append(messages, &pb.Downward{Number: number, Event: e})
		}
		say(messages...)
	}
	ended := make(chan error, 1)
	go func() { ended <- f.receive(stream, say, send) }()
	select {
	case <-broken:
		return fmt.Errorf("the coordinator crashed")
	case err := <-ended:
		return err
	}
}

func (f *fakeCoordinator) receive(stream grpc.BidiStreamingServer[pb.RelayRequest, pb.RelayResponse], say func(...*pb.Downward), send func(uint64, ...*pb.Event)) error {
	open := map[uint64]*fakeGeneration{}
	defer func() {
		for _, g := range open {
			g.stop("stream")
		}
	}()
	for {
		req, err := stream.Recv()
		if err != nil {
			return err
		}
		for _, m := range req.GetMessages() {
			switch msg := m.GetMessage().(type) {
			case *pb.Upward_Start, *pb.Upward_Claim:
				g := &fakeGeneration{Generation: m.GetStart(), claim: m.GetClaim(), number: m.GetNumber(), send: send, stopped: make(chan string, 1)}
				g.more = sync.NewCond(&g.mu)
				open[m.GetNumber()] = g
				f.mu.Lock()
				script := f.script
				f.mu.Unlock()
				if g.claim != nil && !f.keeps {
					send(g.number, errorEvent(codeUnknownGeneration, "id", false))
					continue
				}
				f.started <- g
				go script(g)
			case *pb.Upward_Beat:
				say(&pb.Downward{Beat: msg.Beat})
				select {
				case f.beaten <- struct{}{}:
				default: // nobody waits for it
				}
			case *pb.Upward_Credit:
				open[m.GetNumber()].grant(msg.Credit.GetSeq())
			case *pb.Upward_Stop:
				open[m.GetNumber()].stop(msg.Stop.GetReason())
			}
		}
	}
}

func (g *fakeGeneration) grant(seq uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.credit = max(g.credit, seq)
	g.more.Broadcast()
}

func (g *fakeGeneration) stop(reason string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.over {
		g.over = true
		g.stopped <- reason
		g.more.Broadcast()
	}
}

// await waits for credit up to seq; false: the generation was stopped.
func (g *fakeGeneration) await(seq uint64) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.credit < seq && !g.over {
		g.more.Wait()
	}
	return !g.over
}

func (g *fakeGeneration) accept() {
	g.send(g.number, &pb.Event{Event: &pb.Event_Accepted{Accepted: &pb.Accepted{
		Id: fmt.Sprintf("s%d", g.number), Model: "tiny", PromptIds: []int32{1, 2, 3}, Seed: 7,
		Fingerprint: "f00d", Precision: "int8", Route: []string{"ada [0..4)", "bob [4..8)"},
	}}})
}

func tokenEvent(seq uint64, text string) *pb.Event {
	return &pb.Event{Event: &pb.Event_Token{Token: &pb.Token{
		Seq: seq, Id: int32(seq), Delta: &pb.Delta{Delta: &pb.Delta_Content{Content: text}},
	}}}
}

func completeEvent(reason string, tokens int, held string) *pb.Event {
	return &pb.Event{Event: &pb.Event_Complete{Complete: &pb.Complete{
		FinishReason: reason, Text: held,
		Usage:   &pb.Usage{PromptTokens: 3, CompletionTokens: uint32(tokens)},
		Timings: &pb.Timings{QueueMs: 1, PromptMs: 10, PredictedMs: 100},
	}}}
}

func errorEvent(code, param string, retryable bool) *pb.Event {
	return &pb.Event{Event: &pb.Event_Error{Error: &pb.Error{Code: code, Message: "It went wrong.", Param: param, Retryable: retryable}}}
}

// answer is a whole generation of the given tokens.
func (g *fakeGeneration) answer(words ...string) {
	g.accept()
	for i, w := range words {
		if !g.await(uint64(i + 1)) {
			return
		}
		g.send(g.number, tokenEvent(uint64(i+1), w))
	}
	g.send(g.number, completeEvent("stop", len(words), ""))
}

// endless sends tokens until it is stopped; it obeys its credit.
func (g *fakeGeneration) endless() {
	g.accept()
	for seq := uint64(1); g.await(seq); seq++ {
		g.send(g.number, tokenEvent(seq, "word "))
	}
}

// silent accepts and then says nothing.
func (g *fakeGeneration) silent() { g.accept() }

// front is a running gateway with a fake coordinator behind it.
type front struct {
	*Gateway
	fake *fakeCoordinator
	url  string
	log  *safeBuffer
	stop context.CancelFunc
	done chan error
}

// safeBuffer is a buffer that many goroutines write.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// dialFake serves the fake on loopback and returns a connection to it.
func dialFake(t *testing.T, fake *fakeCoordinator) *grpc.ClientConn {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	pb.RegisterCoordinatorServiceServer(server, fake)
	go server.Serve(ln)
	conn, err := grpc.NewClient(ln.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	fake.kill = server.Stop
	t.Cleanup(func() { conn.Close(); server.Stop() })
	return conn
}

// serve starts a gateway on free ports and stops it with the test.
func serve(t *testing.T, edit ...func(*Config, *Deps)) *front {
	t.Helper()
	f := &front{fake: newFake(), log: &safeBuffer{}, done: make(chan error, 1)}
	config := Config{Listen: "127.0.0.1:0", GRPCListen: "127.0.0.1:0", Limits: Limits{Drain: 50 * time.Millisecond}}
	deps := Deps{
		Coordinator: dialFake(t, f.fake),
		Log:         slog.New(slog.NewJSONHandler(f.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	for _, e := range edit {
		e(&config, &deps)
	}
	gw, err := New(config, deps)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	f.Gateway, f.url, f.stop = gw, gw.URL(), stop
	go func() { f.done <- gw.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		select {
		case err := <-f.done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(patience):
			t.Error("Run does not return")
		}
	})
	return f
}

// breakForGood ends the coordinator and waits until the gateway knows.
func (f *front) breakForGood(t *testing.T) {
	t.Helper()
	f.fake.kill()
	for end := time.Now().Add(patience); f.relay.connected(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the relay does not notice")
		}
	}
}

// next waits for the next generation that the coordinator saw.
func (f *front) next(t *testing.T) *fakeGeneration {
	t.Helper()
	select {
	case g := <-f.fake.started:
		return g
	case <-time.After(patience):
		t.Fatal("no generation reached the coordinator")
		return nil
	}
}

// wantStop waits for the coordinator to see a Stop.
func (g *fakeGeneration) wantStop(t *testing.T, reason string) {
	t.Helper()
	select {
	case got := <-g.stopped:
		if got != reason {
			t.Errorf("stop reason %q, want %q", got, reason)
		}
	case <-time.After(patience):
		t.Fatal("the coordinator never saw a stop")
	}
}

// httpClient is a client whose connections end with the test.
func httpClient(t *testing.T) *http.Client {
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// post sends a chat request and returns status, headers and body.
func (f *front) post(t *testing.T, path, body string, headers ...string) (int, http.Header, string) {
	t.Helper()
	return f.do(t, http.MethodPost, path, body, headers...)
}

func (f *front) do(t *testing.T, method, path, body string, headers ...string) (int, http.Header, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, f.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			req.Host = headers[i+1]
			continue
		}
		req.Header.Add(headers[i], headers[i+1])
	}
	resp, err := httpClient(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(data)
}
