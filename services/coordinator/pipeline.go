package coordinator

import (
	"context"
	"errors"
	"fmt"
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
	pipelineID    = 0 // there is one
)

// pipeline is the two streams of the plan in force: sessions to its first
// stage, results from its last.
type pipeline struct {
	plan  *plan.Plan
	drive *mailbox[*pb.DriveRequest]
	ready bool // both streams are open
	full  bool // drive took no more: the pipeline is given up
	stop  context.CancelFunc
}

// The events of a pipeline. Those of an epoch that is over are not heard.
type (
	pipelineUp   struct{ epoch uint64 }
	pipelineDown struct {
		epoch uint64
		stage int
		err   error
	}
	stepDone struct{ result *frame.Result }
	driven   struct {
		epoch uint64
		msg   *pb.DriveResponse
	}
)

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
	epoch, end := p.plan.Epoch, len(p.plan.Stages)-1
	group, inner := errgroup.WithContext(ctx)
	opened := make(chan struct{}, 2)
	group.Go(func() error {
		if err := c.follow(inner, epoch, last, opened); err != nil {
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
		c.post(pipelineUp{epoch})
		return nil
	})
	err := group.Wait()
	if ctx.Err() != nil {
		return
	}
	down := pipelineDown{epoch: epoch, err: err}
	if s := (*stageError)(nil); errors.As(err, &s) {
		down.stage = s.stage
	}
	c.post(down)
}

// follow receives what the last stage samples. The stage answers the
// subscription with headers, so that no result is missed.
func (c *Coordinator) follow(ctx context.Context, epoch uint64, last *shardConn, opened chan<- struct{}) error {
	stream, err := pb.NewShardServiceClient(last.conn).Results(ctx, &pb.ResultsRequest{Epoch: epoch, Pipeline: pipelineID})
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
		c.post(stepDone{r})
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
		attach := &pb.DriveOpen{Epoch: p.plan.Epoch, Pipeline: pipelineID}
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
			c.post(driven{p.plan.Epoch, m})
		}
	})
	return group.Wait()
}
