package engine_test

import (
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"testing"

	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/pkg/engine"
	"github.com/shoal-llm/shoal/pkg/frame"
	"github.com/shoal-llm/shoal/pkg/model"
)

// embeddings returns the rows of ids as a picture's rows travel.
func embeddings(t *testing.T, ids ...int32) (out []byte) {
	t.Helper()
	m, err := library.Library{}.Open("tiny")
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	table, _ := m.Source.Tensor("token_embd.weight")
	row, bytes := make([]float32, table.Cols), len(table.Data)/table.Rows
	for _, id := range ids {
		table.Format.Decode(row, table.Data[int(id)*bytes:][:bytes])
		for _, v := range row {
			out = binary.LittleEndian.AppendUint32(out, math.Float32bits(v))
		}
	}
	return out
}

// firstStage runs frames on the first layers and returns the rows of the last frame.
func firstStage(t *testing.T, frames ...*frame.Frame) []byte {
	t.Helper()
	r := newRig(t, engine.Config{Part: model.Part{First: 0, End: 2, Embed: true}})
	var rows []byte
	for i, f := range frames {
		f.Epoch, f.Step = 1, uint64(i+1)
		if err := r.stage.Start(uint64(i), f); err != nil {
			t.Fatal(err)
		}
		out, err := r.stage.Finish(<-r.be.Completions())
		if err != nil {
			t.Fatal(err)
		}
		rows = slices.Clone(out.Frame.Rows)
	}
	return rows
}

// TestPictureRowsStandForEmbeddings: a picture whose rows are the embeddings of ids is
// to the layers what those ids are, in one piece or in several, beside other sessions,
// and in a slot that another picture has had.
func TestPictureRowsStandForEmbeddings(t *testing.T) {
	ids := []int32{5, 6, 7, 8, 9}
	masked := []int32{5, 0, 0, 0, 9} // what is behind the placeholders is not looked at
	shown := []frame.Picture{{Start: 1, Count: 3}}
	open := func(slot frame.Slot, attempt uint32, pictures []frame.Picture) frame.Op {
		return frame.Op{Open: &frame.Open{Slot: slot, Attempt: attempt, Pictures: pictures}}
	}
	want := firstStage(t, &frame.Frame{Ops: []frame.Op{open(0, 1, nil)}, Spans: []frame.Span{{Attempt: 1, Tokens: ids}}})
	whole := firstStage(t, &frame.Frame{
		Ops: []frame.Op{open(0, 1, shown)}, Spans: []frame.Span{{Attempt: 1, Tokens: masked}},
		DType: frame.DTypeF32, Rows: embeddings(t, 6, 7, 8),
	})
	if !slices.Equal(whole, want) {
		t.Error("in one piece: other rows")
	}
	width := len(want) / len(ids)
	pieces := firstStage(t,
		&frame.Frame{Ops: []frame.Op{open(0, 1, shown)}, Spans: []frame.Span{{Attempt: 1, Tokens: masked[:3]}}, DType: frame.DTypeF32, Rows: embeddings(t, 6, 7)},
		&frame.Frame{Spans: []frame.Span{{Attempt: 1, Start: 3, Tokens: masked[3:]}}, DType: frame.DTypeF32, Rows: embeddings(t, 8)})
	if !slices.Equal(pieces, want[3*width:]) {
		t.Error("in two pieces: other rows")
	}
	again := firstStage(t,
		&frame.Frame{Ops: []frame.Op{open(0, 1, []frame.Picture{{Start: 0, Count: 1}})}, Spans: []frame.Span{{Attempt: 1, Tokens: []int32{1}}}, DType: frame.DTypeF32, Rows: embeddings(t, 3)},
		&frame.Frame{
			Ops:   []frame.Op{{Close: &frame.Close{}}, open(0, 2, nil), open(1, 3, shown)},
			Spans: []frame.Span{{Attempt: 2, Tokens: ids}, {Slot: 1, Attempt: 3, Tokens: masked}}, DType: frame.DTypeF32, Rows: embeddings(t, 6, 7, 8),
		})
	if !slices.Equal(again, slices.Concat(want, want)) {
		t.Error("beside another session: other rows")
	}
}

// TestPictureRowsAreChecked: the first stage takes the rows of pictures, all and no
// others.
func TestPictureRowsAreChecked(t *testing.T) {
	r := newRig(t, engine.Config{Part: model.Part{First: 0, End: 2, Embed: true}})
	rows := embeddings(t, 6, 7)
	for name, c := range map[string]struct {
		pictures []frame.Picture
		rows     []byte
	}{
		"none":          {[]frame.Picture{{Start: 0, Count: 2}}, nil},
		"too few":       {[]frame.Picture{{Start: 0, Count: 2}}, rows[:len(rows)/2]},
		"half a row":    {[]frame.Picture{{Start: 0, Count: 1}}, rows[:len(rows)/4]},
		"too many":      {[]frame.Picture{{Start: 0, Count: 1}}, rows},
		"of no picture": {nil, rows},
		"of a later":    {[]frame.Picture{{Start: 5, Count: 2}}, rows},
	} {
		f := &frame.Frame{Epoch: 1, Step: 1, Ops: []frame.Op{{Open: &frame.Open{Attempt: 1, Pictures: c.pictures}}},
			Spans: []frame.Span{{Attempt: 1, Tokens: []int32{1, 2, 3}}}, DType: frame.DTypeF32, Rows: c.rows}
		if err := r.stage.Start(1, f); !errors.Is(err, engine.ErrBadFrame) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := r.stage.Next(); n != 1 {
		t.Errorf("step %d is next", n)
	}
}
