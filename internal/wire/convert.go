package wire

import (
	"errors"
	"fmt"
	"math"

	"github.com/shoal-llm/shoal/pkg/frame"
	"github.com/shoal-llm/shoal/pkg/sample"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// ErrInvalid says that a peer sent a message outside the protocol's limits.
// Nothing of such a message is used.
var ErrInvalid = errors.New("invalid message")

// Limits of what a peer may send in one message beyond those of pkg/frame.
const (
	MaxHistory   = 1 << 17
	MaxGrammar   = 1 << 20
	MaxName      = 256
	MaxBias      = 4096
	MaxTokenID   = 1 << 24
	MaxPositions = 1 << 24
	MaxStages    = 1024
)

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}

func checkIDs(ids []int32) error {
	for _, id := range ids {
		if id < 0 || id >= MaxTokenID {
			return invalid("token id %d", id)
		}
	}
	return nil
}

func opToProto(o *frame.Op) *pb.SessionOp {
	switch {
	case o.Open != nil:
		return &pb.SessionOp{Op: &pb.SessionOp_Open{Open: OpenToProto(o.Open)}}
	case o.Adopt != nil:
		return &pb.SessionOp{Op: &pb.SessionOp_Adopt{Adopt: &pb.AdoptPrefix{Slot: uint32(o.Adopt.Slot), Prefix: o.Adopt.Prefix[:], Tokens: o.Adopt.Tokens}}}
	case o.Publish != nil:
		return &pb.SessionOp{Op: &pb.SessionOp_Publish{Publish: &pb.PublishPrefix{Slot: uint32(o.Publish.Slot), Tokens: o.Publish.Tokens}}}
	case o.Truncate != nil:
		return &pb.SessionOp{Op: &pb.SessionOp_Truncate{Truncate: &pb.Truncate{Slot: uint32(o.Truncate.Slot), Len: o.Truncate.Len}}}
	case o.Close != nil:
		return &pb.SessionOp{Op: &pb.SessionOp_Close{Close: &pb.CloseSession{Slot: uint32(o.Close.Slot)}}}
	case o.Evict != nil:
		return &pb.SessionOp{Op: &pb.SessionOp_Evict{Evict: &pb.EvictPrefix{Prefix: o.Evict.Prefix[:]}}}
	}
	panic("wire: an operation without a field")
}

func opFromProto(m *pb.SessionOp) (frame.Op, error) {
	switch op := m.GetOp().(type) {
	case *pb.SessionOp_Open:
		o, err := OpenFromProto(op.Open)
		return frame.Op{Open: o}, err
	case *pb.SessionOp_Adopt:
		prefix, err := prefixFromProto(op.Adopt.GetPrefix())
		if err == nil {
			err = checkSlotLen(op.Adopt.GetSlot(), op.Adopt.GetTokens())
		}
		return frame.Op{Adopt: &frame.Adopt{Slot: frame.Slot(op.Adopt.GetSlot()), Prefix: prefix, Tokens: op.Adopt.GetTokens()}}, err
	case *pb.SessionOp_Publish:
		return frame.Op{Publish: &frame.Publish{Slot: frame.Slot(op.Publish.GetSlot()), Tokens: op.Publish.GetTokens()}},
			checkSlotLen(op.Publish.GetSlot(), op.Publish.GetTokens())
	case *pb.SessionOp_Truncate:
		return frame.Op{Truncate: &frame.Truncate{Slot: frame.Slot(op.Truncate.GetSlot()), Len: op.Truncate.GetLen()}},
			checkSlotLen(op.Truncate.GetSlot(), op.Truncate.GetLen())
	case *pb.SessionOp_Close:
		return frame.Op{Close: &frame.Close{Slot: frame.Slot(op.Close.GetSlot())}}, checkSlotLen(op.Close.GetSlot(), 0)
	case *pb.SessionOp_Evict:
		prefix, err := prefixFromProto(op.Evict.GetPrefix())
		return frame.Op{Evict: &frame.Evict{Prefix: prefix}}, err
	}
	return frame.Op{}, invalid("unknown session operation")
}

func prefixFromProto(b []byte) (id [32]byte, err error) {
	if len(b) != len(id) {
		return id, invalid("prefix identity of %d bytes", len(b))
	}
	copy(id[:], b)
	return id, nil
}

func checkSlotLen(slot uint32, n int32) error {
	if slot >= frame.MaxSlots {
		return invalid("slot %d", slot)
	}
	if n < 0 || n > MaxPositions {
		return invalid("length %d", n)
	}
	return nil
}

