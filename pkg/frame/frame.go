// Package frame holds the nouns of the step log: the message of one step on one
// hop, and the result of a step.
//
// Frames of a pipeline form a fenced log: (epoch, pipeline, step) is totally
// ordered, everything that changes a session's state on a stage travels in it,
// and every stage applies it in the same order (architecture law 3).
package frame

import (
	"fmt"

	"github.com/shoal-llm/shoal/pkg/sample"
)

// Limits of a frame, checked by every receiver before it allocates.
const (
	MaxSpans    = 512
	MaxOps      = 1024
	MaxRows     = 2048
	MaxSlots    = 1024
	MaxPictures = 64 // of a session
	MaxPending  = 8  // frames a stage holds that it has not computed yet
)

// Slot is the small number of a session on a pipeline. A slot is free again
// after its Close.
type Slot uint32

// Output says what a span wants from its last rows.
type Output uint8

const (
	OutputNone   Output = iota // nothing: a prefill chunk that is not the last
	OutputSample               // a token id
	OutputLogits               // the logits themselves, for tests and scoring
	OutputPooled               // the session's embedding: these are its last rows
)

// DType is the element type of activation rows on the wire.
type DType uint8

const (
	DTypeNone DType = iota // the frame carries no rows: it goes to the first stage, without rows of pictures
	DTypeF32
)

// Frame is the message of one step on one hop.
type Frame struct {
	Epoch    uint64
	Pipeline uint32
	Step     uint64 // grows by one from frame to frame
	Ops      []Op   // applied in order, before the spans
	Spans    []Span
	DType    DType
	Rows     []byte // rows × hidden × element, little-endian: of all spans, and to the first stage of pictures alone
	Timings  []Timing
}

// NumRows returns the number of rows of all spans.
func (f *Frame) NumRows() int {
	n := 0
	for i := range f.Spans {
		n += len(f.Spans[i].Tokens)
	}
	return n
}

// Span is a run of consecutive positions of one session.
type Span struct {
	Slot    Slot
	Attempt uint32  // which opening of the slot it belongs to
	Start   int32   // position of the first row
	Tokens  []int32 // input ids, one per row; they ride to the last stage
	Output  Output  // wanted from the last row (and the drafted rows before it)
	Drafted uint8   // how many of the last tokens are guesses to be checked
}

// Op is one change of session state. Exactly one field is set.
type Op struct {
	Open     *Open
	Adopt    *Adopt
	Publish  *Publish
	Truncate *Truncate
	Close    *Close
	Evict    *Evict
}

// Open begins a session in a free slot.
type Open struct {
	Slot        Slot
	Attempt     uint32
	Session     string // the generation's id, for traces and reports
	PrefixSalt  []byte // separates tenants in the prefix cache
	KV          KVClass
	Sampling    sample.Spec
	History     []int32   // ids of adopted positions from 0 on: they ride in no span
	AnswerStart int32     // position of the answer's first id: MaxTokens and penalties count from there
	Grammar     []byte    // compiled grammar; empty is none
	Adapter     string    // low-rank adapter; empty is none
	DeadlineMS  int64     // Unix milliseconds; 0 is none
	Traceparent string    // W3C trace context
	Weight      float32   // share of the step budget; 0 is 1
	Pooling     Pooling   // an embedding is wanted, no answer
	Pictures    []Picture // in order of positions, none over another
}

// Picture says that positions of a session are rows of a picture. Their ids are a
// placeholder; the first stage is given the rows.
type Picture struct {
	Start, Count int32    // positions
	Hash         [32]byte // SHA-256 of the picture's bytes
}

// Overlap returns the positions of [start, start+count) that the picture holds; first
// is not below end where there are none.
func (p Picture) Overlap(start, count int32) (first, end int32) {
	return max(start, p.Start), min(start+count, p.Start+p.Count)
}

// AddRows gives a frame to the first stage the rows of a picture that a span of it
// takes: all holds those of the whole picture, of rowBytes each. Spans are served in
// order, and the pictures of one in order.
func (f *Frame) AddRows(p Picture, s *Span, all []byte, rowBytes int) {
	if first, end := p.Overlap(s.Start, int32(len(s.Tokens))); first < end {
		f.DType = DTypeF32
		f.Rows = append(f.Rows, all[int(first-p.Start)*rowBytes:int(end-p.Start)*rowBytes]...)
	}
}

// CheckPictures reports pictures that have no place among the first positions of a
// session.
func CheckPictures(pictures []Picture, positions int) error {
	if len(pictures) > MaxPictures {
		return fmt.Errorf("%d pictures, at most %d", len(pictures), MaxPictures)
	}
	at := int64(0)
	for i, p := range pictures {
		if int64(p.Start) < at || p.Count < 1 || int64(p.Start)+int64(p.Count) > int64(positions) {
			return fmt.Errorf("picture %d has positions [%d, %d) of %d, the one before ends at %d", i, p.Start, int64(p.Start)+int64(p.Count), positions, at)
		}
		at = int64(p.Start) + int64(p.Count)
	}
	return nil
}

// Pooling says how the hidden states of a session's rows, after the model's
// final norm, become one embedding of unit length.
type Pooling uint8

const (
	PoolingNone  Pooling = iota // the session generates
	PoolingMean                 // of all positions
	PoolingLast                 // of the last position
	PoolingFirst                // of the first position
)

// KVClass says how a session's keys and values are stored.
type KVClass struct {
	Bits        uint8 // 32, 16, 8, 4, 3 or 2; 0 is the device's own precision
	GroupSize   uint16
	Progressive bool
}

// Adopt makes the first Tokens positions of a fresh slot those of a published
// prefix. Tokens is a multiple of 64.
type Adopt struct {
	Slot   Slot
	Prefix [32]byte // identity of the prefix's last page
	Tokens int32
}

// Publish makes the slot's whole pages up to Tokens available to others.
type Publish struct {
	Slot   Slot
	Tokens int32
}

// Truncate forgets positions from Len on.
type Truncate struct {
	Slot Slot
	Len  int32
}

// Close ends a session and frees its pages.
type Close struct{ Slot Slot }

// Evict drops a published page chain that ends in Prefix.
type Evict struct{ Prefix [32]byte }

// Timing is what one stage took for a step.
type Timing struct {
	Stage     uint32
	ComputeNS uint64
	WaitNS    uint64 // between arrival and start
	Rows      uint32
}

// Result is what the last stage says of a step.
type Result struct {
	Epoch    uint64
	Pipeline uint32
	Step     uint64
	Sampled  []Sampled
	Timings  []Timing
}

// Sampled is the outcome of one span.
type Sampled struct {
	Slot     Slot
	Attempt  uint32
	Position int32     // the position that the first of IDs takes in its session
	IDs      []int32   // one, or more where drafts were accepted
	LogProbs []LogProb // one per id, when asked for
	Logits   []float32 // OutputLogits
	Pooled   []float32 // OutputPooled: the embedding
	Finish   Finish
	Err      string // why the session failed on this stage; empty is no failure
}

// LogProb is the log-probability of a sampled id and of its best alternatives.
type LogProb struct {
	LogProb float32
	Top     []sample.TopLogProb
}

// Finish says whether a sampled id ends its session.
type Finish uint8

const (
	FinishNone   Finish = iota
	FinishStop          // the id is one of the session's stop ids
	FinishLength        // the session has sampled MaxTokens ids
)
