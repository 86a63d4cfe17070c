package wire

import (
	"sync"

	"google.golang.org/grpc/mem"

	"github.com/shoal-llm/shoal/pkg/frame"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// header is the message of a frame's header, with memory that is used again:
// encoding is over when it returns, so that nothing refers to it then.
type header struct {
	request pb.PushRequest
	step    pb.StepFrame
	spans   []*pb.Span
	timings []*pb.StageTiming
}

// headers keeps messages between frames.
var headers = sync.Pool{New: func() any { return new(header) }}

// marshalHeader encodes the header of a frame behind room bytes.
func marshalHeader(f *frame.Frame, room int) (mem.Buffer, error) {
	h := headers.Get().(*header)
	defer headers.Put(h)
	h.fill(f)
	defer h.forget()
	return marshalInto(&h.request, room)
}

// fill makes the message of a frame. It shares the frame's slices.
func (h *header) fill(f *frame.Frame) {
	h.request.Frame = &h.step
	m := &h.step
	m.PlanEpoch, m.Pipeline, m.Step, m.Dtype = f.Epoch, f.Pipeline, f.Step, pb.ElementType(f.DType)
	h.spans = enough(h.spans, len(f.Spans))
	m.Spans = h.spans[:len(f.Spans)]
	for i := range f.Spans {
		s, out := &f.Spans[i], m.Spans[i]
		out.Slot, out.Attempt, out.Start, out.Tokens = uint32(s.Slot), s.Attempt, s.Start, s.Tokens
		out.Output, out.Drafted = pb.Output(s.Output), uint32(s.Drafted)
	}
	h.timings = timingsToProto(h.timings, f.Timings)
	m.Timings = h.timings[:len(f.Timings)]
	for i := range f.Ops {
		m.Ops = append(m.Ops, opToProto(&f.Ops[i]))
	}
}

// forget lets go of what belongs to the frame.
func (h *header) forget() {
	for _, s := range h.step.Spans {
		s.Tokens = nil
	}
	clear(h.step.Ops)
	h.step.Ops = h.step.Ops[:0]
}

// enough returns messages with at least n.
func enough[T any](messages []*T, n int) []*T {
	for len(messages) < n {
		messages = append(messages, new(T))
	}
	return messages
}
