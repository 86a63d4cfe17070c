package shard

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/internal/pki"
	"github.com/shoal-llm/shoal/pkg/compute/cpu"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// startReal starts a shard that computes the embedded model on the CPU.
func (b *bench) startReal(id, state string, change ...func(*Device)) *node {
	b.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.t.Fatal(err)
	}
	be, err := cpu.Open(cpu.Config{Threads: 1})
	if err != nil {
		b.t.Fatal(err)
	}
	device := Device{Backend: be, Bandwidth: func() (float64, error) { return 1e9, nil }}
	for _, f := range change {
		f(&device)
	}
	s, err := New(Config{Version: "test", KernelSet: "k1", State: state}, Deps{
		Identity: b.identity(id, pki.Shard), Listener: l, Log: slog.New(slog.DiscardHandler),
		Devices: []Device{device},
		Open: func(name string) (*Model, error) {
			m, err := library.Library{}.Open(name)
			if err != nil {
				return nil, err
			}
			return NewModel(m), nil
		},
	})
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := s.Run(ctx); err != nil {
			b.t.Errorf("shard %s: %v", id, err)
		}
	}()
	n := &node{id: id, addr: l.Addr().String(), shard: s, kill: func() { cancel(); <-ended }}
	b.t.Cleanup(func() {
		n.kill()
		be.Close()
	})
	return n
}

// tinyParts is a request to measure all of the embedded model.
func tinyParts(t testing.TB) *pb.MeasureRequest {
	t.Helper()
	m, err := library.Library{}.Open(library.Default)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	layers := uint32(m.Spec.Layers)
	return &pb.MeasureRequest{
		Model: &pb.Model{Name: m.Name, Digest: m.Digest[:], Layers: layers, Hidden: uint32(m.Spec.Hidden), Vocab: uint32(m.Spec.Vocab)},
		Parts: []*pb.MeasurePart{{Shape: "layer", First: 0, End: layers}, {Shape: "head", First: 0, End: layers, Head: true}},
	}
}

// TestMeasure: a shard measures what it is asked for once, tells it again after
// it was started anew, and forgets what it was measured with other kernels.
func TestMeasure(t *testing.T) {
	b := newBench(t, 0)
	state := filepath.Join(t.TempDir(), "state")
	req := tinyParts(t)
	first, twin := b.startReal("shard-a", state), b.startReal("shard-d", state)
	boss := b.identity("boss", pki.Coordinator)
	early := proto.CloneOf(req)
	early.Cached = true
	if known, err := b.dial(boss, twin).Measure(b.ctx, early); err != nil || len(known.GetDevices()[0].GetShapes()) != 0 {
		t.Errorf("a shard that has measured nothing says %v, %v", known, err)
	}
	got := measureAll(t, b, b.dial(boss, first), req)
	d := got.GetDevices()[0]
	if len(d.GetShapes()) != 2 || d.GetPassSeconds() <= 0 || d.GetBandwidth() != 1e9 {
		t.Fatalf("measured %v", got)
	}
	for _, s := range d.GetShapes() {
		if s.GetFixed() < 0 || s.GetRow() < 0 || s.GetKey() < 0 || s.GetFixed()+s.GetRow() <= 0 {
			t.Errorf("shape %v", s)
		}
	}
	first.kill()

	again := proto.CloneOf(req)
	again.Cached = true
	kept, err := b.dial(boss, b.startReal("shard-b", state)).Measure(b.ctx, again)
	if err != nil || !proto.Equal(kept, got) {
		t.Errorf("after a restart: %v, %v; measured %v", kept, err, got)
	}
	if shared, err := b.dial(boss, twin).Measure(b.ctx, req); err != nil || !proto.Equal(shared, got) {
		t.Errorf("a node of the same machine: %v, %v; measured %v", shared, err, got)
	}
	told := proto.CloneOf(again)
	told.TurnSeconds = 1e-4
	if taught, err := b.dial(boss, twin).Measure(b.ctx, told); err != nil || taught.GetDevices()[0].GetTurnSeconds() != 1e-4 {
		t.Errorf("after it was told what real steps take: %v, %v", taught, err)
	}
	fresh, err := b.dial(boss, b.startReal("shard-c", "")).Measure(b.ctx, again)
	if err != nil || len(fresh.GetDevices()[0].GetShapes()) != 0 {
		t.Errorf("a shard that has measured nothing says %v, %v", fresh, err)
	}
}

