package wire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// Times of heartbeats. Answers go both ways over a link, so one that is cut in
// one direction alone is as silent as one that is cut in both.
const (
	BeatEvery = 250 * time.Millisecond
	LostAfter = 1500 * time.Millisecond // without an answer
)

// Silence is how long a peer has said nothing while it could have been heard: time in
// which this process did not run itself, because it was stopped or its machine was
// overloaded, does not count against others. One goroutine looks at it, every
// BeatEvery or more often.
type Silence struct {
	last   time.Time
	heard  uint64
	silent time.Duration
}

// Look returns the silence up to now of a peer of which heard messages have come in all.
func (s *Silence) Look(now time.Time, heard uint64) time.Duration {
	switch {
	case heard != s.heard || s.last.IsZero():
		s.silent = 0
	default:
		s.silent += min(now.Sub(s.last), lookMost)
	}
	s.last, s.heard = now, heard
	return s.silent
}

// lookMost is what a look adds at most: half of LostAfter, so that one gap of any length
// is never enough, and a process that runs rarely notices a loss all the same.
const lookMost = LostAfter / 2

// Beat asks a shard for signs of life until ctx ends or the shard has been silent
// too long; it never returns nil. The connection is best one of its own, so that
// no large message is in the way.
func Beat(ctx context.Context, conn grpc.ClientConnInterface) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var heard atomic.Uint64 // answers
	var silence Silence
	failed := make(chan error, 1)
	go func() { failed <- exchange(ctx, conn, func() { heard.Add(1) }) }()
	watch := time.NewTicker(BeatEvery / 2)
	defer watch.Stop()
	for {
		select {
		case err := <-failed:
			return err
		case <-watch.C:
			if silent := silence.Look(time.Now(), heard.Load()); silent > LostAfter {
				cancel()
				<-failed
				return fmt.Errorf("no heartbeat for %v", silent.Round(time.Millisecond))
			}
		}
	}
}

// exchange sends heartbeats and calls heard for every answer.
func exchange(ctx context.Context, conn grpc.ClientConnInterface, heard func()) error {
	stream, err := pb.NewShardServiceClient(conn).Beat(ctx)
	if err != nil {
		return beatError(err)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		ticker := time.NewTicker(BeatEvery)
		defer ticker.Stop()
		for n := uint64(1); ; n++ {
			if err := stream.Send(&pb.BeatRequest{Sequence: n}); err != nil {
				return nil // the receiver knows why
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-ticker.C:
			}
		}
	})
	group.Go(func() error {
		for {
			if _, err := stream.Recv(); err != nil {
				return beatError(err)
			}
			heard()
		}
	})
	return group.Wait()
}

func beatError(err error) error {
	if errors.Is(err, io.EOF) {
		return errors.New("heartbeat: the other side ended it")
	}
	return fmt.Errorf("heartbeat: %s", status.Convert(err).Message())
}
