package compute

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"math"

	"github.com/shoal-llm/shoal/pkg/quant"
)

// SelfTest returns the fingerprint of a device: the SHA-256 of the output bits
// of fixed operations on fixed inputs, with weights in each of the formats (all
// that the build has; formats that the device cannot load count as that). Two
// devices compute the same answers only if their fingerprints agree.
//
// It runs passes and waits for them, so it must be the only user of be. It needs
// about 10 MiB, which it gives back.
func SelfTest(be Backend, formats []quant.Format) (print [32]byte, err error) {
	return runSelfTest(be, nil, Tolerance{}, formats)
}

// Verify is SelfTest, and besides holds what be computes against what reference
// computes of the same. Errors that say that the device computes wrongly wrap
// ErrWrong and name the operation, the weight format and how far it is off.
// Attention over packed caches is held so too, without a part in the fingerprint.
func Verify(be, reference Backend, most Tolerance, formats []quant.Format) (print [32]byte, err error) {
	return runSelfTest(be, reference, most, formats)
}

func runSelfTest(be, reference Backend, most Tolerance, formats []quant.Format) (print [32]byte, err error) {
	t := &selfTest{be: be, arena: be.NewArena(), sum: sha256.New(), tolerance: most}
	defer func() { err = errors.Join(err, t.arena.Free()) }()
	var r *selfTest
	if reference != nil {
		r = &selfTest{be: reference, arena: reference.NewArena(), sum: sha256.New(), record: true}
		defer func() { err = errors.Join(err, r.arena.Free()) }()
	}
	for _, f := range formats {
		if err := t.against(r, func(t *selfTest) error { return t.layer(f) }); err != nil {
			return [32]byte{}, fmt.Errorf("self-test with %s: %w", f.Name, err)
		}
	}
	for _, dim := range []int{32, 64, 128} {
		if err := t.against(r, func(t *selfTest) error { return t.attention(dim) }); err != nil {
			return [32]byte{}, fmt.Errorf("self-test of attention over %d dimensions: %w", dim, err)
		}
	}
	print = [32]byte(t.sum.Sum(nil))
	if r != nil && be.Info().Lacks&FeaturePackedKV == 0 {
		for _, c := range testKVClasses {
			t.tolerance = c.most
			if err := t.against(r, func(t *selfTest) error { return t.packed(c.class) }); err != nil {
				return [32]byte{}, fmt.Errorf("self-test of attention over keys and values of class %s: %w", c.class, err)
			}
		}
	}
	return print, nil
}

// The shape of the self-test's layer. Widths are whole blocks of every format.
const (
	testVocab   = 80
	testHidden  = 256
	testFF      = 512
	testDim     = 64
	testHeads   = testHidden / testDim
	testKVHeads = 2
	testKV      = testKVHeads * testDim
	testPages   = 4
)

// testBatches are the batches of the self-test, one after the other: chunks that
// cross pages and tiles, and single tokens, of several sessions.
func testBatches() []Batch {
	a, b := []int32{2, 0}, []int32{3}
	return []Batch{
		{Rows: 75, Spans: []Span{{Row: 0, Start: 0, Count: 70, Pages: a}, {Row: 70, Start: 0, Count: 5, Pages: b}}},
		{Rows: 2, Spans: []Span{{Row: 0, Start: 70, Count: 1, Pages: a}, {Row: 1, Start: 5, Count: 1, Pages: b}}},
		{Rows: 1, Spans: []Span{{Row: 0, Start: 71, Count: 1, Pages: a}}},
	}
}

type selfTest struct {
	be    Backend
	arena Arena
	sum   hash.Hash
	rng   uint64
	err   error

	record  bool     // keep outputs: this is the reference
	outputs []output // of the reference, in order

	tolerance Tolerance
}

// next is SplitMix64 (Steele, Lea and Flood).
func (t *selfTest) next() uint64 {
	t.rng += 0x9E3779B97F4A7C15
	z := t.rng
	z = (z ^ z>>30) * 0xBF58476D1CE4E5B9
	z = (z ^ z>>27) * 0x94D049BB133111EB
	return z ^ z>>31
}

// floats returns n values between −size and size, in steps of size/1024.
func (t *selfTest) floats(n int, size float32) []float32 {
	out := make([]float32, n)
	for i := range out {
		out[i] = float32(int(t.next()%2049)-1024) / 1024 * size
	}
	return out
}

// littleEndian returns the values in little-endian order.
func littleEndian(v []float32) []byte {
	out := make([]byte, 0, 4*len(v))
	for _, x := range v {
		out = binary.LittleEndian.AppendUint32(out, math.Float32bits(x))
	}
	return out
}

