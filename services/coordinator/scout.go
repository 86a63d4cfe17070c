package coordinator

import (
	"slices"

	"github.com/shoal-llm/shoal/internal/wire"
	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/frame"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/coordinator/generation"
)

// A planned move hardly pauses an answer. Its text so far is computed on the pipeline
// that it moves to by a scout, a session of one id, while the answer goes on where it
// is. The scout leaves its pages in the prefix cache there; when it has ended, the
// answer moves, finds them, and computes what has come since.

// scoutLeast is the shortest text that is computed ahead, in ids: of less there is
// hardly a page.
const scoutLeast = 2 * compute.PageTokens

// scout computes the text of a session where it will move to.
type scout struct {
	session *session
	to      *pipeline
	place   frame.Slot
	attempt uint32
}

// worthScout reports whether a session's text should be computed ahead of its move.
// Pictures are not: their rows lie with the node that has seen them.
func (o *owner) worthScout(s *session) bool {
	if s.scouted || s.machine == nil || s.request.GetPooling() != 0 || len(s.ready.pictures) > 0 || o.c.deps.Model.KV.Steps() {
		return false
	}
	return len(s.ready.prompt)+s.machine.Committed() >= scoutLeast
}

// scoutTo sends a scout to a pipeline that has room for the session.
func (o *owner) scoutTo(s *session, p *pipeline) {
	ids := slices.Concat(s.ready.prompt, s.machine.IDs())
	o.attempts++
	sc := &scout{session: s, to: p, attempt: o.attempts}
	sc.place = p.take(sc.attempt, s.ready.pages(), len(ids))
	s.scout, o.scouts[sc.attempt] = sc, sc
	open := s.opening(sc.place, sc.attempt)
	open.Grammar, open.AnswerStart = nil, int32(len(ids))
	open.Sampling.MaxTokens, open.Sampling.LogProbs, open.Sampling.TopLogProbs = 1, false, 0
	o.drive(p, &pb.DriveRequest{Message: &pb.DriveRequest_Submit{Submit: &pb.Submit{
		Open: wire.OpenToProto(open), Tokens: ids, Ahead: generation.Ahead, Scheduling: s.request.GetScheduling(),
	}}})
}

// scoutDone takes a scout off its pipeline; its session may move there.
func (o *owner) scoutDone(attempt uint32) {
	if sc := o.scouts[attempt]; sc != nil {
		delete(o.scouts, attempt)
		if sc.session.scout == sc {
			sc.session.scout, sc.session.scouted = nil, true
		}
	}
}

// recall ends the scout of a session that does not move any more, if it has one.
func (o *owner) recall(s *session) {
	sc := s.scout
	if s.scouted = false; sc == nil {
		return
	}
	s.scout = nil
	delete(o.scouts, sc.attempt)
	if o.pipes[sc.to.plan.Key] == sc.to {
		o.drive(sc.to, &pb.DriveRequest{Message: &pb.DriveRequest_Halt{Halt: &pb.Halt{Slot: uint32(sc.place), Attempt: sc.attempt}}})
	}
}

// loseScouts forgets those on a pipeline that is gone.
func (o *owner) loseScouts(p *pipeline) {
	for attempt, sc := range o.scouts {
		if sc.to == p {
			delete(o.scouts, attempt)
			sc.session.scout = nil
		}
	}
}
