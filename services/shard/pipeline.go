package shard

import (
	"fmt"
	"sync"
	"time"

	"github.com/shoal-llm/shoal/pkg/compute"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/shard/command"
	"github.com/shoal-llm/shoal/services/shard/driver"
)

// fuse ends everything that belongs to a pipeline, once, with a reason. Its
// methods may be called from any goroutine.
type fuse struct {
	once sync.Once
	done chan struct{}
	err  error // set before done is closed
	at   int   // the stage where the fault was seen
}

func newFuse() *fuse { return &fuse{done: make(chan struct{})} }

// blow ends the pipeline because of err, seen at a stage. The first call counts.
func (f *fuse) blow(stage int, err error) {
	f.once.Do(func() {
		f.err, f.at = err, stage
		close(f.done)
	})
}

// reason returns why the pipeline has ended; nil while it has not.
func (f *fuse) reason() error {
	if f.blown() {
		return f.err
	}
	return nil
}

func (f *fuse) blown() bool {
	select {
	case <-f.done:
		return true
	default:
		return false
	}
}

// pipeline is this node's part of a pipeline in one epoch. Its fields do not
// change; what a step changes lies in its stages.
type pipeline struct {
	epoch    uint64
	plan     *pb.Pipeline
	model    string
	vocab    int
	adapters []string // IDs of the adapters that its sessions may go through
	kv       compute.KVClass
	draft    *pb.Draft // nil: no model guesses
	fuse     *fuse
	stages   map[int]*stage // by place in the pipeline
	// results is there on the node of the last stage.
	results *results
	// machine is there on the node of the first stage, for the one Drive
	// stream that attaches to it.
	machine chan *driver.Machine
}

func (p *pipeline) key() command.Key { return command.Key{Epoch: p.epoch, ID: p.plan.Id} }

func (p *pipeline) last() int { return len(p.plan.Stages) - 1 }

// newPipeline makes this node's part; nil if there is none.
func (s *Shard) newPipeline(plan *pb.Plan, pl *pb.Pipeline) (*pipeline, error) {
	p := &pipeline{
		epoch: command.KeyOf(plan, pl).Epoch, plan: pl, model: plan.GetModel().GetName(),
		vocab: int(plan.GetModel().GetVocab()), kv: command.KVOf(plan.GetModel()),
		draft: plan.GetDraft(), fuse: newFuse(), stages: map[int]*stage{},
	}
	for _, a := range plan.GetModel().GetAdapters() {
		p.adapters = append(p.adapters, a.Id)
	}
	for i, st := range pl.Stages {
		if st.Node != s.deps.Identity.NodeID() {
			continue
		}
		if int(st.Device) >= len(s.devices) {
			return nil, fmt.Errorf("stage %d: device %d of %d", i, st.Device, len(s.devices))
		}
		p.stages[i] = newStage(p, i, s.devices[st.Device])
		if i == p.last() {
			p.results = newResults()
		}
		if i == 0 {
			if err := s.addMachine(p); err != nil {
				return nil, err
			}
		}
	}
	return p, nil
}

const (
	// stepTarget is how long a step with decode rows should take through all
	// stages: nobody's answer pauses for much longer because of another's prompt.
	stepTarget = 50 * time.Millisecond
	maxDrafts  = 8 // ids of a session that are guessed in one step
)

// addMachine makes the driver of a pipeline that begins here.
func (s *Shard) addMachine(p *pipeline) error {
	chunk := s.cfg.Chunk
	if chunk == 0 || chunk > int(p.plan.Rows) {
		chunk = int(p.plan.Rows)
	}
	cached := int(p.plan.Pages)
	if p.kv.Steps() {
		cached = 0
	}
	m, err := driver.New(driver.Config{
		Epoch: p.epoch, Pipeline: p.plan.Id, Slots: int(p.plan.Slots), Pages: int(p.plan.Pages),
		Context: int(p.plan.Context), KV: p.kv, Rows: int(p.plan.Rows), Chunk: chunk,
		Stages: len(p.plan.Stages), Lanes: int(p.plan.Lanes), InFlight: maxInFlight,
		Drafts: maxDrafts, Drafter: p.draft != nil, Cached: cached, Target: stepTarget, Adapters: p.adapters,
	})
	if err != nil {
		return err
	}
	p.machine = make(chan *driver.Machine, 1)
	p.machine <- m
	return nil
}