// blocks returns random blocks of a format with values of moderate size.
func (t *selfTest) blocks(f quant.Format) [][]byte {
	values := make([]float32, f.BlockElems)
	var out [][]byte
	for len(out) < 32 {
		block := make([]byte, f.BlockBytes)
		for i := range block {
			block[i] = byte(t.next())
		}
		f.Decode(values, block)
		var largest float32
		for _, v := range values {
			largest = max(largest, float32(math.Abs(float64(v)))) // a NaN stays
		}
		if largest > 0x1p-12 && largest < 0.25 {
			out = append(out, block)
		}
	}
	return out
}

// matrix loads rows × cols weights made of blocks.
func (t *selfTest) matrix(f quant.Format, blocks [][]byte, rows, cols int) Weight {
	if t.err != nil {
		return nil
	}
	var data []byte
	for range rows * cols / f.BlockElems {
		data = append(data, blocks[t.next()%uint64(len(blocks))]...)
	}
	w, err := t.arena.Load(Matrix{Name: "self-test", Format: f, Rows: rows, Cols: cols, Data: data})
	t.err = err
	return w
}

func (t *selfTest) buffer(rows, cols int) Buffer {
	if t.err != nil {
		return nil
	}
	b, err := t.arena.NewBuffer(rows, cols)
	t.err = err
	return b
}

func (t *selfTest) vector(n int) Vector {
	if t.err != nil {
		return nil
	}
	v, err := t.arena.LoadVector(t.floats(n, 2))
	t.err = err
	return v
}

func (t *selfTest) cache(spec CacheSpec) Cache {
	if t.err != nil {
		return nil
	}
	c, err := t.arena.NewCache(spec)
	t.err = err
	return c
}

// result is a buffer and the operation whose result it holds.
type result struct {
	src  Buffer
	turn int // of the operation in the layer: the first that is wrong is blamed
	op   string
}

// finish submits a pass, waits for it and takes the first rows of results.
func (t *selfTest) finish(p Pass, rows int, results ...result) error {
	var reads []Read
	for _, r := range results {
		reads = append(reads, Read{Src: r.src, Rows: rows, Dst: make([]float32, rows*r.src.Cols())})
	}
	p.Submit(0, reads...)
	c, ok := <-t.be.Completions()
	if !ok {
		return errors.New("the device is closed")
	}
	if c.Err != nil {
		return c.Err
	}
	if len(c.NotFinite) != 0 {
		return fmt.Errorf("%w: rows %v are not finite", ErrWrong, c.NotFinite)
	}
	outputs := make([]output, len(reads))
	for i, r := range reads {
		t.sum.Write(littleEndian(r.Dst))
		outputs[results[i].turn] = output{results[i].op, r.Dst}
	}
	return t.compare(outputs)
}

// layer runs a whole layer, embedding and head with weights of one format.
func (t *selfTest) layer(f quant.Format) error {
	t.rng = uint64(f.GGML)
	blocks := t.blocks(f)
	table := t.matrix(f, blocks, testVocab, testHidden)
	if t.err != nil {
		t.err = nil
		fmt.Fprintf(t.sum, "no %s", f.Name)
		return nil
	}
	wq, wk, wv := t.matrix(f, blocks, testHidden, testHidden), t.matrix(f, blocks, testKV, testHidden), t.matrix(f, blocks, testKV, testHidden)
	wo, down := t.matrix(f, blocks, testHidden, testHidden), t.matrix(f, blocks, testHidden, testFF)
	gate, up := t.matrix(f, blocks, testFF, testHidden), t.matrix(f, blocks, testFF, testHidden)
	gain := t.vector(testHidden)
	rows := testBatches()[0].Rows
	x, q, k, v := t.buffer(rows, testHidden), t.buffer(rows, testHidden), t.buffer(rows, testKV), t.buffer(rows, testKV)
	ff, logits := t.buffer(rows, testFF), t.buffer(rows, testVocab)
	cache := t.cache(CacheSpec{Layers: 1, Pages: testPages, KVHeads: testKVHeads, HeadDim: testDim})
	if t.err != nil {
		return t.err
	}
	rope := NewRope(testDim, testDim, 80, 10000, nil, false)
	for i, batch := range testBatches() {
		p := t.be.Begin(&batch)
		if i == 0 {
			p.ClearPages(cache, []int32{0, 1, 2, 3})
		}
		ids := make([]int32, batch.Rows)
		for j := range ids {
			ids[j] = int32(t.next() % testVocab)
		}
		p.Embed(x, table, ids)
		p.NormLinear([]Buffer{q, k, v}, x, gain, 1e-5, []Weight{wq, wk, wv})
		p.RopeStore(q, k, v, rope, cache, 0)
		p.Attend(q, q, cache, 0, Attention{Heads: testHeads, Scale: 0.125})
		p.LinearAdd(x, wo, q)
		p.NormGateUp(ff, x, gain, 1e-5, gate, up, Activation(i%2))
		p.LinearAdd(x, down, ff)
		p.Head(logits, x, []int32{int32(batch.Rows) - 1}, gain, 1e-6, table)
		if err := t.finish(p, 1, result{logits, 0, "Head"}); err != nil {
			return err
		}
		p = t.be.Begin(&batch)
		if err := t.finish(p, batch.Rows, result{x, 3, "Embed and LinearAdd"}, result{q, 1, "Attend"}, result{k, 0, "NormLinear and RopeStore"}, result{ff, 2, "NormGateUp"}); err != nil {
			return err
		}
	}
	return nil
}

