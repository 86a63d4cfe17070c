package wire

import (
	"sync"

	"google.golang.org/grpc/mem"

	"github.com/shoal-llm/shoal/pkg/frame"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// Said is the message of a Results stream for its sender: what the last stage
// says of a step. On the wire it is a protobuf ResultsResponse, and received as
// that.
type Said struct {
	Result *frame.Result
}

// saying is a ResultsResponse with memory that is used again (see header).
type saying struct {
	response pb.ResultsResponse
	result   pb.StepResult
	sampled  []*pb.Sampled
	timings  []*pb.StageTiming
}

// sayings keeps messages between results.
var sayings = sync.Pool{New: func() any { return new(saying) }}

func marshalSaid(s *Said) (mem.Buffer, error) {
	m := sayings.Get().(*saying)
	defer sayings.Put(m)
	m.fill(s.Result)
	defer m.forget()
	return marshalInto(&m.response, 0)
}

// fill makes the message of a result. It shares the result's slices.
func (m *saying) fill(r *frame.Result) {
	m.response.Result = &m.result
	m.result.PlanEpoch, m.result.Pipeline, m.result.Step = r.Epoch, r.Pipeline, r.Step
	m.timings = timingsToProto(m.timings, r.Timings)
	m.result.Timings = m.timings[:len(r.Timings)]
	m.sampled = enough(m.sampled, len(r.Sampled))
	m.result.Sampled = m.sampled[:len(r.Sampled)]
	for i := range r.Sampled {
		s, out := &r.Sampled[i], m.sampled[i]
		out.Slot, out.Attempt, out.Position, out.Ids = uint32(s.Slot), s.Attempt, s.Position, s.IDs
		out.Logits, out.Finish, out.Error, out.Pooled = s.Logits, pb.Finish(s.Finish), s.Err, s.Pooled
		for _, lp := range s.LogProbs {
			out.Logprobs = append(out.Logprobs, logProbToProto(lp))
		}
	}
}

// forget lets go of what belongs to the result.
func (m *saying) forget() {
	for _, s := range m.result.Sampled {
		s.Ids, s.Logits, s.Pooled, s.Error = nil, nil, nil, ""
		clear(s.Logprobs)
		s.Logprobs = s.Logprobs[:0]
	}
}

// timingsToProto fills in messages, of which it makes enough.
func timingsToProto(out []*pb.StageTiming, ts []frame.Timing) []*pb.StageTiming {
	out = enough(out, len(ts))
	for i, t := range ts {
		m := out[i]
		m.Stage, m.ComputeNs, m.WaitNs, m.Rows = t.Stage, t.ComputeNS, t.WaitNS, t.Rows
	}
	return out
}
