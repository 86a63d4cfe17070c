package shard

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/shoal-llm/shoal/internal/pki"
	"github.com/shoal-llm/shoal/internal/telemetry"
	"github.com/shoal-llm/shoal/internal/wire"
	"github.com/shoal-llm/shoal/pkg/frame"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/shard/driver"
)

const (
	maxRequests = 256  // from the coordinator, waiting for the driver
	maxReplies  = 4096 // waiting for the coordinator
)

// Why a session ended that the driver did not take: for what it is, or because the
// rows of a picture of it are gone.
const (
	reasonRefused driver.Reason = "refused"
	reasonUnseen  driver.Reason = "unseen"
)

// drive hosts the driver of a pipeline for its one Drive stream. The machine
// belongs to the goroutine of run.
type drive struct {
	shard    *Shard
	pipe     *pipeline
	machine  *driver.Machine
	requests chan *pb.DriveRequest
	replies  chan *pb.DriveResponse
	results  <-chan *frame.Result

	drafter *drafter       // nil: no model guesses
	wishes  chan draftWish // to it; never full
	drafted chan drafted   // from it

	spans map[uint64]telemetry.StepSpan // of steps in flight
	trace map[frame.Slot]string         // traceparents of sessions
	taken map[frame.Slot]taken          // pictures of sessions
	told  driver.Stats                  // to telemetry

	running, waiting int // sessions that telemetry counts
}

// Drive carries sessions to the driver. The stream's end, on either side, is the
// end of the pipeline in this epoch.
func (s *server) Drive(stream pb.ShardService_DriveServer) error {
	p, machine, err := s.attach(stream)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(stream.Context())
	d := &drive{
		shard: s.Shard, pipe: p, machine: machine,
		requests: make(chan *pb.DriveRequest, maxRequests),
		replies:  make(chan *pb.DriveResponse, maxReplies),
		spans:    map[uint64]telemetry.StepSpan{}, trace: map[frame.Slot]string{}, taken: map[frame.Slot]taken{},
	}
	var running sync.WaitGroup
	if st := p.stages[0]; st.out != nil {
		running.Go(func() {
			if err := s.hop(ctx, st); ctx.Err() == nil {
				p.fuse.blow(1, fmt.Errorf("node %s lost: %w", p.plan.Stages[1].Node, err))
			}
		})
	}
	if d.drafter = p.stages[0].drafter; d.drafter != nil {
		places := len(d.drafter.places)
		d.wishes, d.drafted = make(chan draftWish, places), make(chan drafted, places)
		running.Go(func() { d.drafter.run(ctx, d.wishes, d.drafted) })
	}
	running.Go(func() { d.run(ctx) })
	go d.receive(stream) // ends with the stream
	err = d.reply(stream)
	cancel()
	running.Wait()
	return err
}

// attach takes the first message and the machine of the pipeline it names.
func (s *server) attach(stream pb.ShardService_DriveServer) (*pipeline, *driver.Machine, error) {
	m, err := stream.Recv()
	if err != nil {
		return nil, nil, err
	}
	open := m.GetAttach()
	if open == nil {
		return nil, nil, status.Error(codes.FailedPrecondition, "the first message of a Drive stream names the pipeline")
	}
	p, err := s.control.find(open.Epoch, open.Pipeline)
	if err != nil {
		return nil, nil, err
	}
	if peer, err := pki.PeerFromContext(stream.Context()); err != nil || !s.control.holds(peer.NodeID) {
		return nil, nil, status.Error(codes.PermissionDenied, "only the coordinator that holds the lease may drive")
	}
	if p.machine == nil {
		return nil, nil, status.Errorf(codes.FailedPrecondition, "the first stage of pipeline %d is on node %s", open.Pipeline, p.plan.Stages[0].Node)
	}
	if !p.stages[0].ready.Load() {
		return nil, nil, status.Errorf(codes.FailedPrecondition, "pipeline %d is not loaded", open.Pipeline)
	}
	select {
	case machine := <-p.machine:
		return p, machine, nil
	default:
		return nil, nil, status.Errorf(codes.FailedPrecondition, "pipeline %d has had its driver; a new plan makes a new one", open.Pipeline)
	}
}

// receive gives the driver what the coordinator says.
func (d *drive) receive(stream pb.ShardService_DriveServer) {
	for {
		m, err := stream.Recv()
		if err != nil {
			d.pipe.fuse.blow(0, fmt.Errorf("the coordinator detached: %w", streamError(err)))
			return
		}
		select {
		case d.requests <- m:
		case <-d.pipe.fuse.done:
			return
		}
	}
}

