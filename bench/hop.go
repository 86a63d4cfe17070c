package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/shoal-llm/shoal/internal/pki"
	"github.com/shoal-llm/shoal/internal/wire"
	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/engine"
	"github.com/shoal-llm/shoal/pkg/frame"
	"github.com/shoal-llm/shoal/pkg/model"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/shard"
)

// Sizes of the hop that is measured: one row of 8 KiB.
const (
	hopHidden = 2048
	hopVocab  = 1 << 20
	hopSteps  = 20_000
	hopWarmUp = 2_000
)

// relayStage is a stage that computes nothing: its device completes a pass as it
// is submitted. It notes when frames leave and arrive.
type relayStage struct {
	compute.Backend
	cfg     engine.Config
	done    chan compute.Completion
	started []*frame.Frame
	rows    []byte
	left    func(step uint64) // a frame is ready for the next stage
	arrived func(step uint64)
}

func (r *relayStage) Completions() <-chan compute.Completion { return r.done }
func (r *relayStage) Info() compute.Info {
	return compute.Info{Kind: "relay", Name: "a relay", Class: "relay", Threads: 1, Memory: 1 << 30}
}
func (r *relayStage) Used() compute.Memory { return compute.Memory{} }

// Start completes a frame at once.
func (r *relayStage) Start(tag uint64, f *frame.Frame) error {
	if r.cfg.Stage > 0 {
		r.arrived(f.Step)
	}
	r.started = append(r.started, f)
	r.done <- compute.Completion{Tag: tag}
	return nil
}

// Finish gives rows to the next stage, or an id that was never there before.
func (r *relayStage) Finish(compute.Completion) (engine.Output, error) {
	f := r.started[0]
	r.started = r.started[:copy(r.started, r.started[1:])]
	if r.cfg.Part.Head {
		return engine.Output{Result: r.sample(f)}, nil
	}
	out := &frame.Frame{Epoch: f.Epoch, Pipeline: f.Pipeline, Step: f.Step, Ops: f.Ops, Spans: f.Spans, Timings: f.Timings}
	if n := f.NumRows(); n > 0 {
		out.DType, out.Rows = frame.DTypeF32, r.rows[:4*hopHidden*n]
		r.left(f.Step)
	}
	return engine.Output{Frame: out}, nil
}

func (r *relayStage) sample(f *frame.Frame) *frame.Result {
	out := &frame.Result{Epoch: f.Epoch, Pipeline: f.Pipeline, Step: f.Step, Timings: f.Timings}
	for i := range f.Spans {
		sp := &f.Spans[i]
		at := sp.Start + int32(len(sp.Tokens))
		out.Sampled = append(out.Sampled, frame.Sampled{Slot: sp.Slot, Attempt: sp.Attempt, Position: at, IDs: []int32{at}})
	}
	return out
}

// Pages tells nothing.
func (r *relayStage) Pages() (used, capacity int) { return 0, 1 }

// Close frees nothing.
func (r *relayStage) Close() error { return nil }

// hops are two shards in this process, over mutual TLS on loopback, and their
// coordinator.
type hops struct {
	secret pki.Secret
	left   atomic.Int64 // when the newest frame left, in ns after began; steps go one by one
	began  time.Time
	took   []time.Duration
	steps  []time.Duration // between two frames: a step's way round
	group  []func() error  // what ends with the measurement
}

// measureHops returns how long frames of one row take from a stage that has
// computed them to the next one's start, one at a time, and how long a token's way
// round both stages and the driver is.
func measureHops(ctx context.Context) (took, steps []time.Duration, err error) {
	ctx, cancel := context.WithCancel(ctx)
	h := &hops{secret: pki.NewSecret(), began: time.Now()}
	defer func() {
		cancel()
		for _, wait := range h.group {
			err = errors.Join(err, wait())
		}
	}()
	plan := &pb.Plan{
		Epoch: 1, Coordinator: "bench",
		Model:     &pb.Model{Name: "relay", Digest: make([]byte, 32), Layers: 2, Hidden: hopHidden, Vocab: hopVocab, Context: 1 << 20},
		Pipelines: []*pb.Pipeline{{Id: 1, Pages: 1 << 15, Slots: 1, Rows: 1, Lanes: 1, Context: 1 << 20}},
	}
	for i := range uint32(2) {
		node := fmt.Sprint("shard-", i)
		addr, err := h.start(ctx, node)
		if err != nil {
			return nil, nil, err
		}
		plan.Pipelines[0].Stages = append(plan.Pipelines[0].Stages, &pb.Stage{
			Node: node, Address: addr, First: i, End: i + 1, Embed: i == 0, Head: i == 1,
		})
	}
	boss, err := pki.New(h.secret, pki.Node{ID: "bench", Roles: []pki.Role{pki.Coordinator}})
	if err != nil {
		return nil, nil, err
	}
	if err := h.drive(ctx, boss, plan); err != nil {
		return nil, nil, err
	}
	return h.took[hopWarmUp:], h.steps[hopWarmUp:], nil
}

