package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/shoal-llm/shoal/internal/wire"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// Sizes of the relay. A generation may be window tokens ahead of its reader;
// everything else the coordinator sends for it is a handful of events.
const (
	window       = 64
	spareEvents  = 16
	outgoing     = 1024     // messages waiting to be sent
	batch        = 128      // messages in one RelayRequest
	batchBytes   = 16 << 20 // after which it takes no more of them: the rest of a message fits beside the largest
	minBackoff   = 50 * time.Millisecond
	maxBackoff   = 2 * time.Second
	connectGrace = 2 * time.Second // how long a request waits for a connection
	slowest      = 1 << 20         // bytes a second that a link carries at least: a heartbeat waits behind pictures
)

// relay is the gateway's end of CoordinatorService.Relay: one stream that
// carries all generations. It connects again, with full jitter, whenever the
// stream breaks; what was running then is submitted again.
type relay struct {
	coordinator pb.CoordinatorServiceClient
	log         *slog.Logger
	limit       int           // generations at once
	patience    time.Duration // of an interrupted answer with coordinators
	draining    *occasion     // from then on nothing is submitted again
	pictures    atomic.Int64  // bytes of those of answers that run

	mu      sync.Mutex // guards following
	number  uint64     // of the last generation
	link    *link      // nil while not connected
	changed chan struct{}
}

func newRelay(c pb.CoordinatorServiceClient, log *slog.Logger, l Limits, draining *occasion) *relay {
	return &relay{
		coordinator: c, log: log, limit: l.Generations, patience: l.Recovery, draining: draining, changed: make(chan struct{}),
	}
}

// closing reports whether the gateway has begun to shut down.
func (r *relay) closing() bool {
	select {
	case <-r.draining.done:
		return true
	default:
		return false
	}
}

// Run keeps a stream open until ctx ends.
func (r *relay) Run(ctx context.Context) error {
	backoff := minBackoff
	for ctx.Err() == nil {
		started := time.Now()
		err := r.connect(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(started) > maxBackoff {
			backoff = minBackoff
		}
		wait := rand.N(backoff) + minBackoff/2
		r.log.LogAttrs(ctx, slog.LevelWarn, "no stream to the coordinator", slog.Any("error", err), slog.Duration("retry", wait))
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		backoff = min(2*backoff, maxBackoff)
	}
	return nil
}

// connect opens one stream and serves it until it breaks.
func (r *relay) connect(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := r.coordinator.Relay(ctx)
	if err != nil {
		return fmt.Errorf("open relay: %w", err)
	}
	l := &link{
		out:  make(chan *pb.Upward, outgoing),
		done: make(chan struct{}),
		open: map[uint64]*mailbox{},
	}
	r.set(l)
	defer l.fail()
	defer r.set(nil)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return l.send(ctx, stream) })
	group.Go(func() error {
		defer cancel() // the receiver does not hear of a link that is cut
		return l.watch(ctx)
	})
	group.Go(func() error {
		err := l.receive(stream)
		cancel() // a coordinator that ended the stream without an error ends it too
		return err
	})
	return group.Wait()
}

// set publishes the link, or its absence, and wakes those who wait for one.
func (r *relay) set(l *link) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.link = l
	close(r.changed)
	r.changed = make(chan struct{})
}

// connected reports whether a stream is open now.
func (r *relay) connected() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.link != nil
}

var (
	errNoCoordinator = &problem{code: codeNoCoordinator, retryable: true, message: "No coordinator is connected at the moment."}
	errLost          = &problem{code: codeCoordinatorLost, retryable: true, message: "The connection to the coordinator was lost before the answer was complete."}
	errPoison        = &problem{code: codePoison, message: "The request was given up: coordinators were lost each time they had accepted it."}
	errLimit         = &problem{code: codeRateLimit, retryable: true, message: "This gateway carries as many answers as it may; try again in a moment."}
)

// register gives a generation its number and mailbox on the present link,
// waiting a moment for one.
func (r *relay) register(ctx context.Context) (uint64, *mailbox, *link, error) {
	grace := time.NewTimer(connectGrace)
	defer grace.Stop()
	for {
		r.mu.Lock()
		l, changed := r.link, r.changed
		r.number++
		number := r.number
		r.mu.Unlock()
		if l != nil {
			box, err := l.add(number, r.limit)
			if !errors.Is(err, errLost) {
				return number, box, l, err
			}
		}
		select {
		case <-changed:
		case <-grace.C:
			return 0, nil, nil, errNoCoordinator
		case <-ctx.Done():
			return 0, nil, nil, context.Cause(ctx)
		}
	}
}