// attention runs rope and attention alone, in their variants.
func (t *selfTest) attention(dim int) error {
	t.rng = uint64(dim)
	const heads, kvHeads = 6, 2
	rows := testBatches()[0].Rows
	q, k, v := t.buffer(rows, heads*dim), t.buffer(rows, kvHeads*dim), t.buffer(rows, kvHeads*dim)
	cache := t.cache(CacheSpec{Layers: 3, Pages: testPages, KVHeads: kvHeads, HeadDim: dim})
	if t.err != nil {
		return t.err
	}
	rope := NewRope(dim, dim/2, 80, 10000, nil, true)
	variants := []Attention{
		{Heads: heads, Scale: 0.125},
		{Heads: heads, Scale: 0.125, Window: 7},
		{Heads: heads, Scale: 0.125, SoftCap: 5},
	}
	for _, batch := range testBatches() {
		for layer, a := range variants {
			p := t.be.Begin(&batch)
			p.Write(q, littleEndian(t.floats(batch.Rows*heads*dim, 3)))
			p.Write(k, littleEndian(t.floats(batch.Rows*kvHeads*dim, 3)))
			p.Write(v, littleEndian(t.floats(batch.Rows*kvHeads*dim, 3)))
			p.RopeStore(q, k, v, rope, cache, layer)
			p.Attend(q, q, cache, layer, a)
			if err := t.finish(p, batch.Rows, result{q, 0, "RopeStore and Attend"}); err != nil {
				return err
			}
		}
	}
	return nil
}

// testKVClasses are classes of packed caches and how far attention over them may be
// from that over float32.
var testKVClasses = []struct {
	class KVClass
	most  Tolerance
}{
	{KVClass{Bits: 8, Group: 32}, Tolerance{NMSE: 1e-3, Off: 1}},
	{KVClass{Bits: 4, Group: 32, Recent: 64}, Tolerance{NMSE: 2e-2, Off: 2}},
	{KVClass{Bits: 2, Group: 32, Recent: 64, Upper: 3, Far: 128}, Tolerance{NMSE: 0.2, Off: 6}},
}

// packed runs rope and attention over a packed cache; on the reference over
// float32.
func (t *selfTest) packed(class KVClass) error {
	const heads, kvHeads, dim, rows = 2, 1, 64, 205
	t.rng = uint64(class.Bits)
	spec := CacheSpec{Layers: 1, Pages: testPages, KVHeads: kvHeads, HeadDim: dim}
	if !t.record {
		spec.Class = class
	}
	if spec.Class.Steps() {
		spec.Pools.Recent = testPages
	}
	if spec.Class.Upper != 0 {
		spec.Pools.Upper = testPages
	}
	q, k, v, cache := t.buffer(rows, heads*dim), t.buffer(rows, kvHeads*dim), t.buffer(rows, kvHeads*dim), t.cache(spec)
	if t.err != nil {
		return t.err
	}
	rope := NewRope(dim, dim, rows+1, 10000, nil, true)
	pages, places := []int32{2, 0, 3, 1}, []int32{1, 2, 0, 3}
	for _, span := range []Span{{Count: rows}, {Start: rows, Count: 1}} {
		span.Pages, span.Recent, span.Upper = pages, places, places
		p := t.be.Begin(&Batch{Rows: span.Count, Spans: []Span{span}})
		p.Write(q, littleEndian(t.floats(span.Count*heads*dim, 3)))
		p.Write(k, littleEndian(t.floats(span.Count*kvHeads*dim, 3)))
		p.Write(v, littleEndian(t.floats(span.Count*kvHeads*dim, 3)))
		p.RopeStore(q, k, v, rope, cache, 0)
		p.Attend(q, q, cache, 0, Attention{Heads: heads, Scale: 0.125})
		if err := t.finish(p, span.Count, result{q, 0, "RopeStore and Attend"}); err != nil {
			return err
		}
	}
	return nil
}