// OpenToProto converts an opening. The slices of o are shared.
func OpenToProto(o *frame.Open) *pb.OpenSession {
	return &pb.OpenSession{
		Pictures: picturesToProto(o.Pictures),
		Slot:     uint32(o.Slot), Attempt: o.Attempt, Session: o.Session, PrefixSalt: o.PrefixSalt,
		Kv:       &pb.KvClass{Bits: uint32(o.KV.Bits), GroupSize: uint32(o.KV.GroupSize), Progressive: o.KV.Progressive},
		Sampling: SamplingToProto(o.Sampling), History: o.History, Grammar: o.Grammar, Adapter: o.Adapter,
		DeadlineMs: o.DeadlineMS, Traceparent: o.Traceparent, Weight: o.Weight, AnswerStart: o.AnswerStart,
		Pooling: pb.Pooling(o.Pooling),
	}
}

// OpenFromProto converts and checks an opening.
func OpenFromProto(m *pb.OpenSession) (*frame.Open, error) {
	switch {
	case m == nil:
		return nil, invalid("no session")
	case m.Slot >= frame.MaxSlots:
		return nil, invalid("slot %d", m.Slot)
	case len(m.Session) > MaxName || len(m.Adapter) > MaxName || len(m.Traceparent) > MaxName || len(m.PrefixSalt) > MaxName:
		return nil, invalid("a name longer than %d bytes", MaxName)
	case len(m.History) > MaxHistory || len(m.Grammar) > MaxGrammar:
		return nil, invalid("history of %d ids, grammar of %d bytes", len(m.History), len(m.Grammar))
	case m.GetKv().GetBits() > 32 || m.GetKv().GetGroupSize() > math.MaxUint16:
		return nil, invalid("KV of %d bits in groups of %d", m.Kv.Bits, m.Kv.GroupSize)
	case m.AnswerStart < 0 || m.AnswerStart > MaxPositions:
		return nil, invalid("answer from position %d", m.AnswerStart)
	case m.Pooling < 0 || m.Pooling > pb.Pooling(frame.PoolingFirst):
		return nil, invalid("pooling %d", m.Pooling)
	case !(m.Weight >= 0 && m.Weight <= 1000):
		return nil, invalid("weight %v", m.Weight)
	}
	if err := checkIDs(m.History); err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	spec, err := SamplingFromProto(m.Sampling)
	if err != nil {
		return nil, err
	}
	pictures, err := picturesFromProto(m.Pictures)
	if err != nil {
		return nil, err
	}
	return &frame.Open{
		Pictures: pictures,
		Slot:     frame.Slot(m.Slot), Attempt: m.Attempt, Session: m.Session, PrefixSalt: m.PrefixSalt,
		KV:       frame.KVClass{Bits: uint8(m.GetKv().GetBits()), GroupSize: uint16(m.GetKv().GetGroupSize()), Progressive: m.GetKv().GetProgressive()},
		Sampling: spec, History: m.History, Grammar: m.Grammar, Adapter: m.Adapter,
		DeadlineMS: m.DeadlineMs, Traceparent: m.Traceparent, Weight: m.Weight, AnswerStart: m.AnswerStart,
		Pooling: frame.Pooling(m.Pooling),
	}, nil
}

func picturesToProto(pictures []frame.Picture) (out []*pb.PictureRows) {
	for _, p := range pictures {
		out = append(out, &pb.PictureRows{Start: p.Start, Count: p.Count, Hash: p.Hash[:]})
	}
	return out
}

func picturesFromProto(ms []*pb.PictureRows) (out []frame.Picture, err error) {
	if len(ms) > frame.MaxPictures {
		return nil, invalid("%d pictures", len(ms))
	}
	for i, m := range ms {
		if len(m.GetHash()) != len(frame.Picture{}.Hash) {
			return nil, invalid("picture %d has an identity of %d bytes", i, len(m.GetHash()))
		}
		out = append(out, frame.Picture{Start: m.GetStart(), Count: m.GetCount(), Hash: [32]byte(m.GetHash())})
	}
	if err := frame.CheckPictures(out, MaxPositions); err != nil {
		return nil, invalid("%v", err)
	}
	return out, nil
}

// SamplingToProto converts sampling parameters. The slices of s are shared.
func SamplingToProto(s sample.Spec) *pb.Sampling {
	m := &pb.Sampling{
		Temperature: s.Temperature, TopK: s.TopK, TopP: s.TopP, MinP: s.MinP, Seed: s.Seed, Choice: s.Choice,
		RepetitionPenalty: s.RepetitionPenalty, PresencePenalty: s.PresencePenalty,
		FrequencyPenalty: s.FrequencyPenalty, PenaltyWindow: s.PenaltyWindow,
		Logprobs: s.LogProbs, TopLogprobs: s.TopLogProbs,
		StopIds: s.Stop, IgnoreEos: s.IgnoreEOS, MaxTokens: s.MaxTokens,
	}
	for _, b := range s.Bias {
		m.Bias = append(m.Bias, &pb.LogitBias{Id: b.ID, Value: b.Value})
	}
	return m
}

