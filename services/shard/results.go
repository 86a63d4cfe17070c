package shard

import (
	"slices"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/shoal-llm/shoal/internal/wire"
	"github.com/shoal-llm/shoal/pkg/frame"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// maxResults is how many results a subscriber may be behind.
const maxResults = 256

// results gives every subscriber what the last stage says. Its methods may be
// called from any goroutine.
type results struct {
	mu   sync.Mutex
	subs []*subscription // guarded by mu
}

// subscription receives results from when it was made. They are copies that all
// subscribers share: nobody changes them.
type subscription struct {
	results chan *frame.Result
	behind  chan struct{} // closed when a result had no place: the subscriber is cut off
}

func newResults() *results { return &results{} }

func (r *results) subscribe() *subscription {
	sub := &subscription{results: make(chan *frame.Result, maxResults), behind: make(chan struct{})}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.subs = append(r.subs, sub)
	return sub
}

func (r *results) unsubscribe(sub *subscription) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.subs = slices.DeleteFunc(r.subs, func(s *subscription) bool { return s == sub })
}

// publish gives a copy of a result to all subscribers and never waits.
func (r *results) publish(result *frame.Result) {
	result = cloneResult(result)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.subs = slices.DeleteFunc(r.subs, func(s *subscription) bool {
		select {
		case s.results <- result:
			return false
		default:
			close(s.behind)
			return true
		}
	})
}

// cloneResult copies what an engine lends: subscribers read it when the engine has
// taken its memory back. What all sessions have takes one list for all.
func cloneResult(r *frame.Result) *frame.Result {
	c := *r
	c.Timings, c.Sampled = slices.Clone(r.Timings), slices.Clone(r.Sampled)
	n := 0
	for i := range c.Sampled {
		n += len(c.Sampled[i].IDs)
	}
	ids := make([]int32, 0, n)
	for i := range c.Sampled {
		s := &c.Sampled[i]
		ids = append(ids, s.IDs...)
		s.IDs = ids[len(ids)-len(s.IDs) : len(ids) : len(ids)]
		s.Logits, s.Pooled, s.LogProbs = slices.Clone(s.Logits), slices.Clone(s.Pooled), slices.Clone(s.LogProbs)
		for j := range s.LogProbs {
			s.LogProbs[j].Top = slices.Clone(s.LogProbs[j].Top)
		}
	}
	return &c
}

// Results streams what the last stage samples. Its headers say that the
// subscription holds: no result of a later step is missed.
func (s *server) Results(req *pb.ResultsRequest, stream pb.ShardService_ResultsServer) error {
	p, err := s.control.find(req.Epoch, req.Pipeline)
	if err != nil {
		return err
	}
	if p.results == nil {
		return status.Errorf(codes.FailedPrecondition, "the last stage of pipeline %d is on node %s", req.Pipeline, p.plan.Stages[p.last()].Node)
	}
	if err := s.mayFollow(stream.Context(), p); err != nil {
		return err
	}
	sub := p.results.subscribe()
	defer p.results.unsubscribe(sub)
	if err := stream.SendHeader(metadata.MD{}); err != nil {
		return err
	}
	for {
		select {
		case r := <-sub.results:
			if err := stream.SendMsg(&wire.Said{Result: r}); err != nil {
				return err
			}
		case <-sub.behind:
			return status.Errorf(codes.ResourceExhausted, "more than %d results behind", maxResults)
		case <-p.fuse.done:
			return sendRest(p, sub, stream)
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

// sendRest sends the results from before the end of the pipeline.
func sendRest(p *pipeline, sub *subscription, stream pb.ShardService_ResultsServer) error {
	for {
		select {
		case r := <-sub.results:
			if err := stream.SendMsg(&wire.Said{Result: r}); err != nil {
				return err
			}
		default:
			return ended(p)
		}
	}
}
