package coordinator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/shoal-llm/shoal/internal/wire"
	"github.com/shoal-llm/shoal/pkg/frame"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/coordinator/plan"
)

const (
	maxDrive      = 16 << 10 // messages waiting for the driver
	attachTimeout = 5 * time.Second
	retireFor     = 10 * time.Second // that sessions may look for room elsewhere before they have to go
)

// pipeline is a pipeline of the plan whose stages are loaded: the two streams to
// it, sessions to its first stage and results from its last, and who is on it.
type pipeline struct {
	plan        *plan.Pipeline
	fingerprint string
	drive       *mailbox[*pb.DriveRequest]
	ready       bool      // both streams are open
	full        bool      // drive took no more: the pipeline is given up
	retiring    time.Time // since when its sessions are to leave it; zero is not
	stop        context.CancelFunc

	slots    []slot
	free     int // KV pages
	pace     pace
	prefixes prefixes
	tempo    tempo
}

// slot is a place for one session.
type slot struct {
	attempt uint32 // 0 is free
	pages   int
	prompt  int // ids to be computed before one is sampled
}

// The events of a pipeline. Those of one that is over are not heard.
type (
	pipelineUp   struct{ key plan.Key }
	pipelineDown struct {
		key   plan.Key
		stage int
		err   error
	}
	stepDone struct {
		key    plan.Key
		result *frame.Result
	}
	driven struct {
		key plan.Key
		msg *pb.DriveResponse
	}
)

// serves reports whether sessions may be placed.
func (p *pipeline) serves() bool { return p.ready && !p.full && p.retiring.IsZero() }

// running is how many slots are taken.
func (p *pipeline) running() (n int) {
	for i := range p.slots {
		if p.slots[i].attempt != 0 {
			n++
		}
	}
	return n
}

// queued is how many ids of prompts are still to be computed.
func (p *pipeline) queued() (n int) {
	for i := range p.slots {
		n += p.slots[i].prompt
	}
	return n
}

// take reserves a slot and pages for an attempt. There is room.
func (p *pipeline) take(attempt uint32, pages, prompt int) frame.Slot {
	at := slices.IndexFunc(p.slots, func(s slot) bool { return s.attempt == 0 })
	p.slots[at] = slot{attempt, pages, prompt}
	p.free -= pages
	return frame.Slot(at)
}

// has reports whether an attempt is in a slot.
func (p *pipeline) has(at frame.Slot, attempt uint32) bool {
	return attempt != 0 && int(at) < len(p.slots) && p.slots[at].attempt == attempt
}

// release frees the slot of an attempt, if it is there.
func (p *pipeline) release(at frame.Slot, attempt uint32) bool {
	if !p.has(at, attempt) {
		return false
	}
	p.free += p.slots[at].pages
	p.slots[at] = slot{}
	return true
}

// stageError is an error of the stream to one stage.
type stageError struct {
	stage int
	err   error
}

// Error is that of the stream.
func (e *stageError) Error() string { return e.err.Error() }

// runPipeline opens the streams and carries messages until ctx ends or one of
// them breaks.
func (c *Coordinator) runPipeline(ctx context.Context, p *pipeline, first, last *shardConn) {
	key, end := p.plan.Key, len(p.plan.Stages)-1
	group, inner := errgroup.WithContext(ctx)
	opened := make(chan struct{}, 2)
	group.Go(func() error {
		if err := c.follow(inner, key, last, opened); err != nil {
			return &stageError{end, err}
		}
		return nil
	})
	group.Go(func() error {
		if err := c.steer(inner, p, first, opened); err != nil {
			return &stageError{0, err}
		}
		return nil
	})
	group.Go(func() error {
		for range 2 {
			select {
			case <-opened:
			case <-inner.Done():
				return nil
			case <-time.After(attachTimeout):
				return &stageError{end, fmt.Errorf("the streams did not open within %v", attachTimeout)}
			}
		}
		c.post(pipelineUp{key})
		return nil
	})
	err := group.Wait()
	if ctx.Err() != nil {
		return
	}
	down := pipelineDown{key: key, err: err}
	if s := (*stageError)(nil); errors.As(err, &s) {
		down.stage = s.stage
	}
	c.post(down)
}

// follow receives what the last stage samples. The stage answers the
// subscription with headers, so that no result is missed.
func (c *Coordinator) follow(ctx context.Context, key plan.Key, last *shardConn, opened chan<- struct{}) error {
	stream, err := pb.NewShardServiceClient(last.conn).Results(ctx, &pb.ResultsRequest{Epoch: key.Epoch, Pipeline: key.ID})
	if err != nil {
		return streamError("result stream", err)
	}
	if _, err := stream.Header(); err != nil {
		return streamError("result stream", err)
	}
	opened <- struct{}{}
	for {
		m, err := stream.Recv()
		if err != nil {
			return streamError("result stream", err)
		}
		r, err := wire.ResultFromProto(m.GetResult())
		if err != nil {
			return fmt.Errorf("result stream: %w", err)
		}
		c.post(stepDone{key, r})
	}
}

// steer carries sessions to the driver and its answers back.
func (c *Coordinator) steer(ctx context.Context, p *pipeline, first *shardConn, opened chan<- struct{}) error {
	group, ctx := errgroup.WithContext(ctx)
	stream, err := pb.NewShardServiceClient(first.conn).Drive(ctx)
	if err != nil {
		return streamError("drive stream", err)
	}
	group.Go(func() error {
		attach := &pb.DriveOpen{Epoch: p.plan.Epoch, Pipeline: p.plan.ID}
		if err := stream.Send(&pb.DriveRequest{Message: &pb.DriveRequest_Attach{Attach: attach}}); err != nil {
			return nil // the receiver knows why
		}
		opened <- struct{}{}
		for {
			messages, err := p.drive.take(ctx)
			if err != nil {
				return err
			}
			for _, m := range messages {
				if err := stream.Send(m); err != nil {
					return nil
				}
			}
		}
	})
	group.Go(func() error {
		for {
			m, err := stream.Recv()
			if err != nil {
				return streamError("drive stream", err)
			}
			c.post(driven{p.plan.Key, m})
		}
	})
	return group.Wait()
}
