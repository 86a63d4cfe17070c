// Package wire is the edge between the step log's nouns (pkg/frame) and gRPC:
// the frame codec, conversions to and from protobuf with every limit checked,
// and the settings of node to node connections.
package wire

import (
	"encoding/binary"
	"fmt"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/shoal-llm/shoal/pkg/frame"
)

// CodecName is the gRPC content subtype of node to node streams.
const CodecName = "shoal"

// Push is the message of a Push stream: a frame with its activation rows.
//
// On the wire it is the length of the header in four little-endian bytes, the
// header (a protobuf PushRequest), and the rows as they lie in memory.
type Push struct {
	Frame *frame.Frame

	received *received  // holds Frame of a received message
	rows     mem.Buffer // holds Frame.Rows of a received message
}

// Release gives the memory of a received frame back, which must not be used after
// it: not the frame, its spans and their tokens, its timings and its rows. Its
// operations stay. It may be called more than once, and does nothing to a frame
// that was not received.
func (p *Push) Release() {
	if p.received == nil {
		return
	}
	p.rows.Free()
	p.received.frame.Ops, p.received.frame.Rows = nil, nil
	receivedFrames.Put(p.received)
	p.Frame, p.received, p.rows = nil, nil, nil
}

// NewCodec returns the codec of node to node streams. It encodes *Push as
// described there and *Said and every other message as protobuf.
func NewCodec() encoding.CodecV2 { return codec{} }

type codec struct{}

func (codec) Name() string { return CodecName }

func (codec) Marshal(v any) (mem.BufferSlice, error) {
	var b mem.Buffer
	var err error
	switch m := v.(type) {
	case *Push:
		return marshalPush(m)
	case *Said:
		b, err = marshalSaid(m)
	case proto.Message:
		b, err = marshalInto(m, 0)
	default:
		err = fmt.Errorf("encode %T: not a protobuf message", v)
	}
	if err != nil {
		return nil, err
	}
	return mem.BufferSlice{b}, nil
}

func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	buf := data.MaterializeToBuffer(mem.DefaultBufferPool())
	if p, ok := v.(*Push); ok {
		return unmarshalPush(buf, p)
	}
	defer buf.Free()
	m, ok := v.(proto.Message)
	if !ok {
		return fmt.Errorf("decode %T: not a protobuf message", v)
	}
	return proto.Unmarshal(buf.ReadOnlyData(), m)
}

// marshalInto encodes m behind room bytes of a pooled buffer.
func marshalInto(m proto.Message, room int) (mem.Buffer, error) {
	pool := mem.DefaultBufferPool()
	size := proto.Size(m)
	b := pool.Get(room + size)
	out, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend((*b)[:room], m)
	if err != nil {
		pool.Put(b)
		return nil, fmt.Errorf("encode %s: %w", m.ProtoReflect().Descriptor().Name(), err)
	}
	*b = out
	return mem.NewBuffer(b, pool), nil
}

func marshalPush(p *Push) (mem.BufferSlice, error) {
	const room = 4
	head, err := marshalHeader(p.Frame, room)
	if err != nil {
		return nil, err
	}
	binary.LittleEndian.PutUint32(head.ReadOnlyData(), uint32(head.Len()-room))
	if len(p.Frame.Rows) == 0 {
		return mem.BufferSlice{head}, nil
	}
	// gRPC may hold the bytes after SendMsg has returned: they need a buffer
	// of their own, from the pool.
	return mem.BufferSlice{head, mem.Copy(p.Frame.Rows, mem.DefaultBufferPool())}, nil
}

func unmarshalPush(buf mem.Buffer, p *Push) error {
	r := receivedFrames.Get().(*received)
	rows, err := decodeFrame(r, buf.ReadOnlyData())
	if err != nil {
		receivedFrames.Put(r)
		buf.Free()
		return err
	}
	r.frame.Rows = rows
	p.Frame, p.received, p.rows = &r.frame, r, buf
	return nil
}

// DecodeFrame decodes a frame in the frame codec, into memory of its own. The
// rows alias data.
func DecodeFrame(data []byte) (*frame.Frame, []byte, error) {
	r := new(received)
	rows, err := decodeFrame(r, data)
	if err != nil {
		return nil, nil, err
	}
	return &r.frame, rows, nil
}

func decodeFrame(r *received, data []byte) (rows []byte, err error) {
	if len(data) < 4 {
		return nil, invalid("frame of %d bytes", len(data))
	}
	n := uint64(binary.LittleEndian.Uint32(data))
	if n > uint64(len(data)-4) {
		return nil, invalid("frame header of %d bytes in a message of %d", n, len(data))
	}
	if err := r.decode(data[4 : 4+n]); err != nil {
		return nil, err
	}
	rows = data[4+n:]
	if r.frame.DType == frame.DTypeNone && len(rows) != 0 {
		return nil, invalid("%d bytes of rows in a frame without rows", len(rows))
	}
	return rows, nil
}

// EncodeFrame encodes a frame in the frame codec, into memory of its own.
func EncodeFrame(f *frame.Frame) ([]byte, error) {
	s, err := marshalPush(&Push{Frame: f})
	if err != nil {
		return nil, err
	}
	defer s.Free()
	return s.Materialize(), nil
}
