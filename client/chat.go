package client

import (
	"context"
	"errors"
	"iter"

	"google.golang.org/grpc"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// ErrRunning says that an answer of the stream has not ended.
var ErrRunning = errors.New("an answer is running on this stream")

// Chat asks for answers one after another over one stream, and can stop them
// without losing it. It belongs to one goroutine, except Stop.
type Chat struct {
	stream  grpc.BidiStreamingClient[pb.ChatRequest, pb.ChatResponse]
	cancel  context.CancelFunc
	running bool
}

// Chat opens a stream for answers. ctx bounds all of them.
func (c *Client) Chat(ctx context.Context) (*Chat, error) {
	ctx, cancel := context.WithCancel(ctx)
	stream, err := c.service.Chat(ctx)
	if err != nil {
		cancel()
		return nil, err
	}
	return &Chat{stream: stream, cancel: cancel}, nil
}

// Ask asks for the next answer; its events are those of Client.Generate. A loop
// that is left early stops the answer and waits for its end, so the stream can
// be used again.
func (c *Chat) Ask(g *pb.Generation) iter.Seq2[*pb.Event, error] {
	return func(yield func(*pb.Event, error) bool) {
		if c.running {
			yield(nil, ErrRunning)
			return
		}
		if err := c.stream.Send(&pb.ChatRequest{Message: &pb.ChatRequest_Generation{Generation: g}}); err != nil {
			_, err = c.stream.Recv() // which knows why
			yield(nil, err)
			return
		}
		c.running = true
		left := false
		events(c.next, func(e *pb.Event, err error) bool {
			left = !yield(e, err)
			return !left
		})
		if left && c.running {
			c.Stop()
			events(c.next, func(*pb.Event, error) bool { return true })
		}
	}
}

func (c *Chat) next() (*pb.Event, error) {
	m, err := c.stream.Recv()
	e := m.GetEvent()
	if err != nil || e.GetComplete() != nil || failure(e) != nil {
		c.running = false
	}
	return e, err
}

// Stop ends the answer that is running; its last event says so. It may be called
// from another goroutine while one ranges over Ask.
func (c *Chat) Stop() error {
	return c.stream.Send(&pb.ChatRequest{Message: &pb.ChatRequest_Stop{Stop: &pb.StopAnswer{}}})
}

// Close ends the stream.
func (c *Chat) Close() error {
	defer c.cancel()
	return c.stream.CloseSend()
}
