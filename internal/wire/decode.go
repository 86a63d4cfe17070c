package wire

import (
	"fmt"
	"math"
	"sync"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/shoal-llm/shoal/pkg/frame"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// The header of a frame is decoded by hand, field by field, into memory that is
// used again: by generated code each session of a step costs three allocations.
// The messages are those of frame.proto; fields that this version does not know
// are skipped, as generated code does.

// received is a decoded frame with the memory of its lists.
type received struct {
	frame   frame.Frame
	tokens  []int32 // of all spans, one after another
	spans   []frame.Span
	timings []frame.Timing
}

// receivedFrames keeps the memory of released frames.
var receivedFrames = sync.Pool{New: func() any { return new(received) }}

// decode reads a PushRequest. Nothing of r may be used when it fails.
func (r *received) decode(head []byte) error {
	r.frame = frame.Frame{}
	r.tokens, r.spans, r.timings = r.tokens[:0], r.spans[:0], r.timings[:0]
	found := false
	err := fields(head, func(f field) error {
		if f.number != 1 || f.kind != protowire.BytesType {
			return nil
		}
		found = true
		return fields(f.bytes, r.step)
	})
	if err != nil {
		return err
	}
	if !found {
		return invalid("no frame")
	}
	r.frame.Spans, r.frame.Timings = r.spans, r.timings
	return nil
}

// step takes a field of a StepFrame.
func (r *received) step(f field) error {
	switch at := &r.frame; f.key() {
	case number(1):
		at.Epoch = f.value
	case number(2):
		at.Pipeline = uint32(f.value)
	case number(3):
		at.Step = f.value
	case nested(4):
		return r.op(f.bytes)
	case nested(5):
		if err := r.span(f.bytes); err != nil {
			return fmt.Errorf("span %d: %w", len(r.spans), err)
		}
	case number(6):
		if f.value > uint64(frame.DTypeF32) {
			return invalid("element type %d", int32(f.value))
		}
		at.DType = frame.DType(f.value)
	case nested(7):
		return r.timing(f.bytes)
	}
	return nil
}

// op takes a SessionOp. They are few, and kept: generated code reads them.
func (r *received) op(b []byte) error {
	n := len(r.frame.Ops)
	if n == frame.MaxOps {
		return invalid("more than %d operations", n)
	}
	var m pb.SessionOp
	if err := proto.Unmarshal(b, &m); err != nil {
		return invalid("operation %d: %v", n, err)
	}
	o, err := opFromProto(&m)
	if err != nil {
		return fmt.Errorf("operation %d: %w", n, err)
	}
	r.frame.Ops = append(r.frame.Ops, o)
	return nil
}

// rawSpan is a span as it is on the wire.
type rawSpan struct {
	slot, attempt, drafted uint32
	start, output          int32
	tokens                 []int32
}

// span takes a Span.
func (r *received) span(b []byte) error {
	if len(r.spans) == frame.MaxSpans {
		return invalid("more than %d", frame.MaxSpans)
	}
	var s rawSpan
	from := len(r.tokens)
	err := fields(b, func(f field) error {
		switch f.key() {
		case number(1):
			s.slot = uint32(f.value)
		case number(2):
			s.attempt = uint32(f.value)
		case number(3):
			s.start = int32(f.value)
		case number(4):
			return r.token(f.value)
		case nested(4):
			return varints(f.bytes, r.token)
		case number(5):
			s.output = int32(f.value)
		case number(6):
			s.drafted = uint32(f.value)
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.tokens = r.tokens[from:len(r.tokens):len(r.tokens)]
	if err := s.check(); err != nil {
		return err
	}
	r.spans = append(r.spans, frame.Span{
		Slot: frame.Slot(s.slot), Attempt: s.attempt, Start: s.start, Tokens: s.tokens,
		Output: frame.Output(s.output), Drafted: uint8(s.drafted),
	})
	return nil
}

func (r *received) token(v uint64) error {
	if len(r.tokens) == frame.MaxRows {
		return invalid("more than %d rows", frame.MaxRows)
	}
	r.tokens = append(r.tokens, int32(v))
	return nil
}

func (s *rawSpan) check() error {
	switch {
	case s.slot >= frame.MaxSlots:
		return invalid("slot %d", s.slot)
	case len(s.tokens) == 0:
		return invalid("no tokens")
	case s.start < 0 || int64(s.start)+int64(len(s.tokens)) > MaxPositions:
		return invalid("positions from %d", s.start)
	case s.output < 0 || s.output > int32(frame.OutputPooled):
		return invalid("output %d", s.output)
	case s.drafted >= uint32(len(s.tokens)) && s.drafted != 0 || s.drafted > math.MaxUint8:
		return invalid("%d drafted of %d tokens", s.drafted, len(s.tokens))
	}
	return checkIDs(s.tokens)
}

// timing takes a StageTiming.
func (r *received) timing(b []byte) error {
	if len(r.timings) == MaxStages {
		return invalid("more than %d timings", MaxStages)
	}
	var t frame.Timing
	err := fields(b, func(f field) error {
		switch f.key() {
		case number(1):
			t.Stage = uint32(f.value)
		case number(2):
			t.ComputeNS = f.value
		case number(3):
			t.WaitNS = f.value
		case number(4):
			t.Rows = uint32(f.value)
		}
		return nil
	})
	r.timings = append(r.timings, t)
	return err
}

// field is a field of a message: a number or bytes.
type field struct {
	number protowire.Number
	kind   protowire.Type
	value  uint64
	bytes  []byte
}

// key is a field's number and kind: a field of another kind than the message's
// is one that is not known.
type key uint64

func (f field) key() key { return key(protowire.EncodeTag(f.number, f.kind)) }

func number(n protowire.Number) key { return key(protowire.EncodeTag(n, protowire.VarintType)) }

func nested(n protowire.Number) key { return key(protowire.EncodeTag(n, protowire.BytesType)) }

// fields calls take for each field of a message, in order.
func fields(b []byte, take func(field) error) error {
	for len(b) > 0 {
		var f field
		var n int
		if f.number, f.kind, n = protowire.ConsumeTag(b); n < 0 {
			return invalid("frame header: %v", protowire.ParseError(n))
		}
		if f.number > protowire.MaxValidNumber {
			return invalid("frame header: field %d", f.number)
		}
		b = b[n:]
		switch f.kind {
		case protowire.VarintType:
			f.value, n = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			f.bytes, n = protowire.ConsumeBytes(b)
		default:
			n = protowire.ConsumeFieldValue(f.number, f.kind, b)
		}
		if n < 0 {
			return invalid("frame header: %v", protowire.ParseError(n))
		}
		if err := take(f); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// varints calls take for each number of a packed list.
func varints(b []byte, take func(uint64) error) error {
	for len(b) > 0 {
		v, n := protowire.ConsumeVarint(b)
		if n < 0 {
			return invalid("frame header: %v", protowire.ParseError(n))
		}
		if err := take(v); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}
