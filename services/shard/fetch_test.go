package shard

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/internal/pki"
	gather "github.com/shoal-llm/shoal/internal/weights"
	"github.com/shoal-llm/shoal/internal/weights/weightstest"
	"github.com/shoal-llm/shoal/models/tiny"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/shard/command"
)

// fetching is a shard that has no model, with a store of its own, and the model of an
// origin as a plan describes it.
func fetching(t *testing.T, quota int64) (*Shard, *pb.Model, *weightstest.Origin) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "fetched.gguf"), tiny.Files()[0].Data, 0o600); err != nil {
		t.Fatal(err)
	}
	o, err := weightstest.Start(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Close() })
	settings := gather.Settings{Dir: t.TempDir(), Private: []string{"127.0.0.0/8"}}
	learner, err := settings.Keeper(nil)
	if err != nil {
		t.Fatal(err)
	}
	src, err := gather.ParseSource(o.URL + "/fetched.gguf")
	if err != nil {
		t.Fatal(err)
	}
	m, err := learner.Learn(t.Context(), src, nil)
	if err != nil {
		t.Fatal(err)
	}
	l, err := learner.Open(t.Context(), m, nil)
	if err != nil {
		t.Fatal(err)
	}
	plan := &pb.Model{
		Name: "fetched", Digest: l.Digest[:], Layers: uint32(l.Spec.Layers), Hidden: uint32(l.Spec.Hidden), Vocab: uint32(l.Spec.Vocab), Manifest: m.Encoded,
	}
	if err := errors.Join(l.Close(), learner.Close()); err != nil {
		t.Fatal(err)
	}
	settings.Dir, settings.Quota = t.TempDir(), quota
	k, err := settings.Keeper(nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.Close() })
	id, err := pki.New(pki.NewSecret(), pki.Node{ID: "s0", Roles: []pki.Role{pki.Shard}})
	if err != nil {
		t.Fatal(err)
	}
	o.Sent()
	return &Shard{deps: Deps{
		Identity: id, Weights: k, Log: slog.New(slog.DiscardHandler),
		Open: func(name string) (*Model, error) { return nil, library.ErrNotFound },
	}, control: newControl(), plans: make(chan struct{}, 1)}, plan, o
}

