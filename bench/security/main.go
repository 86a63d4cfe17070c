// Command security measures what mutual TLS costs on the way from one node to the
// next: the time of a message of 8 KiB (a row of activations) and its short answer,
// over the connections that nodes have and over the same without TLS, one after the
// other in one process. `make bench-security` runs it. Nodes have no mode without
// TLS: it exists here alone.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/shoal-llm/shoal/internal/measure"
	"github.com/shoal-llm/shoal/internal/pki"
	"github.com/shoal-llm/shoal/internal/wire"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// settings are the flags.
type settings struct {
	save          string
	runs, samples int
	size          int // bytes of a message
}

func main() {
	var s settings
	flag.StringVar(&s.save, "save", "", "JSON file of figures to merge the results into")
	flag.IntVar(&s.runs, "runs", 9, "rounds; the median of their medians counts")
	flag.IntVar(&s.samples, "samples", 5000, "messages of each kind in a round, taking turns")
	flag.IntVar(&s.size, "size", 8<<10, "bytes of a message")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, s, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "security:", err)
		os.Exit(1)
	}
}

// echo answers each message with a short one, as a stage that takes a frame does.
type echo struct {
	pb.UnimplementedShardServiceServer
}

// Probe answers each message.
func (echo) Probe(stream pb.ShardService_ProbeServer) error {
	for {
		m, err := stream.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := stream.Send(&pb.ProbeResponse{Sequence: m.GetSequence()}); err != nil {
			return err
		}
	}
}

// hop is an open stream to a server in this process.
type hop struct {
	stream pb.ShardService_ProbeClient
	sent   uint64
	close  []func()
}

// open starts a server and opens a stream to it, with the settings of nodes.
func open(ctx context.Context, server, client credentials.TransportCredentials) (*hop, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := grpc.NewServer(append(wire.ServerOptions(), grpc.Creds(server))...)
	pb.RegisterShardServiceServer(s, echo{})
	go func() { _ = s.Serve(l) }() // until Stop
	h := &hop{close: []func(){s.Stop}}
	conn, err := grpc.NewClient("passthrough:///"+l.Addr().String(), append(wire.DialOptions(), grpc.WithTransportCredentials(client))...)
	if err != nil {
		return h, err
	}
	h.close = append(h.close, func() { _ = conn.Close() })
	h.stream, err = pb.NewShardServiceClient(conn).Probe(ctx)
	return h, err
}

func (h *hop) end() {
	if h == nil {
		return
	}
	for _, f := range slices.Backward(h.close) {
		f()
	}
}

// once sends a message and waits for its answer.
func (h *hop) once(payload []byte) (time.Duration, error) {
	h.sent++
	began := time.Now()
	if err := h.stream.Send(&pb.ProbeRequest{Sequence: h.sent, Payload: payload}); err != nil {
		return 0, err
	}
	m, err := h.stream.Recv()
	took := time.Since(began)
	if err == nil && m.GetSequence() != h.sent {
		err = fmt.Errorf("answer %d where %d was due", m.GetSequence(), h.sent)
	}
	return took, err
}

// figures are the results of all rounds, in microseconds.
type figures struct{ plain, tls, cost []float64 }

func run(ctx context.Context, s settings, out io.Writer) error {
	if s.runs < 1 || s.samples < 1 || s.size < 1 {
		return fmt.Errorf("-runs %d -samples %d -size %d: want 1 or more", s.runs, s.samples, s.size)
	}
	f, err := rounds(ctx, s)
	if err != nil {
		return err
	}
	plain, tls, cost := measure.Median(f.plain), measure.Median(f.tls), measure.Median(f.cost)
	about := measure.Figure{
		Unit: "µs", Runs: s.runs, Machine: fmt.Sprintf("%s, %d threads", runtime.GOARCH, runtime.GOMAXPROCS(0)),
		Command: "make bench-security", Date: time.Now().UTC().Format(time.DateOnly),
	}
	results := []measure.Figure{about, about, about}
	results[0].Name, results[0].Value = "mtls_cost_p50_us", cost
	results[1].Name, results[1].Value = "hop_plain_p50_us", plain
	results[2].Name, results[2].Value, results[2].Baseline, results[2].Ratio = "hop_mtls_p50_us", tls, plain, plain/tls
	fmt.Fprintf(out, "%d bytes there and an answer back, p50: %.1f µs without TLS, %.1f µs with mutual TLS; it costs %.1f µs\n", s.size, plain, tls, cost)
	if s.save == "" {
		return nil
	}
	return measure.Save(s.save, results)
}

// rounds measures both kinds, taking turns message by message, so that whatever
// else the machine does meets both alike.
func rounds(ctx context.Context, s settings) (*figures, error) {
	secret := pki.NewSecret()
	a, err := pki.New(secret, pki.Node{ID: "a", Roles: []pki.Role{pki.Shard}})
	if err != nil {
		return nil, err
	}
	b, err := pki.New(secret, pki.Node{ID: "b", Roles: []pki.Role{pki.Shard}})
	if err != nil {
		return nil, err
	}
	plain, err := open(ctx, insecure.NewCredentials(), insecure.NewCredentials())
	defer plain.end()
	if err != nil {
		return nil, err
	}
	tls, err := open(ctx, b.ServerCredentials(pki.Shard), a.ClientCredentials("b", pki.Shard))
	defer tls.end()
	if err != nil {
		return nil, err
	}
	f, payload := &figures{}, make([]byte, s.size)
	for round := -1; round < s.runs; round++ { // the first warms up
		times := [2][]float64{}
		for range s.samples {
			for kind, h := range []*hop{plain, tls} {
				took, err := h.once(payload)
				if err != nil {
					return nil, err
				}
				times[kind] = append(times[kind], float64(took.Nanoseconds())/1e3)
			}
		}
		if round < 0 {
			continue
		}
		x, y := measure.Median(times[0]), measure.Median(times[1])
		f.plain, f.tls, f.cost = append(f.plain, x), append(f.tls, y), append(f.cost, y-x)
	}
	return f, nil
}