// measureAll asks until everything is measured: what there is no time for at once
// is measured when it is asked for again.
func measureAll(t *testing.T, b *bench, client pb.ShardServiceClient, req *pb.MeasureRequest) *pb.MeasureResponse {
	t.Helper()
	var got *pb.MeasureResponse
	for range 10 {
		var err error
		if got, err = client.Measure(b.ctx, req); err != nil {
			t.Fatal(err)
		}
		if d := got.GetDevices()[0]; len(d.GetShapes()) == len(req.GetParts()) && d.GetBandwidth() > 0 {
			return got
		}
	}
	t.Fatalf("after ten times: %v", got)
	return nil
}

// TestMeasureRefused: what cannot be measured is left out or refused, and the
// shard serves on.
func TestMeasureRefused(t *testing.T) {
	b := newBench(t, 0)
	n := b.startReal("shard-a", "")
	client := b.dial(b.identity("boss", pki.Coordinator), n)
	for name, change := range map[string]func(*pb.MeasureRequest){
		"layers that are not there": func(r *pb.MeasureRequest) { r.Parts[0].End = 1000; r.Parts = r.Parts[:1] },
		"another file":              func(r *pb.MeasureRequest) { r.Model.Digest = make([]byte, 32) },
		"a head in the middle":      func(r *pb.MeasureRequest) { r.Parts = r.Parts[1:]; r.Parts[0].End-- },
	} {
		req := tinyParts(t)
		change(req)
		if got, err := client.Measure(b.ctx, req); err != nil || len(got.GetDevices()[0].GetShapes()) != 0 {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	_, err := client.Measure(b.ctx, &pb.MeasureRequest{})
	wantCode(t, "no model", err, codes.InvalidArgument, "measure")
	measureAll(t, b, client, tinyParts(t))
}

// TestMeasureAmongSessions: steps of real sessions go on while a device is
// measured, with the answers that they have alone.
func TestMeasureAmongSessions(t *testing.T) {
	b := newBench(t, 1)
	n := b.nodes[0]
	boss := b.boss("boss")
	p := b.plan(256, n)
	boss.install(p, n)
	drive, results := boss.streams(p, n, n)
	ctx, cancel := context.WithCancel(b.ctx)
	client := b.dial(b.identity("boss", pki.Coordinator), n)
	measure := func(i int) error {
		part := &pb.MeasurePart{Shape: fmt.Sprint("shape ", i), First: 0, End: 1}
		got, err := client.Measure(ctx, &pb.MeasureRequest{Model: p.Model, Parts: []*pb.MeasurePart{part}})
		if n := len(got.GetDevices()); err == nil && (n != 1 || len(got.GetDevices()[0].GetShapes()) != 1) {
			return fmt.Errorf("measured %v", got)
		}
		return err
	}
	if err := measure(0); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for i := 1; ctx.Err() == nil; i++ {
			if err := measure(i); ctx.Err() == nil && err != nil {
				t.Errorf("among sessions: %v", err)
			}
		}
	}()
	generate(t, drive, results, newAnswers(6))
	cancel()
	<-ended
}

// TestSpeedsFileBroken: a file that cannot be read counts as none.
func TestSpeedsFileBroken(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, speedsFile), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	s, err := openSpeeds(dir, "k1")
	if err == nil || s == nil || len(s.known) != 0 {
		t.Errorf("%v, %v", s, err)
	}
}

// TestMeasureLinks: links are measured in the direction that is asked for, to
// all peers that answer as who they should be.
func TestMeasureLinks(t *testing.T) {
	b := newBench(t, 2)
	client := b.dial(b.identity("boss", pki.Coordinator), b.nodes[0])
	a, c := b.nodes[0], b.nodes[1]
	got, err := client.MeasureLinks(b.ctx, &pb.MeasureLinksRequest{Peers: []*pb.Peer{
		{Node: c.id, Address: c.addr}, {Node: "stranger", Address: c.addr}, {Node: a.id, Address: a.addr},
	}})
	if err != nil || len(got.GetLinks()) != 2 {
		t.Fatalf("%v, %v", got, err)
	}
	for i, to := range []string{c.id, a.id} {
		l := got.GetLinks()[i]
		if l.GetFrom() != a.id || l.GetTo() != to || l.GetDelaySeconds() <= 0 || l.GetRate() <= 0 {
			t.Errorf("link %v, want %s to %s", l, a.id, to)
		}
	}
}
