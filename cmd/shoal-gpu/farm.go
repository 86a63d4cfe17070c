package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/shoal-llm/shoal/internal/cluster"
	"github.com/shoal-llm/shoal/internal/pki"
	"github.com/shoal-llm/shoal/internal/supervise"
	"github.com/shoal-llm/shoal/internal/synthetic"
	"github.com/shoal-llm/shoal/internal/wire"
	"github.com/shoal-llm/shoal/pkg/model"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/coordinator"
	"github.com/shoal-llm/shoal/services/coordinator/generation"
	"github.com/shoal-llm/shoal/services/coordinator/plan"
)

// farm is a whole cluster on this machine: a coordinator in this process, and
// processes that each serve one stage of a synthetic model on the same device.
type farm struct {
	members *farmMembers
	relay   pb.CoordinatorService_RelayClient
	next    uint64
	close   []func() error
}

// farmMembers are the children that are ready.
type farmMembers struct {
	changed chan struct{}
	failed  chan error // capacity 1: a child could not serve

	mu   sync.Mutex
	list []cluster.Member // guarded by mu; replaced, never changed
}

// Members implements coordinator.Members.
func (m *farmMembers) Members() []cluster.Member {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.list
}

// Changed implements coordinator.Members.
func (m *farmMembers) Changed() <-chan struct{} { return m.changed }

// hear takes what a child says. A benchmark does not outlive one.
func (m *farmMembers) hear(s supervise.Settings, r supervise.Report) {
	switch r.State {
	case supervise.Lost, supervise.Refused:
		select {
		case m.failed <- fmt.Errorf("%s is %s: %s", s.Node, r.State, r.Reason):
		default:
		}
	case supervise.Ready:
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(r.Port))
		m.mu.Lock()
		defer m.mu.Unlock()
		m.list = append(m.list[:len(m.list):len(m.list)], cluster.Member{
			NodeID: s.Node, Meta: cluster.Meta{Roles: []pki.Role{pki.Shard}, GRPCAddr: addr},
		})
		select {
		case m.changed <- struct{}{}:
		default:
		}
	}
}

// letters turns text into the ids of its bytes, and ids into nothing.
type letters struct{}

func (letters) Chat([]coordinator.Message, []json.RawMessage) ([]int32, error) {
	return nil, coordinator.ErrNoTemplate
}

func (letters) Raw(text string) ([]int32, error) {
	ids := make([]int32, len(text))
	for i := range len(text) {
		ids[i] = int32(text[i])
	}
	return ids, nil
}

func (letters) Token(int32) string                  { return "" }
func (letters) Detokenizer() generation.Detokenizer { return silent{} }

type silent struct{}

func (silent) Push(int32) string { return "" }
func (silent) Flush() string     { return "" }

// startFarm starts a cluster whose stages are on adapters in turn, and returns when it
// can answer.
func startFarm(ctx context.Context, adapters []supervise.Adapter, m *synthetic.Model, stages int, w workload) (f *farm, err error) {
	f = &farm{members: &farmMembers{changed: make(chan struct{}, 1), failed: make(chan error, 1)}}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.end())
		}
	}()
	secret := pki.NewSecret()
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	program, err := os.Executable()
	if err != nil {
		return f, err
	}
	cfg := supervise.Config{Program: program, Notify: f.members.hear, Log: log}
	for i := range stages {
		cfg.Children = append(cfg.Children, supervise.Settings{
			Version: version, KernelSet: "bench", Node: fmt.Sprintf("bench.gpu%d", i), Secret: secret.Text(),
			Adapter: adapters[i%len(adapters)], Listen: "127.0.0.1:0", LogLevel: "warn", Synthetic: true,
		})
	}
	f.start(ctx, func(ctx context.Context) error { return supervise.Run(ctx, cfg) })
	addr, err := f.startCoordinator(ctx, secret, m, stages, w, log)
	if err != nil {
		return f, err
	}
	return f, f.connect(ctx, secret, addr)
}

// start runs a part of the farm until its end.
func (f *farm) start(ctx context.Context, run func(context.Context) error) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- run(ctx) }()
	f.close = append(f.close, func() error {
		cancel()
		return <-ended
	})
}

// end ends everything, last first.
func (f *farm) end() error {
	var err error
	for i := len(f.close) - 1; i >= 0; i-- {
		err = errors.Join(err, f.close[i]())
	}
	f.close = nil
	return err
}

