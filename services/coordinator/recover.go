package coordinator

import (
	"cmp"
	"slices"
	"time"

	"github.com/shoal-llm/shoal/internal/telemetry"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/coordinator/generation"
	"github.com/shoal-llm/shoal/services/coordinator/plan"
)

// An answer outlives its pipeline. When the pipeline is lost its sessions go
// back to the front of the waiting line, and go on elsewhere from their prompt
// and committed ids: the same seed and positions, the next sequence number. When
// a pipeline retires they move as soon as there is room for them.

// maxDeaths is how many workers may die of a request before it is the request
// that ends.
const maxDeaths = 2

// Phases of progress that an interrupted answer goes through.
const (
	phaseRecovering = "recovering" // another pipeline is prepared
	phaseWaiting    = "waiting"    // for shards
)

const noteOtherClass = "the answer continues on another numerics class: later tokens may differ from an undisturbed run"

// recovery is what happened to a session beside its answer.
type recovery struct {
	since       time.Time      // it waits to go on; zero is not
	times       int            // that it had to begin elsewhere
	told        string         // the phase that the client knows of
	fingerprint string         // of what computed it last
	doubted     *plan.Pipeline // it was lost, and may be by this session's fault
	deaths      []string       // nodes that died so, one after the other
}

func (r *recovery) waiting() bool { return !r.since.IsZero() }

// suspect reports whether a node may have died of the session, which has given
// no id since.
func (r *recovery) suspect() bool { return len(r.deaths) > 0 }

// drop ends a pipeline: its sessions go on elsewhere.
func (o *owner) drop(d plan.Drop) {
	p := o.pipes[d.Pipeline]
	if p == nil { // it was not ready
		o.log.Warn("pipeline lost", "pipeline", d.Pipeline.String(), "reason", d.Reason)
		return
	}
	delete(o.pipes, d.Pipeline)
	p.stop()
	o.loseScouts(p)
	sessions := o.on(p)
	if p.retiring.IsZero() {
		o.log.Warn("pipeline lost", "pipeline", d.Pipeline.String(), "reason", d.Reason, "sessions", len(sessions))
		o.note(notePipelineLost, d.Died, d.Reason)
	} else {
		o.log.Info("pipeline retired", "pipeline", d.Pipeline.String(), "reason", d.Reason, "sessions", len(sessions))
		o.note(noteRetired, "", d.Reason)
	}
	for _, s := range sessions {
		if !d.Meant && (len(sessions) == 1 || !s.sampled) {
			s.recovery.doubted = p.plan
		}
		o.requeue(s)
	}
	if d.Died != "" {
		o.blame(d.Died)
	}
	o.admit()
}