// TestStageFetchesItsOwn: a shard without the file opens the model by its heads, and
// brings the segments of its stage alone.
func TestStageFetchesItsOwn(t *testing.T) {
	s, want, o := fetching(t, 0)
	m, err := s.openModel(t.Context(), want, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	heads := o.Sent()
	whole := &pb.Stage{Node: "s0", First: 1, End: 3}
	plan := &pb.Plan{Model: want, Pipelines: []*pb.Pipeline{{Stages: []*pb.Stage{whole}}}}
	var last gather.Progress
	if err := s.fetch(t.Context(), m, s.order(nil, m.stored.turns(plan)), m.stored.needs(command.PartOf(whole)), func(p gather.Progress) { last = p }); err != nil {
		t.Fatal(err)
	}
	if need := int64(m.Bytes(command.PartOf(whole))); o.Sent() > need+8192 || last.Done != last.Total || heads > 2<<20 {
		t.Errorf("%+v for a stage of %d bytes, heads of %d", last, need, heads)
	}
	for _, name := range m.Arch.Tensors(m.Spec, command.PartOf(whole)) {
		if tensor, ok := m.Source.Tensor(name); !ok || len(tensor.Data) == 0 {
			t.Errorf("%s is not there: %v", name, m.Err())
		}
	}
	if o.Sent() != 0 {
		t.Error("a loaded stage was fetched again")
	}
	// A model with another header is refused, manifest or not.
	other := &pb.Model{Name: want.Name, Digest: make([]byte, 32), Layers: want.Layers, Hidden: want.Hidden, Vocab: want.Vocab, Manifest: want.Manifest}
	if _, err := s.openModel(t.Context(), other, nil); err == nil || !strings.Contains(err.Error(), "digest") {
		t.Errorf("another model: %v", err)
	}
}

// TestFullDiskIsWaitedFor: a stage whose weights do not fit waits for room and says
// how many bytes it needs, until it is not wanted any more.
func TestFullDiskIsWaitedFor(t *testing.T) {
	s, want, _ := fetching(t, 3<<20)
	m, err := s.openModel(t.Context(), want, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	ctx, cancel := context.WithCancelCause(t.Context())
	unwanted := errors.New("there is another plan")
	note := ""
	plan := &pb.Plan{Model: want}
	err = s.fetch(ctx, m, s.order(nil, m.stored.turns(plan)), m.stored.m.All(), func(p gather.Progress) {
		if p.Note != "" {
			note = p.Note
			cancel(unwanted)
		}
	})
	if !errors.Is(err, unwanted) || !strings.Contains(note, "bytes are needed") {
		t.Errorf("%v; it said %q", err, note)
	}
}

// TestTurnsFollowThePlan: all nodes come to the same answer: of several stages that
// need a segment the first takes it from the origin.
func TestTurnsFollowThePlan(t *testing.T) {
	s, want, _ := fetching(t, 0)
	m, err := s.openModel(t.Context(), want, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	n := want.Layers
	plan := &pb.Plan{
		Pipelines: []*pb.Pipeline{
			{Stages: []*pb.Stage{{Node: "a", End: 2, Embed: true}, {Node: "b", First: 2, End: n, Head: true}}},
			{Stages: []*pb.Stage{{Node: "c", End: n, Embed: true, Head: true}}},
		},
		Spares: []*pb.Stage{{Node: "d", First: 1, End: 2}},
	}
	turn := m.stored.turns(plan)
	for stage, st := range plan.Pipelines[0].Stages {
		for _, i := range m.stored.needs(command.PartOf(st)) {
			if who := turn(i); who != "a" && (who != "b" || stage == 0) {
				t.Fatalf("segment %d of stage %d is the turn of %q", i, stage, who)
			}
		}
	}
	own := 0
	for _, i := range m.stored.needs(command.PartOf(plan.Pipelines[0].Stages[1])) {
		if turn(i) == "b" {
			own++
		}
	}
	if own == 0 {
		t.Error("the second stage has no turn")
	}
}

// TestDeadlines: a job has time by its size.
func TestDeadlines(t *testing.T) {
	p := gather.Patience{Rate: 1 << 20}
	if small, large := p.Deadline(0), p.Deadline(600<<20); small < time.Minute || large-small != 600*time.Second {
		t.Errorf("%v and %v", small, large)
	}
}

// TestVerificationFetchesAgain: what a stage needs of the store is read back before it
// is loaded; a segment that has changed there comes anew, and others are left alone.
func TestVerificationFetchesAgain(t *testing.T) {
	s, want, o := fetching(t, 0)
	k, err := gather.Settings{Dir: inStore(t, s.deps.Weights), Private: []string{"127.0.0.0/8"}, Verify: gather.VerifyRequire}.Keeper(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	s.deps.Weights = k
	m, err := s.openModel(t.Context(), want, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	part := &pb.Stage{Node: "s0", First: 1, End: 3}
	plan := &pb.Plan{Model: want, Pipelines: []*pb.Pipeline{{Stages: []*pb.Stage{part}}}}
	segments := m.stored.needs(command.PartOf(part))
	if err := s.fetch(t.Context(), m, s.order(nil, nil), segments, func(gather.Progress) {}); err != nil {
		t.Fatal(err)
	}
	bad := segments[len(segments)/2]
	h, _ := m.stored.m.Known(bad)
	name := filepath.Join(inStore(t, k), "segments", h.String()[:2], h.String())
	if err := os.WriteFile(name, make([]byte, m.stored.m.Segments()[bad].Size), 0o600); err != nil {
		t.Fatal(err)
	}
	o.Sent()
	p, err := s.passOf(m, plan, plan.Pipelines[0].Stages)
	if err != nil {
		t.Fatal(err)
	}
	if state, err := p.Standing(); state != gather.Unverified || err != nil {
		t.Errorf("before the pass: %s, %v", state, err)
	}
	if err := p.Run(t.Context(), gather.Pace{}, nil); err != nil {
		t.Fatal(err)
	}
	if state, err := p.Standing(); state != gather.Verified || err != nil {
		t.Errorf("after the pass: %s, %v", state, err)
	}
	if sent, size := o.Sent(), int64(m.stored.m.Segments()[bad].Size); sent < size || sent > size+8192 {
		t.Errorf("%d bytes came for a segment of %d", sent, size)
	}
}

// inStore returns the folder of a keeper's store.
func inStore(t *testing.T, k *gather.Keeper) string {
	t.Helper()
	s, err := k.Store()
	if err != nil {
		t.Fatal(err)
	}
	return s.Dir()
}
