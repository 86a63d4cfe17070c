package shard

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc"

	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/internal/pki"
	"github.com/shoal-llm/shoal/internal/store"
	gather "github.com/shoal-llm/shoal/internal/weights"
	"github.com/shoal-llm/shoal/internal/wire"
	"github.com/shoal-llm/shoal/pkg/model"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/shard/command"
)

// fullEvery is how often it is looked whether there is room again on a full disk.
const fullEvery = 2 * time.Second

// phaseFetch is what a stage's state says while its weights come.
const phaseFetch = "fetch"

// storedModel is a model whose files are not this node's own: what is needed of them
// is brought into the store.
type storedModel struct {
	m    *store.Model
	file *library.Model
}

// measured is a source to measure a device with: nothing is fetched for it.
func (m *Model) measured() model.Source {
	if m.StandIns != nil {
		return m.StandIns
	}
	return m.Source
}

// closeOn closes the model if there is an error, which it returns.
func (m *Model) closeOn(err error) error {
	if err == nil {
		return nil
	}
	return errors.Join(err, m.Close())
}

// openStored opens a model that the plan describes by its manifest. Metadata and
// vocabulary are brought first, if they are not there.
func (s *Shard) openStored(ctx context.Context, want *pb.Model, holders []*pb.Holder) (*Model, error) {
	k := s.deps.Weights
	m, err := k.Know(want.Manifest)
	if err != nil {
		return nil, err
	}
	heads := s.order(holders, func(int) string { return firstHolder(holders) })
	heads.Segments = gather.Heads(m)
	if err := k.Gather(ctx, m, heads, gather.DefaultPatience()); err != nil {
		return nil, err
	}
	file, err := k.Open(ctx, m, func(ctx context.Context, segments []int) error {
		s.deps.Log.Warn("a segment in the store was missing or had changed, and is fetched again", "model", want.Name, "segments", segments)
		o := s.order(holders, nil)
		o.Segments = segments
		return k.Gather(ctx, m, o, gather.DefaultPatience())
	})
	if err != nil {
		return nil, err
	}
	out := NewModel(file)
	out.stored, out.StandIns = &storedModel{m, file}, file.StandIns()
	return out, nil
}

func firstHolder(holders []*pb.Holder) string {
	if len(holders) == 0 {
		return ""
	}
	return holders[0].GetNode()
}

// order asks the holders but this node, each segment in the turn of a node.
func (s *Shard) order(holders []*pb.Holder, turn func(int) string) gather.Order {
	self := s.deps.Identity.NodeID()
	o := gather.Order{}
	for _, h := range holders {
		if h.GetNode() == "" || h.GetNode() == self {
			continue
		}
		o.Peers = append(o.Peers, gather.Peer{Node: h.GetNode(), Dial: func() (*grpc.ClientConn, error) {
			creds := s.deps.Identity.ClientCredentials(h.GetNode(), pki.Shard, pki.Coordinator)
			return grpc.NewClient("passthrough:///"+h.GetAddress(), append(wire.DialOptions(), grpc.WithTransportCredentials(creds))...)
		}})
	}
	if turn != nil {
		o.Turn = func(i int) string {
			if node := turn(i); node != self {
				return node
			}
			return ""
		}
	}
	return o
}

// turns says which node takes a segment from the origin: the first, in the order of
// the plan, that needs it. All nodes come to the same answer.
func (sm *storedModel) turns(plan *pb.Plan) func(segment int) string {
	first := map[int]string{}
	claim := func(st *pb.Stage) {
		for _, i := range sm.needs(command.PartOf(st)) {
			if _, ok := first[i]; !ok {
				first[i] = st.Node
			}
		}
	}
	for _, p := range plan.Pipelines {
		for _, st := range p.Stages {
			claim(st)
		}
	}
	for _, st := range plan.Spares {
		claim(st)
	}
	return func(i int) string { return first[i] }
}

// needs are the segments of a part.
func (sm *storedModel) needs(p model.Part) []int { return gather.Covering(sm.m, sm.file.Needs(p)) }

// fetchStages brings what the stages need of a model that is not this node's own, and
// tells how far it is. It ends when none of the stages is wanted any more.
func (s *Shard) fetchStages(ctx context.Context, m *Model, plan *pb.Plan, stages []*stage) error {
	if m.stored == nil || len(stages) == 0 {
		return nil
	}
	var segments []int
	for _, st := range stages {
		segments = append(segments, m.stored.needs(command.PartOf(st.pipe.plan.Stages[st.index]))...)
	}
	ctx, end := whileWanted(ctx, stages)
	defer end()
	return s.fetch(ctx, m, s.order(plan.Holders, m.stored.turns(plan)), segments, s.fetching(stages))
}

// fetching tells how far a fetch for stages is.
func (s *Shard) fetching(stages []*stage) func(gather.Progress) {
	return func(p gather.Progress) {
		for _, st := range stages {
			state := st.state(pb.LoadState_LOAD_STATE_LOADING)
			state.Phase, state.DoneBytes, state.TotalBytes = phaseFetch, uint64(p.Done), uint64(p.Total)
			state.Rate, state.Note = p.Rate, p.Note
			s.control.report(state)
		}
	}
}

// fetchReserve brings the weights of a reserve, unless there is a newer plan.
func (s *Shard) fetchReserve(ctx context.Context, m *Model, plan *pb.Plan, r *reserve) error {
	if m.stored == nil {
		return nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	return s.fetch(ctx, m, s.order(plan.Holders, m.stored.turns(plan)), m.stored.needs(r.part), func(gather.Progress) {
		if err := s.newerPlan(); err != nil {
			cancel(err)
		}
	})
}

// fetch brings segments from those whom an order names. On a full disk it waits for room, as long as the job has
// time; what came before stays.
func (s *Shard) fetch(ctx context.Context, m *Model, o gather.Order, segments []int, report func(gather.Progress)) error {
	sm := m.stored
	slices.Sort(segments)
	o.Segments, o.Report = slices.Compact(segments), report
	patience := gather.DefaultPatience()
	_, missing := sm.m.Missing(o.Segments)
	deadline := time.Now().Add(patience.Deadline(missing))
	for {
		err := s.deps.Weights.Gather(ctx, sm.m, o, patience)
		var full *store.FullError
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !errors.As(err, &full) || time.Now().After(deadline):
			return fmt.Errorf("fetch weights: %w", err)
		}
		s.deps.Log.Warn("waiting for room on the disk", "err", full)
		report(gather.Progress{Phase: phaseFetch, Total: missing, Note: full.Error()})
		select {
		case <-time.After(fullEvery):
		case <-ctx.Done():
		}
	}
}