// reply tells the coordinator what the driver says, and last why the pipeline
// ended.
func (d *drive) reply(stream pb.ShardService_DriveServer) error {
	fuse := d.pipe.fuse
	for {
		select {
		case m := <-d.replies:
			if err := stream.Send(m); err != nil {
				fuse.blow(0, fmt.Errorf("the coordinator detached: %w", streamError(err)))
			}
		case <-fuse.done:
			fault := &pb.Faulted{Reason: fuse.err.Error(), Stage: uint32(max(fuse.at, 0))}
			_ = stream.Send(&pb.DriveResponse{Message: &pb.DriveResponse_Faulted{Faulted: fault}}) // the status says it too
			return ended(d.pipe)
		}
	}
}

// run hosts the machine until the pipeline or ctx ends.
func (d *drive) run(ctx context.Context) {
	defer d.endSpans()
	defer func() { d.shard.deps.Telemetry.AddSessions(-d.running, -d.waiting) }()
	defer func() {
		for slot, t := range d.taken {
			d.looked(slot, t.attempt)
		}
	}()
	if err := d.subscribe(ctx); err != nil {
		d.pipe.fuse.blow(d.pipe.last(), err)
		return
	}
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		if ms, ok := d.machine.Deadline(); ok {
			timer.Reset(time.Until(time.UnixMilli(ms)) + time.Millisecond)
		}
		var err error
		select {
		case m := <-d.requests:
			err = d.request(ctx, m)
		case r := <-d.results:
			d.endSpan(r)
			err = d.step(ctx, driver.Returned{Result: r})
		case g := <-d.drafted:
			err = d.guessed(ctx, g)
		case <-timer.C:
			err = d.step(ctx, driver.Tick{})
		case <-d.pipe.fuse.done:
			return
		case <-ctx.Done():
			return
		}
		if err != nil {
			d.pipe.fuse.blow(d.pipe.last(), err)
			return
		}
	}
}

// request turns a message into an event.
func (d *drive) request(ctx context.Context, m *pb.DriveRequest) error {
	switch m := m.GetMessage().(type) {
	case *pb.DriveRequest_Submit:
		return d.submit(ctx, m.Submit)
	case *pb.DriveRequest_Commit:
		c := m.Commit
		return d.step(ctx, driver.Commit{Slot: frame.Slot(c.Slot), Attempt: c.Attempt, Length: int(c.Length)})
	case *pb.DriveRequest_Halt:
		return d.step(ctx, driver.Halt{Slot: frame.Slot(m.Halt.Slot), Attempt: m.Halt.Attempt})
	}
	return errors.New("the coordinator sent an unknown message to the driver")
}

// submit gives a session to the machine; one that cannot be taken is closed with
// the reason, and the others go on.
func (d *drive) submit(ctx context.Context, m *pb.Submit) error {
	open, err := wire.OpenFromProto(m.GetOpen())
	if err == nil {
		err = checkVocab(m.Tokens, d.pipe.vocab)
	}
	if err == nil {
		err = d.look(open)
	}
	if err == nil {
		d.trace[open.Slot] = open.Traceparent
		err = d.step(ctx, driver.Submit{Open: open, Tokens: m.Tokens, Ahead: int(m.Ahead), Schedule: scheduleOf(m.GetScheduling())})
	}
	if err == nil || errors.Is(err, driver.ErrFault) {
		return err
	}
	why := reasonRefused
	if errors.Is(err, errUnseen) {
		why = reasonUnseen
	}
	d.looked(frame.Slot(m.GetOpen().GetSlot()), m.GetOpen().GetAttempt())
	return d.tell(&pb.DriveResponse{Message: &pb.DriveResponse_Closed{Closed: &pb.Closed{
		Slot: m.GetOpen().GetSlot(), Attempt: m.GetOpen().GetAttempt(),
		Reason: string(why), Detail: err.Error(),
	}}})
}

// scheduleOf is what a session wishes, as the driver takes it.
func scheduleOf(m *pb.Scheduling) driver.Schedule {
	s := driver.Schedule{
		Chunk:    int(min(m.GetChunk(), frame.MaxRows)),
		Fixed:    m != nil && m.Adaptive != nil && !m.GetAdaptive(),
		NoDrafts: m != nil && m.Prediction != nil && !m.GetPrediction(),
	}
	switch {
	case m.GetLowLatency():
		s.Class = driver.ClassLatency
	case m != nil && m.LowLatency != nil:
		s.Class = driver.ClassThroughput
	}
	return s
}

func checkVocab(ids []int32, vocab int) error {
	for i, id := range ids {
		if id < 0 || int(id) >= vocab {
			return fmt.Errorf("id %d at position %d, vocabulary of %d", id, i, vocab)
		}
	}
	return nil
}

