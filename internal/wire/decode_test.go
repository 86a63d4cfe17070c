package wire

import (
	"encoding/binary"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/shoal-llm/shoal/pkg/frame"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// agree holds a header that was decoded by hand against generated code, besides
// operations, which generated code reads in both.
func agree(t *testing.T, head []byte, f *frame.Frame) {
	t.Helper()
	var want pb.PushRequest
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(head, &want); err != nil {
		t.Fatalf("generated code refuses a header that was decoded: %v", err)
	}
	var got header
	got.fill(f)
	if len(got.step.Ops) != len(want.Frame.Ops) {
		t.Errorf("%d operations, want %d", len(got.step.Ops), len(want.Frame.Ops))
	}
	got.step.Ops, want.Frame.Ops = nil, nil
	if diff := cmp.Diff(&want, &got.request, protocmp.Transform()); diff != "" {
		t.Errorf("decoded by generated code (-) and by hand (+):\n%s", diff)
	}
}

// unusual is a header as no Go program writes it, but as protobuf allows: in two
// parts, lists not packed, fields that nobody knows, known ones of other kinds,
// and the last of several values in force.
func unusual() []byte {
	number := func(b []byte, n protowire.Number, v uint64) []byte {
		return protowire.AppendVarint(protowire.AppendTag(b, n, protowire.VarintType), v)
	}
	nested := func(b []byte, n protowire.Number, v []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(b, n, protowire.BytesType), v)
	}
	span := number(nil, 1, 3)
	span = number(number(span, 4, 10), 4, 11)                                           // not packed
	span = nested(span, 4, protowire.AppendVarint(protowire.AppendVarint(nil, 12), 13)) // packed
	span = nested(span, 2, []byte("a number in the schema"))
	span = number(number(span, 6, 2), 6, 1)
	first := number(nil, 1, 200)
	first = nested(first, 5, span)
	first = protowire.AppendFixed64(protowire.AppendTag(first, 77, protowire.Fixed64Type), 5)
	second := number(number(nil, 1, 257), 3, 1<<63)
	second = protowire.AppendTag(second, 78, protowire.StartGroupType)
	second = protowire.AppendTag(number(second, 1, 1), 78, protowire.EndGroupType)
	second = nested(second, 7, number(number(nil, 4, 1<<40|9), 2, 1<<50))
	second = nested(second, 5, number(number(nil, 4, 7), 3, 64))
	return nested(nested(number(nil, 9, 9), 1, first), 1, second)
}

func TestDecodeAgreesWithGeneratedCode(t *testing.T) {
	var usual header
	usual.fill(full())
	encoded, err := proto.Marshal(&usual.request)
	if err != nil {
		t.Fatal(err)
	}
	for name, head := range map[string][]byte{"full": encoded, "unusual": unusual()} {
		data := append(binary.LittleEndian.AppendUint32(nil, uint32(len(head))), head...)
		f, _, err := DecodeFrame(data)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		agree(t, head, f)
	}
}

// TestReleasedMemoryIsUsedAgain: frames that follow each other through one
// receiver do not mix, whatever the one before held.
func TestReleasedMemoryIsUsedAgain(t *testing.T) {
	c := NewCodec()
	small := &frame.Frame{Epoch: 2, Step: 43, Spans: []frame.Span{{Slot: 1, Tokens: []int32{9}}}}
	var kept []frame.Op
	for i, want := range []*frame.Frame{full(), small, decodeStep(16), small, full()} {
		data, err := c.Marshal(&Push{Frame: want})
		if err != nil {
			t.Fatal(err)
		}
		var got Push
		if err := c.Unmarshal(data, &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got.Frame, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("frame %d changed (-sent +received):\n%s", i, diff)
		}
		kept = append(kept, got.Frame.Ops...)
		got.Release()
	}
	if want := append(full().Ops, full().Ops...); cmp.Diff(want, kept) != "" {
		t.Errorf("operations changed after Release (-want +got):\n%s", cmp.Diff(want, kept))
	}
}