// start runs a shard and returns its address.
func (h *hops) start(ctx context.Context, node string) (string, error) {
	id, err := pki.New(h.secret, pki.Node{ID: node, Roles: []pki.Role{pki.Shard}})
	if err != nil {
		return "", err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	relay := &relayStage{done: make(chan compute.Completion, compute.MaxPasses), rows: make([]byte, 4*hopHidden)}
	for i := range hopHidden {
		binary.LittleEndian.PutUint32(relay.rows[4*i:], uint32(i*2654435761))
	}
	relay.left = func(uint64) { h.left.Store(int64(time.Since(h.began))) }
	last := time.Duration(0)
	relay.arrived = func(uint64) {
		now := time.Since(h.began)
		h.steps, last = append(h.steps, now-last), now
		h.took = append(h.took, now-time.Duration(h.left.Load()))
	}
	s, err := shard.New(shard.Config{Version: "bench", KernelSet: "bench"}, shard.Deps{
		Identity: id, Listener: l, Devices: []shard.Device{{Backend: relay}}, Log: slog.New(slog.DiscardHandler),
		Open: func(string) (*shard.Model, error) {
			return &shard.Model{
				Spec:  model.Spec{Layers: 2, Hidden: hopHidden, Vocab: hopVocab, Context: 1 << 20},
				Bytes: func(model.Part) uint64 { return 0 },
				Close: func() error { return nil },
			}, nil
		},
		Load: func(_ compute.Backend, _ model.Arch, _ model.Source, _ model.Spec, cfg engine.Config) (shard.Engine, error) {
			relay.cfg = cfg
			return relay, nil
		},
	})
	if err != nil {
		return "", err
	}
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	h.group = append(h.group, func() error { return <-done })
	return l.Addr().String(), nil
}

// drive has the shards load the plan and decode one session.
func (h *hops) drive(ctx context.Context, boss *pki.Identity, plan *pb.Plan) error {
	var clients []pb.ShardServiceClient
	for _, st := range plan.Pipelines[0].Stages {
		options := append(wire.DialOptions(), grpc.WithTransportCredentials(boss.ClientCredentials(st.Node, pki.Shard)))
		conn, err := grpc.NewClient("passthrough:///"+st.Address, options...)
		if err != nil {
			return err
		}
		h.group = append(h.group, conn.Close)
		client := pb.NewShardServiceClient(conn)
		if err := install(ctx, client, plan); err != nil {
			return fmt.Errorf("install on %s: %w", st.Node, err)
		}
		clients = append(clients, client)
	}
	results, err := clients[1].Results(ctx, &pb.ResultsRequest{Epoch: plan.Epoch, Pipeline: 1})
	if err != nil {
		return err
	}
	if _, err := results.Header(); err != nil {
		return err
	}
	drive, err := clients[0].Drive(ctx)
	if err != nil {
		return err
	}
	for _, m := range []*pb.DriveRequest{
		{Message: &pb.DriveRequest_Attach{Attach: &pb.DriveOpen{Epoch: plan.Epoch, Pipeline: 1}}},
		{Message: &pb.DriveRequest_Submit{Submit: &pb.Submit{
			Open: &pb.OpenSession{Attempt: 1, AnswerStart: 1, Sampling: &pb.Sampling{}}, Tokens: []int32{1}, Ahead: 32,
		}}},
	} {
		if err := drive.Send(m); err != nil {
			return err
		}
	}
	for at := int32(1); at < hopSteps; {
		r, err := results.Recv()
		if err != nil {
			return err
		}
		for _, s := range r.Result.Sampled {
			at = s.Position
		}
		if at%8 == 0 {
			if err := drive.Send(&pb.DriveRequest{Message: &pb.DriveRequest_Commit{Commit: &pb.Commit{Attempt: 1, Length: at + 1}}}); err != nil {
				return err
			}
		}
	}
	return nil
}

// install leases a shard, gives it the plan and waits until its stage is loaded.
func install(ctx context.Context, client pb.ShardServiceClient, plan *pb.Plan) error {
	control, err := client.Control(ctx)
	if err != nil {
		return err
	}
	for _, m := range []*pb.ControlRequest{
		{Message: &pb.ControlRequest_Lease{Lease: &pb.Lease{Coordinator: "bench", DurationMs: 600_000}}},
		{Message: &pb.ControlRequest_Plan{Plan: plan}},
	} {
		if err := control.Send(m); err != nil {
			return err
		}
	}
	for {
		m, err := control.Recv()
		switch {
		case err != nil:
			return err
		case m.GetStage().GetState() == pb.LoadState_LOAD_STATE_READY:
			return nil
		case m.GetRefused() != nil || m.GetStage().GetState() == pb.LoadState_LOAD_STATE_FAILED:
			return fmt.Errorf("the shard says %v", m)
		}
	}
}

// percentile returns the value below which a share of durations is, in µs.
func percentile(d []time.Duration, share float64) float64 {
	s := slices.Sorted(slices.Values(d))
	return float64(s[int(share*float64(len(s)-1))].Nanoseconds()) / 1e3
}