// step gives the machine an event and does what it says.
func (d *drive) step(ctx context.Context, ev driver.Event) error {
	out, err := d.machine.Step(time.Now(), ev)
	if err != nil {
		return err
	}
	for _, f := range out.Send {
		d.startSpan(ctx, f)
		d.show(f)
		if !d.pipe.stages[0].feed(&wire.Push{Frame: f}) {
			return nil // the pipeline has ended
		}
	}
	for _, p := range out.Prefilled {
		if p.Done == p.Total {
			d.looked(p.Slot, p.Attempt)
		}
		m := &pb.Prefilled{Slot: uint32(p.Slot), Attempt: p.Attempt, Done: int32(p.Done), Total: int32(p.Total), Cached: int32(p.Cached)}
		if err := d.tell(&pb.DriveResponse{Message: &pb.DriveResponse_Prefilled{Prefilled: m}}); err != nil {
			return err
		}
	}
	for _, c := range out.Closed {
		d.looked(c.Slot, c.Attempt)
		if d.drafter != nil {
			d.drafter.leave(c.Slot, c.Attempt)
		}
		m := &pb.Closed{Slot: uint32(c.Slot), Attempt: c.Attempt, Reason: string(c.Reason), Detail: c.Detail}
		if err := d.tell(&pb.DriveResponse{Message: &pb.DriveResponse_Closed{Closed: m}}); err != nil {
			return err
		}
	}
	d.observe()
	for _, w := range out.Wishes {
		if err := d.wish(ctx, w); err != nil {
			return err
		}
	}
	return nil
}

// wish has the draft model guess; a session for which it has no place goes on without.
func (d *drive) wish(ctx context.Context, w driver.Wish) error {
	if d.drafter != nil {
		if seated, ok := d.drafter.seat(w); ok {
			d.wishes <- seated // each place has one at most
			return nil
		}
	}
	return d.step(ctx, driver.Guessed{Slot: w.Open.Slot, Attempt: w.Open.Attempt})
}

// guessed takes what the draft model says.
func (d *drive) guessed(ctx context.Context, g drafted) error {
	d.drafter.places[g.at].busy = false
	if g.err != nil && ctx.Err() == nil {
		d.shard.deps.Log.Error("the draft model guesses no more", "epoch", d.pipe.epoch, "pipeline", d.pipe.plan.Id, "err", g.err)
	}
	return d.step(ctx, g.Guessed)
}

// observe tells what the driver has done since it was last asked.
func (d *drive) observe() {
	t := d.shard.deps.Telemetry
	running, waiting := d.machine.Sessions()
	t.AddSessions(running-d.running, waiting-d.waiting)
	d.running, d.waiting = running, waiting
	now, was := d.machine.Stats(), d.told
	if now == was {
		return
	}
	d.told = now
	t.AddDriving(telemetry.Driving{
		Drafted: now.Drafted - was.Drafted, Accepted: now.Accepted - was.Accepted, Cached: now.Cached - was.Cached, Lanes: now.Lanes,
	})
}

// tell queues a message for the coordinator. The driver does not wait for it.
func (d *drive) tell(m *pb.DriveResponse) error {
	select {
	case d.replies <- m:
		return nil
	default:
		return fmt.Errorf("the coordinator is %d messages behind", maxReplies)
	}
}

// subscribe makes results deliver what the last stage says from now on.
func (d *drive) subscribe(ctx context.Context) error {
	if own := d.pipe.results; own != nil {
		d.results = own.subscribe().results
		return nil
	}
	results, err := d.shard.follow(ctx, d.pipe)
	d.results = results
	return err
}

func (d *drive) startSpan(ctx context.Context, f *frame.Frame) {
	if !d.shard.deps.Telemetry.Tracing() {
		return
	}
	step := telemetry.Step{Pipeline: f.Pipeline, Epoch: f.Epoch, Step: f.Step, Rows: f.NumRows()}
	for i := range f.Spans {
		if parent := d.trace[f.Spans[i].Slot]; parent != "" {
			step.Requests = append(step.Requests, parent)
		}
	}
	d.spans[f.Step] = d.shard.deps.Telemetry.StartStep(ctx, step)
}

// endSpan closes the span of a step with what its stages say of it.
func (d *drive) endSpan(r *frame.Result) {
	span, ok := d.spans[r.Step]
	if !ok {
		return
	}
	delete(d.spans, r.Step)
	var parts []telemetry.StagePart
	for _, t := range r.Timings {
		if int(t.Stage) >= len(d.pipe.plan.Stages) {
			continue
		}
		st := d.pipe.plan.Stages[t.Stage]
		parts = append(parts, telemetry.StagePart{
			Node: st.Node, First: int(st.First), End: int(st.End), Rows: int(t.Rows),
			Wait: time.Duration(t.WaitNS), Compute: time.Duration(t.ComputeNS),
		})
	}
	span.EndWith(parts)
}

// endSpans closes those of steps that have no result.
func (d *drive) endSpans() {
	for _, span := range d.spans {
		span.End()
	}
	clear(d.spans)
}