// SamplingFromProto converts sampling parameters; nil is greedy. Fields out of
// range are a *sample.FieldError.
func SamplingFromProto(m *pb.Sampling) (sample.Spec, error) {
	if m == nil {
		return sample.Spec{}, nil
	}
	if len(m.Bias) > MaxBias {
		return sample.Spec{}, invalid("%d logit biases", len(m.Bias))
	}
	s := sample.Spec{
		Temperature: m.Temperature, TopK: m.TopK, TopP: m.TopP, MinP: m.MinP, Seed: m.Seed, Choice: m.Choice,
		RepetitionPenalty: m.RepetitionPenalty, PresencePenalty: m.PresencePenalty,
		FrequencyPenalty: m.FrequencyPenalty, PenaltyWindow: m.PenaltyWindow,
		LogProbs: m.Logprobs, TopLogProbs: m.TopLogprobs,
		Stop: m.StopIds, IgnoreEOS: m.IgnoreEos, MaxTokens: m.MaxTokens,
	}
	for _, b := range m.Bias {
		s.Bias = append(s.Bias, sample.Bias{ID: b.GetId(), Value: b.GetValue()})
	}
	return s, s.Validate()
}

// ResultFromProto converts and checks the result of a step.
func ResultFromProto(m *pb.StepResult) (*frame.Result, error) {
	if m == nil {
		return nil, invalid("no result")
	}
	if len(m.Sampled) > frame.MaxSpans+frame.MaxOps || len(m.Timings) > MaxStages {
		return nil, invalid("result of %d sessions, %d timings", len(m.Sampled), len(m.Timings))
	}
	r := &frame.Result{Epoch: m.PlanEpoch, Pipeline: m.Pipeline, Step: m.Step, Timings: timingsFromProto(m.Timings)}
	for i, s := range m.Sampled {
		out, err := sampledFromProto(s)
		if err != nil {
			return nil, fmt.Errorf("session %d of the result: %w", i, err)
		}
		r.Sampled = append(r.Sampled, out)
	}
	return r, nil
}

func sampledFromProto(s *pb.Sampled) (frame.Sampled, error) {
	if err := checkSlotLen(s.GetSlot(), s.GetPosition()); err != nil {
		return frame.Sampled{}, err
	}
	if s.Finish < 0 || s.Finish > pb.Finish(frame.FinishLength) {
		return frame.Sampled{}, invalid("finish %d", s.Finish)
	}
	if err := checkIDs(s.Ids); err != nil {
		return frame.Sampled{}, err
	}
	if n := len(s.Logprobs); n != 0 && n != len(s.Ids) {
		return frame.Sampled{}, invalid("%d log-probabilities for %d ids", n, len(s.Ids))
	}
	out := frame.Sampled{
		Slot: frame.Slot(s.Slot), Attempt: s.Attempt, Position: s.Position, IDs: s.Ids,
		Logits: s.Logits, Finish: frame.Finish(s.Finish), Err: s.Error, Pooled: s.Pooled,
	}
	for _, lp := range s.Logprobs {
		out.LogProbs = append(out.LogProbs, logProbFromProto(lp))
	}
	return out, nil
}

func logProbToProto(lp frame.LogProb) *pb.LogProb {
	m := &pb.LogProb{Logprob: lp.LogProb}
	for _, t := range lp.Top {
		m.Top = append(m.Top, &pb.TopLogProb{Id: t.ID, Logprob: t.LogProb})
	}
	return m
}

func logProbFromProto(m *pb.LogProb) frame.LogProb {
	lp := frame.LogProb{LogProb: m.GetLogprob()}
	for _, t := range m.GetTop() {
		lp.Top = append(lp.Top, sample.TopLogProb{ID: t.GetId(), LogProb: t.GetLogprob()})
	}
	return lp
}

func timingsFromProto(ms []*pb.StageTiming) []frame.Timing {
	out := make([]frame.Timing, len(ms))
	for i, m := range ms {
		out[i] = frame.Timing{Stage: m.GetStage(), ComputeNS: m.GetComputeNs(), WaitNS: m.GetWaitNs(), Rows: m.GetRows()}
	}
	return out
}
