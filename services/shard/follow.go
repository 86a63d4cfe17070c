package shard

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/shoal-llm/shoal/internal/wire"
	"github.com/shoal-llm/shoal/pkg/frame"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// follow subscribes to the results of a pipeline whose last stage is on another
// node. When it returns, no result of a later step is missed. The channel lives
// until ctx ends; a broken stream ends the pipeline.
func (s *Shard) follow(ctx context.Context, p *pipeline) (<-chan *frame.Result, error) {
	last := p.plan.Stages[p.last()]
	conn, err := s.dial(last)
	if err != nil {
		return nil, err
	}
	open, cancel := context.WithCancel(ctx)
	stream, err := s.openResults(open, pb.NewShardServiceClient(conn), p)
	if err != nil {
		cancel()
		conn.Close()
		return nil, fmt.Errorf("follow results on node %s: %w", last.Node, err)
	}
	results := make(chan *frame.Result, maxInFlight)
	go func() {
		defer conn.Close()
		group, inner := errgroup.WithContext(open)
		group.Go(func() error {
			defer cancel() // a silent stream would end by nothing else
			return s.beat(inner, last)
		})
		group.Go(func() error { return receiveResults(inner, stream, results) })
		err := group.Wait()
		if ctx.Err() == nil {
			p.fuse.blow(p.last(), fmt.Errorf("node %s lost: %w", last.Node, err))
		}
	}()
	return results, nil
}

func (s *Shard) openResults(ctx context.Context, client pb.ShardServiceClient, p *pipeline) (pb.ShardService_ResultsClient, error) {
	if err := s.greet(ctx, client, p.plan.Stages[p.last()].Node); err != nil {
		return nil, err
	}
	stream, err := client.Results(ctx, &pb.ResultsRequest{Epoch: p.epoch, Pipeline: p.plan.Id})
	if err != nil {
		return nil, streamError(err)
	}
	header, err := stream.Header()
	if err != nil {
		return nil, streamError(err)
	}
	if header == nil { // the stream ended without one
		_, err := stream.Recv()
		return nil, streamError(err)
	}
	return stream, nil
}

func receiveResults(ctx context.Context, stream pb.ShardService_ResultsClient, results chan<- *frame.Result) error {
	for {
		m, err := stream.Recv()
		if err != nil {
			return streamError(err)
		}
		r, err := wire.ResultFromProto(m.Result)
		if err != nil {
			return err
		}
		select {
		case results <- r:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