func (f *farm) startCoordinator(ctx context.Context, secret pki.Secret, m *synthetic.Model, stages int, w workload, log *slog.Logger) (addr string, err error) {
	id, err := pki.New(secret, pki.Node{ID: "bench-coordinator", Roles: []pki.Role{pki.Coordinator}})
	if err != nil {
		return "", err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	cfg := coordinator.Default()
	cfg.Version = version
	cfg.Wishes.Stages, cfg.Wishes.MinShards = stages, stages
	cfg.Wishes.Sessions, cfg.Wishes.Slots = w.streams, w.streams
	cfg.Wishes.Context, cfg.Wishes.Rows, cfg.Wishes.Settle = w.prefill+w.decode+1, 512, 0
	c, err := coordinator.New(cfg, coordinator.Deps{
		Identity: id, Listener: l, Members: f.members, Log: log,
		Model: coordinator.Model{
			Name: m.Name, Architecture: m.Spec.Arch, Digest: m.Digest, FileDigest: m.Digest, Hidden: m.Spec.Hidden, Vocab: m.Spec.Vocab,
			Facts: factsOf(m), Text: letters{},
		},
	})
	if err != nil {
		return "", errors.Join(err, l.Close())
	}
	f.start(ctx, c.Run)
	return l.Addr().String(), nil
}

// factsOf measures the parts of a model, for the plan.
func factsOf(m *synthetic.Model) plan.Model {
	s := m.Spec
	facts := plan.Model{Name: m.Name, Context: s.Context, KVPage: s.KVBytes(1), RowScratch: uint64(s.Hidden) * 64, Logits: uint64(s.Vocab) * 4}
	var layers uint64
	for i := range s.Layers {
		n := m.Bytes(model.Part{First: i, End: i + 1})
		facts.LayerBytes = append(facts.LayerBytes, n)
		layers += n
	}
	facts.EmbedBytes = m.Bytes(model.Part{First: 0, End: 1, Embed: true}) - facts.LayerBytes[0]
	facts.HeadBytes = m.Bytes(model.Part{First: s.Layers - 1, End: s.Layers, Head: true}) - facts.LayerBytes[s.Layers-1]
	facts.TiedBytes = facts.EmbedBytes + facts.HeadBytes + layers - m.Bytes(model.Whole(s))
	return facts
}

// connect opens a stream of requests and waits until the cluster is ready.
func (f *farm) connect(ctx context.Context, secret pki.Secret, addr string) error {
	id, err := pki.New(secret, pki.Node{ID: "bench-client", Roles: []pki.Role{pki.Gateway}})
	if err != nil {
		return err
	}
	creds := grpc.WithTransportCredentials(id.ClientCredentials("", pki.Coordinator))
	conn, err := grpc.NewClient(addr, append(wire.DialOptions(), creds)...)
	if err != nil {
		return fmt.Errorf("dial coordinator: %w", err)
	}
	f.close = append(f.close, conn.Close)
	client := pb.NewCoordinatorServiceClient(conn)
	for {
		const pause = 50 * time.Millisecond
		state, err := client.Cluster(ctx, &pb.ClusterRequest{})
		if err == nil && state.GetReady() {
			break
		}
		select {
		case err := <-f.members.failed:
			return err
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(pause):
		}
	}
	f.relay, err = client.Relay(ctx)
	return err
}

// run runs a workload and returns the tokens a second of all streams together,
// from when each has its first token until one has its last.
func (f *farm) run(w workload) (float64, error) {
	var m pb.RelayRequest
	first := f.next
	for range w.streams {
		prompt := make([]byte, w.prefill)
		for i := range prompt {
			prompt[i] = 'a' + byte(rand.N(26))
		}
		m.Messages = append(m.Messages,
			&pb.Upward{Number: f.next, Message: &pb.Upward_Start{Start: &pb.Generation{
				Input: &pb.Generation_Raw{Raw: string(prompt)}, Sampling: &pb.Sampling{IgnoreEos: true, MaxTokens: int32(w.decode)},
				Scheduling: &pb.Scheduling{Prediction: new(bool)}, // guesses would be lost on random weights
			}}},
			&pb.Upward{Number: f.next, Message: &pb.Upward_Credit{Credit: &pb.Credit{Seq: uint64(w.decode)}}})
		f.next++
	}
	if err := f.relay.Send(&m); err != nil {
		return 0, fmt.Errorf("ask: %w", err)
	}
	var began, ended time.Time
	begun, running, counted := 0, w.streams, 0
	for running > 0 {
		in, err := f.relay.Recv()
		if err != nil {
			return 0, fmt.Errorf("hear answers: %w", err)
		}
		for _, d := range in.GetMessages() {
			if d.GetNumber() < first {
				continue
			}
			switch e := d.GetEvent().GetEvent().(type) {
			case *pb.Event_Token:
				switch {
				case !began.IsZero() && ended.IsZero():
					counted++
				case e.Token.GetSeq() == 1:
					if begun++; begun == w.streams {
						began = time.Now()
					}
				}
			case *pb.Event_Complete:
				if running--; ended.IsZero() {
					ended = time.Now()
				}
			case *pb.Event_Error:
				return 0, fmt.Errorf("an answer failed: %s: %s", e.Error.GetCode(), e.Error.GetMessage())
			}
		}
	}
	if began.IsZero() || counted == 0 {
		return 0, errors.New("an answer ended before another began: ask for more tokens (--decode)")
	}
	return float64(counted) / ended.Sub(began).Seconds(), nil
}