// link is one open stream.
type link struct {
	out  chan *pb.Upward
	done chan struct{} // closed when the stream broke

	heard atomic.Uint64 // messages
	owed  atomic.Int64  // bytes sent since the last one
	beats atomic.Bool   // the coordinator answers heartbeats

	mu   sync.Mutex // guards following
	open map[uint64]*mailbox
	lost bool
}

func (l *link) add(number uint64, limit int) (*mailbox, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lost {
		return nil, errLost
	}
	if len(l.open) >= limit {
		return nil, errLimit
	}
	box := newMailbox()
	l.open[number] = box
	return box, nil
}

func (l *link) remove(number uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open, number)
}

// fail ends every open generation with one error.
func (l *link) fail() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lost = true
	close(l.done)
	for _, box := range l.open {
		box.put(errLost.event())
	}
	clear(l.open)
}

// post queues messages in order. It waits while the queue is full, and gives up
// when the stream breaks.
func (l *link) post(messages ...*pb.Upward) {
	for _, m := range messages {
		select {
		case l.out <- m:
		case <-l.done:
			return
		}
	}
}

// watch returns when the coordinator, which has answered heartbeats, is silent for
// too long: the link is cut, in one direction or both, or the process is frozen.
func (l *link) watch(ctx context.Context) error {
	ticker := time.NewTicker(wire.BeatEvery / 2)
	defer ticker.Stop()
	var silence wire.Silence
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
		silent := silence.Look(time.Now(), l.heard.Load())
		patience := wire.LostAfter + time.Duration(l.owed.Load())*time.Second/slowest
		if l.beats.Load() && silent > patience {
			return fmt.Errorf("no heartbeat of the coordinator for %v", silent.Round(time.Millisecond))
		}
	}
}

// send writes what is queued, everything that waits in one message, and heartbeats.
func (l *link) send(ctx context.Context, stream pb.CoordinatorService_RelayClient) error {
	ticker := time.NewTicker(wire.BeatEvery)
	defer ticker.Stop()
	for beat := uint64(1); ; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
			m := &pb.Upward{Message: &pb.Upward_Beat{Beat: beat}}
			if err := stream.Send(&pb.RelayRequest{Messages: []*pb.Upward{m}}); err != nil {
				return fmt.Errorf("send to coordinator: %w", err)
			}
			beat++
		case first := <-l.out:
			req := &pb.RelayRequest{Messages: append(make([]*pb.Upward, 0, 8), first)}
			size := proto.Size(first.GetStart())
			for more := true; more && len(req.Messages) < batch && size < batchBytes; {
				select {
				case m := <-l.out:
					req.Messages = append(req.Messages, m)
					size += proto.Size(m.GetStart())
				default:
					more = false
				}
			}
			l.owed.Add(int64(size))
			if err := stream.Send(req); err != nil {
				return fmt.Errorf("send to coordinator: %w", err)
			}
		}
	}
}

// receive deals events to their generations; it never waits for a reader.
func (l *link) receive(stream pb.CoordinatorService_RelayClient) error {
	for {
		resp, err := stream.Recv()
		if err != nil {
			return fmt.Errorf("receive from coordinator: %w", err)
		}
		l.heard.Add(1)
		l.owed.Store(0)
		l.deal(resp.GetMessages())
	}
}

func (l *link) deal(messages []*pb.Downward) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range messages {
		if m.GetBeat() != 0 {
			l.beats.Store(true)
			continue
		}
		box := l.open[m.GetNumber()]
		if box == nil {
			continue // it has been stopped meanwhile
		}
		if terminal(m.GetEvent()) {
			delete(l.open, m.GetNumber())
		}
		box.put(m.GetEvent())
	}
}

// terminal reports whether an event ends its generation.
func terminal(e *pb.Event) bool {
	switch e.GetEvent().(type) {
	case *pb.Event_Complete, *pb.Event_Stopped, *pb.Event_Error:
		return true
	}
	return false
}
