// Package compute holds the operations a model may use, and what it means to
// run them on a device.
//
// Operations are fused and model-level. A Pass records those of one batch;
// Submit hands it to the device and returns at once; the completion arrives on
// the backend's channel. Nothing here blocks, so the goroutine that owns the
// device can go on receiving frames while it computes.
//
// Every operation computes a row from that row, its session's pages and the
// weights alone, in one fixed order of reduction: batch, chunk and page layout
// never change a bit (architecture law 1).
package compute

import (
	"errors"
	"time"

	"github.com/shoal-llm/shoal/pkg/quant"
)

// PageTokens is the number of positions in a KV page.
const PageTokens = 64

// ErrMemory is wrapped by the errors of an arena, a cache or a buffer that do not fit
// the memory of the device beside what it holds.
var ErrMemory = errors.New("out of device memory")

// ErrLost is wrapped by the error of a completion, or of an arena's method, when
// the device is gone: nothing on it can be used any more, and its backend is good
// for Close alone.
var ErrLost = errors.New("the device is lost")

// Backend runs passes on one device. All methods are called by the one
// goroutine that owns the device, except Completions, whose channel anyone may
// read.
type Backend interface {
	// Info describes the device and its numerics.
	Info() Info
	// NewArena makes a holder of device objects.
	NewArena() Arena
	// Begin starts to record the pass of a batch. The batch must not change
	// until the pass has completed. At most MaxPasses may be unfinished.
	Begin(b *Batch) Pass
	// Completions delivers one Completion per submitted pass, in order.
	Completions() <-chan Completion
	// Used returns the bytes of device memory held by all arenas and by the
	// backend itself.
	Used() Memory
	// Close waits for submitted passes and frees everything.
	Close() error
}

// Arena holds the device objects of one user, a stage of a model for example:
// they are freed together. Its methods are called by the goroutine that owns the
// device.
type Arena interface {
	// Load takes a weight matrix. Data is read before Load returns and is not
	// kept. The error names what the device cannot hold or multiply.
	Load(m Matrix) (Weight, error)
	// LoadVector takes a vector of float32, for example a norm's gain.
	LoadVector(v []float32) (Vector, error)
	// NewCache makes the KV pages of a stage. All pages read as zero.
	NewCache(spec CacheSpec) (Cache, error)
	// NewBuffer makes an activation buffer of up to rows rows of cols float32.
	NewBuffer(rows, cols int) (Buffer, error)
	// Used returns the bytes that the arena holds.
	Used() Memory
	// Free frees all objects of the arena. No pass that uses them may be
	// unfinished, and neither they nor the arena may be used again.
	Free() error
}

// MaxPasses is the number of passes that may be submitted and not completed.
const MaxPasses = 4

// Pass records the operations of one batch. Operations run in the order they
// were recorded. Buffers hold one row per row of the batch unless said
// otherwise. The shapes must agree; a mismatch is a bug and panics.
type Pass interface {
	Variations
	// ClearPages makes pages read as zero, before anything else of the pass. Where
	// values step down they are places in the pool of halves.
	ClearPages(c Cache, pages []int32)
	// Write copies little-endian float32 rows, as they came off the wire, to dst.
	Write(dst Buffer, rows []byte)
	// Overwrite copies little-endian float32 rows to rows at[i] of dst, which are rows
	// of the batch, each at most once; the others stay as they are.
	Overwrite(dst Buffer, at []int32, rows []byte)
	// Embed writes row ids[i] of table to row i of dst.
	Embed(dst Buffer, table Weight, ids []int32)
	// NormLinear computes dst[i] = ws[i]·(rmsnorm(x, eps)∘gain). A row whose
	// sum of squares is not finite is marked in Completion.NotFinite.
	NormLinear(dst []Buffer, x Buffer, gain Vector, eps float32, ws []Weight)
	// RopeStore rotates q in place, rotates k, and stores k and v in the
	// cache at the positions of the batch.
	RopeStore(q, k, v Buffer, rope *Rope, c Cache, layer int)
	// Attend computes dst = attention of q over the pages of each row's
	// session, keys at positions up to the row's own.
	Attend(dst, q Buffer, c Cache, layer int, a Attention)
	// LinearAdd computes x += w·y.
	LinearAdd(x Buffer, w Weight, y Buffer)
	// NormGateUp computes dst = act(gate·n)∘(up·n) with n = rmsnorm(x, eps)∘gain.
	NormGateUp(dst, x Buffer, gain Vector, eps float32, gate, up Weight, act Activation)
	// Head computes row i of dst = w·(rmsnorm(x[rows[i]], eps)∘gain): logits.
	Head(dst, x Buffer, rows []int32, gain Vector, eps float32, w Weight)
	// Pick finds the largest value of each of the first rows rows of x. Column 0 of
	// dst becomes its column, the lowest of equal ones; column 1 becomes 1, or 0 where
	// the row is of no use: it has a NaN or an infinity, or nothing but negative
	// infinities. dst has two columns.
	Pick(dst, x Buffer, rows int)
	// Submit hands the pass to the device and asks for the first len(r.Dst)
	// float32 of each read once it is done. The destinations belong to the
	// device until the completion with this tag.
	Submit(tag uint64, reads ...Read)
}

