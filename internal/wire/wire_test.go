package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/mem"

	"github.com/shoal-llm/shoal/pkg/frame"
	"github.com/shoal-llm/shoal/pkg/sample"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

var update = flag.Bool("update", false, "rewrite the golden frame of this protocol version")

// full is a frame that uses every field.
func full() *frame.Frame {
	return &frame.Frame{
		Epoch: 257, Pipeline: 1, Step: 42,
		Ops: []frame.Op{
			{Open: &frame.Open{
				Slot: 3, Attempt: 9, Session: "gen-1", PrefixSalt: []byte("tenant"),
				KV: frame.KVClass{Bits: 4, GroupSize: 64, Progressive: true},
				Sampling: sample.Spec{
					Temperature: 0.7, TopK: 40, TopP: 0.95, MinP: 0.05, Seed: 7, Choice: 1,
					RepetitionPenalty: 1.1, PresencePenalty: 0.5, FrequencyPenalty: 0.25, PenaltyWindow: 64,
					Bias: []sample.Bias{{ID: 5, Value: -1}}, LogProbs: true, TopLogProbs: 3,
					Stop: []int32{2, 0}, IgnoreEOS: true, MaxTokens: 100,
				},
				History: []int32{1, 2, 3}, Grammar: []byte{1}, Adapter: "a", DeadlineMS: 1, Traceparent: "00-", Weight: 2, AnswerStart: 30,
			}},
			{Adopt: &frame.Adopt{Slot: 3, Prefix: [32]byte{1, 2}, Tokens: 64}},
			{Publish: &frame.Publish{Slot: 3, Tokens: 128}},
			{Truncate: &frame.Truncate{Slot: 3, Len: 100}},
			{Close: &frame.Close{Slot: 4}},
			{Evict: &frame.Evict{Prefix: [32]byte{9}}},
		},
		Spans: []frame.Span{
			{Slot: 3, Attempt: 9, Start: 64, Tokens: []int32{10, 11}, Output: frame.OutputSample, Drafted: 1},
			{Slot: 5, Attempt: 2, Start: 0, Tokens: []int32{12}, Output: frame.OutputNone},
		},
		DType: frame.DTypeF32, Rows: []byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12},
		Timings: []frame.Timing{{Stage: 0, ComputeNS: 1000, WaitNS: 10, Rows: 3}},
	}
}

func TestFrameRoundTrip(t *testing.T) {
	for name, want := range map[string]*frame.Frame{
		"full":  full(),
		"empty": {Epoch: 1, Step: 1},
	} {
		data, err := EncodeFrame(want)
		if err != nil {
			t.Fatal(err)
		}
		got, rows, err := DecodeFrame(data)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if len(rows) > 0 {
			got.Rows = rows
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: frame changed on the wire (-sent +received):\n%s", name, diff)
		}
	}
}

// TestGoldenFrame decodes the bytes that earlier builds of this protocol
// version wrote.
func TestGoldenFrame(t *testing.T) {
	path := filepath.Join("testdata", "frame.v1.bin")
	if *update {
		data, err := EncodeFrame(full())
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	got, rows, err := DecodeFrame(data)
	if err != nil {
		t.Fatal(err)
	}
	got.Rows = rows
	if diff := cmp.Diff(full(), got); diff != "" {
		t.Errorf("golden frame reads differently (-want +got):\n%s", diff)
	}
}

func TestCodecCarriesPushAndProtobuf(t *testing.T) {
	c := NewCodec()
	data, err := c.Marshal(&Push{Frame: full()})
	if err != nil {
		t.Fatal(err)
	}
	var got Push
	if err := c.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(full(), got.Frame); diff != "" {
		t.Errorf("push changed (-sent +received):\n%s", diff)
	}
	got.Release()
	got.Release()
	if got.Frame != nil {
		t.Error("the frame can still be read after Release")
	}

	data, err = c.Marshal(&pb.BeatRequest{Sequence: 5})
	if err != nil {
		t.Fatal(err)
	}
	var beat pb.BeatRequest
	if err := c.Unmarshal(data, &beat); err != nil || beat.Sequence != 5 {
		t.Errorf("beat = %v, %v", &beat, err)
	}
	if _, err := c.Marshal(5); err == nil {
		t.Error("a number was encoded")
	}
	if err := c.Unmarshal(mem.BufferSlice{}, new(int)); err == nil {
		t.Error("a number was decoded")
	}
}

func TestResultRoundTrip(t *testing.T) {
	full := &frame.Result{
		Epoch: 1, Pipeline: 2, Step: 3,
		Sampled: []frame.Sampled{
			{Slot: 1, Attempt: 2, Position: 3, IDs: []int32{4, 5}, LogProbs: []frame.LogProb{
				{LogProb: -1, Top: []sample.TopLogProb{{ID: 1, LogProb: -0.5}}}, {LogProb: -2}}, Finish: frame.FinishStop},
			{Slot: 2, Attempt: 1, Position: 9, Err: "numeric_error"},
			{Slot: 4, Attempt: 1, Position: 9, Logits: []float32{1, 2}},
		},
		Timings: []frame.Timing{{Stage: 1, ComputeNS: 5, Rows: 2}},
	}
	small := &frame.Result{Step: 4, Sampled: []frame.Sampled{{Slot: 7, IDs: []int32{1}}}, Timings: []frame.Timing{{Stage: 2}}}
	c := NewCodec()
	for i, want := range []*frame.Result{full, small, full} { // memory is used again
		data, err := c.Marshal(&Said{want})
		if err != nil {
			t.Fatal(err)
		}
		var m pb.ResultsResponse
		if err := c.Unmarshal(data, &m); err != nil {
			t.Fatal(err)
		}
		got, err := ResultFromProto(m.Result)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("result %d changed (-sent +received):\n%s", i, diff)
		}
	}
}

