package gateway

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// Chat streams answers one after another. What is wrong with a request is the
// error event of its answer; a client that breaks the protocol loses the stream.
func (s *generateServer) Chat(stream grpc.BidiStreamingServer[pb.ChatRequest, pb.ChatResponse]) error {
	asked := make(chan *pb.ChatRequest)
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	received := make(chan error, 1)
	go func() { received <- receiveChat(ctx, stream, asked) }()
	for {
		select {
		case m := <-asked:
			// Without a generation it is the stop of an answer that had ended.
			for gen := m.GetGeneration(); gen != nil; {
				var err error
				if gen, err = s.answer(ctx, stream, gen, asked); err != nil {
					return err
				}
			}
		case err := <-received:
			return err
		}
	}
}

// receiveChat hands over what the client sends until it has no more to say.
func receiveChat(ctx context.Context, stream grpc.BidiStreamingServer[pb.ChatRequest, pb.ChatResponse], to chan<- *pb.ChatRequest) error {
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case to <- m:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// errOneAtATime is the end of a stream whose client asks before its answer is
// complete.
var errOneAtATime = status.Error(codes.FailedPrecondition, "an answer is running on this stream: stop it, or use another stream")

// answer streams one answer, which a stop may end. A client that has seen the
// terminal may ask before this side is done with it: that is the next generation.
func (s *generateServer) answer(ctx context.Context, stream grpc.BidiStreamingServer[pb.ChatRequest, pb.ChatResponse], gen *pb.Generation, asked <-chan *pb.ChatRequest) (next *pb.Generation, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(errClient)
	done := make(chan error, 1)
	var over atomic.Bool
	send := func(e *pb.Event) error {
		over.Store(terminal(e))
		return stream.Send(&pb.ChatResponse{Event: e})
	}
	if p := s.gateway.refuseGRPC(ctx, gen); p != nil {
		return nil, send(p.event())
	}
	go func() { done <- s.gateway.streamGRPC(ctx, gen, send) }()
	for {
		select {
		case err := <-done:
			return nil, err
		case m := <-asked:
			if m.GetGeneration() != nil && over.Load() {
				return m.GetGeneration(), <-done
			}
			cancel(errClient)
			if m.GetGeneration() != nil {
				<-done
				return nil, errOneAtATime
			}
		}
	}
}

// watchEvery is how often the state of the cluster is looked at for watchers.
const watchEvery = 500 * time.Millisecond

// Cluster streams the state of the cluster, at once and whenever it changes. It
// ends when the gateway shuts down.
func (s *generateServer) Cluster(_ *pb.GenerateServiceClusterRequest, stream grpc.ServerStreamingServer[pb.GenerateServiceClusterResponse]) error {
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	var last *pb.GenerateServiceClusterResponse
	for {
		now := s.gateway.clusterState(stream.Context())
		if last == nil || !proto.Equal(last, now) {
			if err := stream.Send(now); err != nil {
				return err
			}
			last = now
		}
		select {
		case <-ticker.C:
		case <-s.gateway.draining.done:
			return errDraining.grpc()
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

// clusterState is what clients may know of the cluster.
func (g *Gateway) clusterState(ctx context.Context) *pb.GenerateServiceClusterResponse {
	state, err := g.cluster.state(ctx)
	if err != nil {
		return &pb.GenerateServiceClusterResponse{Reason: errNoCoordinator.message}
	}
	out := &pb.GenerateServiceClusterResponse{
		Ready: state.GetReady(), Reason: state.GetReason(), Models: state.GetModels(),
		Running: state.GetRunning(), Waiting: state.GetWaiting(),
	}
	for _, n := range state.GetNodes() {
		out.Nodes = append(out.Nodes, &pb.NodeState{
			Node: n.GetNode(), State: n.GetState(), Reason: n.GetReason(), Version: n.GetVersion(),
		})
	}
	return out
}

// Tokenize returns the ids of a prompt. Nothing is computed for it.
func (s *generateServer) Tokenize(ctx context.Context, in *pb.TokenizeRequest) (*pb.TokenizeResponse, error) {
	gen := &pb.Generation{Model: in.GetModel(), Tokenize: true, MaxTokensClamp: true, Sampling: &pb.Sampling{}}
	switch input := in.GetInput().(type) {
	case *pb.TokenizeRequest_Chat:
		gen.Input = &pb.Generation_Chat{Chat: input.Chat}
	case *pb.TokenizeRequest_Prompt:
		gen.Input = &pb.Generation_Prompt{Prompt: input.Prompt}
	case *pb.TokenizeRequest_Raw:
		gen.Input = &pb.Generation_Raw{Raw: input.Raw}
	}
	refused := s.gateway.refuseGRPC(ctx, gen)
	if refused != nil {
		return nil, refused.grpc()
	}
	out := &pb.TokenizeResponse{}
	err := s.gateway.streamGRPC(ctx, gen, func(e *pb.Event) error {
		if a := e.GetAccepted(); a != nil {
			out.Model, out.Ids = a.GetModel(), a.GetPromptIds()
		}
		refused = endedEarly(e)
		return nil
	})
	if refused != nil {
		return nil, refused.grpc()
	}
	return out, err
}
