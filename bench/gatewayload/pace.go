//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/shoal-llm/shoal/internal/pki"
	"github.com/shoal-llm/shoal/internal/wire"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

const (
	tick     = time.Millisecond // tokens that are due within one travel together
	circle   = 2048             // ticks: more than the time between two tokens of a stream
	perFrame = 256              // messages in one RelayResponse
)

// paced is a coordinator whose generations send tokens at a fixed rate, on
// time whatever the gateway does (an open loop), as long as they have credit.
// The text of a token is when it was sent and its number: see stamp.
type paced struct {
	pb.UnimplementedCoordinatorServiceServer

	mu      sync.Mutex // guards following
	late    histogram
	sent    uint64
	starved uint64
	ending  bool // generations end with their next token
}

// stream is one generation.
type stream struct {
	number      uint64
	seq, credit uint64
	last        uint64 // its number of tokens
	due         int64  // Unix nanoseconds of the next token
	period      int64  // nanoseconds
	pad         string // more text for each token
	waiting     bool   // for credit
	over        bool
}

// playCoordinator serves a paced coordinator.
func playCoordinator() error {
	p := &paced{}
	return converse(os.Stdin, os.Stdout, p.start, p.answer)
}

func (p *paced) start(secret string) (string, error) {
	id, err := identity(secret, "load-coordinator", pki.Coordinator)
	if err != nil {
		return "", err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	server := grpc.NewServer(append(wire.ServerOptions(), grpc.Creds(id.ServerCredentials(pki.Gateway)))...)
	pb.RegisterCoordinatorServiceServer(server, p)
	go func() { _ = server.Serve(ln) }() // ends with the process
	return ln.Addr().String(), nil
}

// answer obeys finish and begin, and says what was used.
func (p *paced) answer(word string) (any, error) {
	u, err := ownUsage()
	p.mu.Lock()
	defer p.mu.Unlock()
	switch word {
	case "finish":
		p.ending = true
	case "begin":
		p.ending = false
	}
	u.Sent, u.Starved = p.sent, p.starved
	u.LateMedian, u.LateP99, u.LateMost = p.late.quantile(0.5), p.late.quantile(0.99), p.late.most
	p.late, p.sent, p.starved = histogram{}, 0, 0
	return u, err
}

// Cluster reports one model that is ready.
func (p *paced) Cluster(context.Context, *pb.ClusterRequest) (*pb.ClusterResponse, error) {
	return &pb.ClusterResponse{Ready: true, Models: []*pb.ModelInfo{{Name: "paced", State: "ready"}}}, nil
}

// Relay paces the generations of one gateway.
func (p *paced) Relay(s grpc.BidiStreamingServer[pb.RelayRequest, pb.RelayResponse]) error {
	r := &pacer{coordinator: p, stream: s, open: map[uint64]*stream{}, at: time.Now().UnixNano() / int64(tick)}
	ended := make(chan error, 1)
	go func() { ended <- r.receive() }()
	clock := time.NewTicker(tick)
	defer clock.Stop()
	for {
		select {
		case err := <-ended:
			return err
		case <-clock.C:
			if err := r.send(); err != nil {
				return err
			}
		}
	}
}

// pacer is one relay and its timing wheel.
type pacer struct {
	coordinator *paced
	stream      grpc.BidiStreamingServer[pb.RelayRequest, pb.RelayResponse]

	mu     sync.Mutex // guards following
	open   map[uint64]*stream
	wheel  [circle][]*stream // by tick
	at     int64             // the next tick to serve
	answer []*pb.Downward    // to go out with the next tick
}

func (r *pacer) receive() error {
	for {
		m, err := r.stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		r.mu.Lock()
		for _, up := range m.GetMessages() {
			r.take(up)
		}
		r.mu.Unlock()
	}
}

func (r *pacer) take(up *pb.Upward) {
	s := r.open[up.GetNumber()]
	switch m := up.GetMessage().(type) {
	case *pb.Upward_Start:
		r.begin(up.GetNumber(), m.Start)
	case *pb.Upward_Credit:
		if s == nil {
			return
		}
		s.credit = m.Credit.GetSeq()
		if s.waiting {
			s.waiting, s.due = false, time.Now().UnixNano()
			r.schedule(s)
		}
	case *pb.Upward_Stop:
		if s != nil {
			s.over = true
			delete(r.open, s.number)
		}
	}
}

// begin accepts a generation. Its prompt is "RATE PAD": tokens a second, and
// bytes to add to each.
func (r *pacer) begin(number uint64, g *pb.Generation) {
	text := g.GetPrompt()
	if turns := g.GetChat().GetMessages(); len(turns) > 0 {
		text = turns[len(turns)-1].GetContent()
	}
	var rate float64
	var pad int
	if _, err := fmt.Sscanf(text, "%g %d", &rate, &pad); err != nil || rate < 1 {
		r.answer = append(r.answer, &pb.Downward{Number: number, Event: &pb.Event{Event: &pb.Event_Error{
			Error: &pb.Error{Code: "invalid_request", Message: "want a prompt \"RATE PAD\""},
		}}})
		return
	}
	s := &stream{number: number, last: uint64(g.GetSampling().GetMaxTokens()), period: int64(float64(time.Second) / rate), pad: strings.Repeat("x", pad)}
	s.due = time.Now().UnixNano() + rand.Int64N(s.period)
	r.open[number] = s
	r.answer = append(r.answer, &pb.Downward{Number: number, Event: &pb.Event{Event: &pb.Event_Accepted{
		Accepted: &pb.Accepted{Id: "s" + strconv.FormatUint(number, 10), Model: "paced", PromptIds: []int32{1, 2, 3}},
	}}})
	r.schedule(s)
}

func (r *pacer) schedule(s *stream) {
	at := max(s.due/int64(tick), r.at) + 1 // never the tick that is being served
	r.wheel[at%circle] = append(r.wheel[at%circle], s)
}

// send serves the ticks up to now.
func (r *pacer) send() error {
	now := time.Now().UnixNano()
	p := r.coordinator
	r.mu.Lock()
	p.mu.Lock()
	out := r.answer
	r.answer = nil
	for ; r.at <= now/int64(tick); r.at++ {
		due := r.wheel[r.at%circle]
		r.wheel[r.at%circle] = due[:0:cap(due)]
		for _, s := range due {
			out = r.token(out, s, now)
		}
		clear(due)
	}
	p.mu.Unlock()
	r.mu.Unlock()
	for len(out) > 0 {
		n := min(len(out), perFrame)
		if err := r.stream.Send(&pb.RelayResponse{Messages: out[:n]}); err != nil {
			return err
		}
		out = out[n:]
	}
	return nil
}

// token appends the next token of a stream, and its end.
func (r *pacer) token(out []*pb.Downward, s *stream, now int64) []*pb.Downward {
	p := r.coordinator
	if s.over {
		return out
	}
	if s.credit <= s.seq {
		s.waiting = true
		p.starved++
		return out
	}
	s.seq++
	p.sent++
	p.late.add(time.Duration(now - s.due))
	out = append(out, &pb.Downward{Number: s.number, Event: &pb.Event{Event: &pb.Event_Token{Token: &pb.Token{
		Seq: s.seq, Id: int32(s.seq), Delta: &pb.Delta{Delta: &pb.Delta_Content{Content: stamp(now, s.seq) + s.pad}},
	}}}})
	if s.seq < s.last && !p.ending {
		s.due += s.period
		r.schedule(s)
		return out
	}
	s.over = true
	delete(r.open, s.number)
	return append(out, &pb.Downward{Number: s.number, Event: &pb.Event{Event: &pb.Event_Complete{Complete: &pb.Complete{
		FinishReason: "length", Usage: &pb.Usage{PromptTokens: 3, CompletionTokens: uint32(s.seq)}, Timings: &pb.Timings{PredictedMs: 1},
	}}}})
}

// stamp is the text of a token: when it was sent and its number.
func stamp(now int64, seq uint64) string {
	b := strconv.AppendInt(make([]byte, 0, 24), now, 36)
	b = append(b, '.')
	b = strconv.AppendUint(b, seq, 36)
	return string(append(b, ' '))
}