// TestRefusals sends what a faulty or hostile peer could send.
func TestRefusals(t *testing.T) {
	bad := map[string]func(*pb.StepFrame){
		"slot":              func(f *pb.StepFrame) { f.Spans[0].Slot = frame.MaxSlots },
		"no tokens":         func(f *pb.StepFrame) { f.Spans[0].Tokens = nil },
		"negative start":    func(f *pb.StepFrame) { f.Spans[0].Start = -1 },
		"far start":         func(f *pb.StepFrame) { f.Spans[0].Start = MaxPositions },
		"token id":          func(f *pb.StepFrame) { f.Spans[0].Tokens = []int32{-1} },
		"output":            func(f *pb.StepFrame) { f.Spans[0].Output = 99 },
		"drafted":           func(f *pb.StepFrame) { f.Spans[0].Drafted = 2 },
		"element type":      func(f *pb.StepFrame) { f.Dtype = 99 },
		"rows without type": func(f *pb.StepFrame) { f.Dtype = 0 },
		"rows":              func(f *pb.StepFrame) { f.Spans[0].Tokens = make([]int32, frame.MaxRows+1) },
		"spans":             func(f *pb.StepFrame) { f.Spans = make([]*pb.Span, frame.MaxSpans+1) },
		"unknown operation": func(f *pb.StepFrame) { f.Ops = []*pb.SessionOp{{}} },
		"prefix identity":   func(f *pb.StepFrame) { f.Ops[1].GetAdopt().Prefix = []byte{1} },
		"operation slot":    func(f *pb.StepFrame) { f.Ops[4].GetClose().Slot = 1 << 30 },
		"length":            func(f *pb.StepFrame) { f.Ops[3].GetTruncate().Len = -1 },
		"sampling":          func(f *pb.StepFrame) { f.Ops[0].GetOpen().Sampling.Temperature = -1 },
		"history":           func(f *pb.StepFrame) { f.Ops[0].GetOpen().History = []int32{1 << 30} },
		"weight":            func(f *pb.StepFrame) { f.Ops[0].GetOpen().Weight = -1 },
	}
	for name, spoil := range bad {
		h := new(header)
		h.fill(full())
		f := &h.step
		spoil(f)
		head, err := marshalInto(&pb.PushRequest{Frame: f}, 4)
		if err != nil {
			t.Fatal(err)
		}
		data := append([]byte(nil), head.ReadOnlyData()...)
		binary.LittleEndian.PutUint32(data, uint32(len(data)-4))
		data = append(data, 1, 2, 3, 4)
		_, _, err = DecodeFrame(data)
		var field *sample.FieldError
		if !errors.Is(err, ErrInvalid) && !errors.As(err, &field) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	for _, data := range [][]byte{nil, {1, 2, 3}, {255, 255, 255, 255}, {2, 0, 0, 0, 255, 255}} {
		if _, _, err := DecodeFrame(data); !errors.Is(err, ErrInvalid) {
			t.Errorf("%v: error %v", data, err)
		}
	}
}

func FuzzDecodeFrame(f *testing.F) {
	for _, fr := range []*frame.Frame{full(), {Epoch: 1}} {
		data, err := EncodeFrame(fr)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte{255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, data []byte) {
		fr, rows, err := DecodeFrame(data)
		if err != nil {
			return
		}
		if fr.NumRows() > frame.MaxRows || len(rows) > len(data) {
			t.Fatalf("%d rows, %d bytes from %d", fr.NumRows(), len(rows), len(data))
		}
		agree(t, data[4:len(data)-len(rows)], fr)
		fr.Rows = rows
		again, err := EncodeFrame(fr)
		if err != nil {
			t.Fatal(err)
		}
		back, rows2, err := DecodeFrame(again)
		if err != nil {
			t.Fatalf("what was decoded does not decode again: %v", err)
		}
		if !bytes.Equal(rows, rows2) || back.Step != fr.Step || len(back.Spans) != len(fr.Spans) || len(back.Ops) != len(fr.Ops) {
			t.Fatal("a frame changed when sent on")
		}
	})
}

// TestPicturesTravel: the pictures of a session come out as they went in, and those
// that have no place are refused.
func TestPicturesTravel(t *testing.T) {
	open := &frame.Open{Attempt: 1, Pictures: []frame.Picture{{Start: 1, Count: 16, Hash: [32]byte{7}}, {Start: 17, Count: 3, Hash: [32]byte{8, 31: 9}}}}
	got, err := OpenFromProto(OpenToProto(open))
	if err != nil || !reflect.DeepEqual(got.Pictures, open.Pictures) {
		t.Fatalf("%+v, %v", got, err)
	}
	for name, pictures := range map[string][]frame.Picture{
		"over another":  {{Start: 0, Count: 2}, {Start: 1, Count: 2}},
		"before itself": {{Start: 5, Count: 2}, {Start: 1, Count: 2}},
		"empty":         {{Start: 5, Count: 0}},
		"negative":      {{Start: -1, Count: 3}},
		"without end":   {{Start: 1 << 30, Count: 1 << 30}},
		"too many":      make([]frame.Picture, frame.MaxPictures+1),
	} {
		if _, err := OpenFromProto(OpenToProto(&frame.Open{Pictures: pictures})); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	m := OpenToProto(open)
	m.Pictures[0].Hash = m.Pictures[0].Hash[:31]
	if _, err := OpenFromProto(m); !errors.Is(err, ErrInvalid) {
		t.Errorf("a short hash: %v", err)
	}
}