// Read asks for the contents of a buffer after a pass: rows are packed, without
// any padding the device uses.
type Read struct {
	Src  Buffer
	Rows int
	Dst  []float32
}

// Completion says that a pass is done.
type Completion struct {
	Tag     uint64
	Err     error         // the device failed; nothing of the pass may be used
	Elapsed time.Duration // time the device computed
	// NotFinite lists rows of the batch that held a NaN or an infinity at some
	// norm. Their outputs are meaningless; other rows are not touched.
	NotFinite []int32
}

// Batch says which rows a pass computes. A batch without rows is a pass that
// keeps its place in the order and may clear pages.
type Batch struct {
	Rows  int
	Spans []Span // in order of rows; their counts sum to Rows
}

// Span is a run of consecutive positions of one session.
type Span struct {
	Row   int // first row in the batch
	Start int // position of the first row
	Count int // rows
	// Pages[i] is the page that holds positions 64·i to 64·i+63; where blocks were
	// thinned it is what they kept, and then the positions after them.
	Pages []int32
	// Where values step down as they age (KVClass): places of the finer forms of
	// page i in the cache's pools, or -1 when no row from Start on sees them.
	Recent, Upper []int32
	// Adapter is the number of the low-rank adapter that the rows go through, from 1 on
	// in the order in which they were loaded; 0 is none.
	Adapter int
	// Of a class that thins: the session's place for queries, and where the span
	// begins with it, the pages of a block that become the last thinned ones of Pages.
	Slot    int
	Thinned []int32
}

// Matrix is a weight of Rows rows of Cols values in a packed format.
type Matrix struct {
	Name   string // for errors and reports
	Format quant.Format
	Rows   int
	Cols   int
	Data   []byte // Rows × Format.RowBytes(Cols)
}

// Opaque device objects. They belong to the arena that made them.
type (
	Weight interface{ Shape() (rows, cols int) }
	Vector interface{ Len() int }
	Buffer interface{ Cols() int }
	Cache  interface{ Spec() CacheSpec }
)

// CacheSpec is the shape of a stage's KV cache.
type CacheSpec struct {
	Layers  int // layers of the stage
	Pages   int // pages of PageTokens positions, shared by all sessions
	KVHeads int
	HeadDim int
	Heads   int // of queries
	Class   KVClass
	Pools   KVPools // of a class whose values step down or thin out
}

// Rope is a table of rotations: for position p and pair i the angle's cosine
// and sine at [p*Pairs+i]. Tables are computed in float64 and rounded once.
type Rope struct {
	Pairs     int  // rotated pairs of a head; 2·Pairs ≤ HeadDim, the rest is copied
	Neox      bool // pairs are (i, i+Pairs) instead of (2i, 2i+1)
	Cos, Sin  []float32
	Positions int
}

// Attention are the parameters of a layer's attention.
type Attention struct {
	Heads   int
	Scale   float32 // multiplies scores
	Window  int     // keys farther back than this are not seen; 0 is all
	SoftCap float32 // scores become cap·tanh(score/cap); 0 is off
}

// Activation is the function of a gated feed-forward layer.
type Activation uint8

const (
	SiLU Activation = iota
	GELUTanh
)

// Info describes a device.
type Info struct {
	Kind    string // the backend: "cpu", "webgpu"
	Name    string // the device as people know it
	Class   string // everything that fixes its bits, in words
	Threads int    // workers, where that means something
	Memory  uint64 // usable bytes
	NUMA    NUMA
	Lacks   Features // operations that the device has no kernels for
}

// NUMA is how the machine's memory is divided between its processors, as far as
// a device is concerned: memory of another node than a thread's is slower.
type NUMA struct {
	Nodes int   // of the machine; 0 is unknown
	On    []int // nodes whose processors the device's threads may run on, ascending
}

// Memory is what a backend holds, in bytes.
type Memory struct {
	Weights, Caches, Buffers uint64
}

// Total returns the sum of all parts.
func (m Memory) Total() uint64 { return m.Weights + m.Caches + m.Buffers }