// on returns the sessions on a pipeline, in the order in which they began.
func (o *owner) on(p *pipeline) []*session {
	var out []*session
	for _, s := range o.running {
		if s.pipe == p {
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(a, b *session) int {
		return cmp.Or(a.began.Compare(b.began), cmp.Compare(a.attempt, b.attempt))
	})
	return out
}

// blame counts the death of a node against the sessions that may have caused it:
// those that were alone on a pipeline, or whose prompt was being computed. An id
// that is sampled afterwards clears a session. One that nodes die of ends: no
// other shall.
func (o *owner) blame(died string) {
	for _, s := range slices.Concat(o.waiting.queue, o.placed()) {
		r := &s.recovery
		if r.doubted == nil || r.doubted.OfNode(died) < 0 {
			continue
		}
		r.doubted = nil
		if r.deaths = append(r.deaths, died); len(r.deaths) >= maxDeaths {
			o.log.Error("request given up", "generation", s.id, "shards lost", r.deaths)
			o.fail(s, &problem{Code: codePoison, Message: "The request was given up: shards were lost each time they computed it."})
		}
	}
}

// pardon clears the sessions of pipelines that were lost before it was heard that a
// node of theirs was stopped.
func (o *owner) pardon(stopped string) {
	for _, s := range slices.Concat(o.waiting.queue, o.placed()) {
		if r := &s.recovery; r.doubted != nil && r.doubted.OfNode(stopped) >= 0 {
			r.doubted = nil
		}
	}
}

// requeue puts an interrupted session in front of the waiting line.
func (o *owner) requeue(s *session) {
	o.abandon(s)
	s.pipe = nil
	o.act(s, s.machine.Step(generation.Lost{}))
	if s.machine.Finishing() { // it waits for its reader alone
		return
	}
	delete(o.running, s.attempt)
	s.attempt = 0
	s.recovery.since = o.now()
	o.waiting.insert(s)
	o.tell(s, phaseRecovering)
	o.phase(s, telemetry.SpanQueue, o.c.deps.Telemetry.RequestWaiting)
}

// insert puts an interrupted session before those that have not begun.
func (w *waiting) insert(s *session) {
	at := slices.IndexFunc(w.queue, func(o *session) bool { return !o.recovery.waiting() || o.began.After(s.began) })
	if at < 0 {
		at = len(w.queue)
	}
	w.queue = slices.Insert(w.queue, at, s)
	w.tokens += len(s.ready.prompt)
}

// goOn continues an answer on another pipeline.
func (o *owner) goOn(s *session, p *pipeline) {
	s.recovery.since, s.recovery.told = time.Time{}, ""
	s.recovery.times++
	o.take(s, p)
	o.look(s)
	o.phase(s, telemetry.SpanPrefill, o.c.deps.Telemetry.RequestStarted)
	if p.fingerprint == s.recovery.fingerprint {
		return
	}
	s.recovery.fingerprint = p.fingerprint
	o.send(s, &pb.Event{Event: &pb.Event_Progress{Progress: &pb.Progress{
		Phase: phaseRecovering, Fingerprint: p.fingerprint, Notes: []string{noteOtherClass},
	}}})
}

// tell says once in which phase an interrupted answer is.
func (o *owner) tell(s *session, phase string) {
	if s.recovery.told != phase {
		s.recovery.told = phase
		o.progress(s, phase, 0, 0)
	}
}

// tellWaiting says it to all of them.
func (o *owner) tellWaiting(phase string) {
	for _, s := range o.waiting.queue {
		if s.recovery.waiting() {
			o.tell(s, phase)
		}
	}
}

// expireRecovery ends an interrupted answer for which there was no shard, or no
// room, for too long.
func (o *owner) expireRecovery(s *session, now time.Time) {
	patience := o.c.cfg.MaxRecovery
	if len(o.serving()) > 0 {
		patience = max(patience, o.c.cfg.MaxWait)
	}
	if now.Sub(s.recovery.since) > patience {
		_, why := o.reason()
		if why == "" {
			why = "all places are taken"
		}
		o.fail(s, later(codeShardLost, "The answer was interrupted and could not go on within %v: %s.", patience, why))
	}
}

// retire has the sessions of a pipeline move to others.
func (o *owner) retire(key plan.Key, reason string) {
	p := o.pipes[key]
	if p == nil {
		o.step(plan.Emptied{Pipeline: key})
		return
	}
	p.retiring = o.now()
	o.log.Info("pipeline retires", "pipeline", key.String(), "reason", reason, "sessions", p.running())
	o.admit()
	o.emptied(p)
}

// leave moves sessions from retiring pipelines to others that have room, long ones
// once their text is computed there.
func (o *owner) leave() {
	for _, p := range o.sortedPipes() {
		if p.retiring.IsZero() {
			continue
		}
		for _, s := range o.on(p) {
			if s.scout != nil {
				continue
			}
			to := o.choose(s)
			if to == nil {
				break
			}
			if o.worthScout(s) {
				o.scoutTo(s, to)
				continue
			}
			o.halt(s)
			o.act(s, s.machine.Step(generation.Lost{}))
			if s.machine.Finishing() {
				s.pipe = nil
				continue
			}
			delete(o.running, s.attempt)
			o.place(s, to)
		}
		o.emptied(p)
	}
}

// emptied tells the plan when the last session has left a retiring pipeline.
func (o *owner) emptied(p *pipeline) {
	if p != nil && !p.retiring.IsZero() && len(o.on(p)) == 0 {
		o.step(plan.Emptied{Pipeline: p.plan.Key})
	}
}

// retireBy sends away the sessions that have found no room for too long: they
// wait in the line. One whose text is being computed elsewhere has found some.
func (o *owner) retireBy(now time.Time) {
	for _, p := range o.sortedPipes() {
		if p.retiring.IsZero() || now.Sub(p.retiring) < retireFor {
			continue
		}
		for _, s := range o.on(p) {
			if s.scout == nil {
				o.halt(s)
				o.requeue(s)
			}
		}
		o.emptied(p)
	}
}
