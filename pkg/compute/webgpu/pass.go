//go:build cgo && ((linux && amd64) || darwin || (windows && amd64))

package webgpu

import (
	"encoding/binary"
	"fmt"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/compute/webgpu/device"
)

// pass records the operations of a batch as commands.
type pass struct {
	be     *Backend
	slot   *slot
	batch  *compute.Batch
	number uint64
	tag    uint64
	reads  []read
	err    error // of recording; the completion carries it

	clears   device.Commands // run before commands
	commands device.Commands
	all      device.Commands
	guess    device.Commands // of a next pass that does the same; empty is none

	generation uint64   // of the objects that the commands name
	words      []uint32 // the batch as the shaders read it
	bytes      []byte   // the same
	lists      int
	splits     int // of the longest context
	waiting    *triple
	compiling  []compiling // dispatches whose kernels were not compiled when they were recorded
	placesOf   int         // experts of a row that the list places is for
	places     int
	lowered    int // pages that become codes, in the list lowers
	lowers     int

	profiled bool
	timed    []timed
	next     work               // what the next dispatch does
	timesAt  uint64             // in what is read back
	buffers  [16]*device.Buffer // room for a dispatch's
}

// compiling is a dispatch whose kernel is being compiled.
type compiling struct {
	at int // command
	*entry
}

// read is a Read with what was known of its buffer when it was recorded.
type read struct {
	compute.Read
	src    *buffer
	linear bool
	from   uint64 // in the slot's read-back buffer
	size   uint64
}

var _ compute.Pass = (*pass)(nil)

// The head of a batch in the device's memory: see common.wgsl.
const (
	headSplits = 1
	headLists  = 4
	headWords  = 16
	rowWords   = 4
	maxLists   = headWords - headLists
)

// splitTokens is the number of positions in a split of attention.
const splitTokens = 256

// fail panics: the shapes of an operation do not agree.
func fail(format string, args ...any) { panic("webgpu: " + fmt.Sprintf(format, args...)) }

// Begin starts a pass. It panics when MaxPasses are unfinished or the spans do
// not cover the rows.
func (b *Backend) Begin(batch *compute.Batch) compute.Pass {
	if b.unfinished.Add(1) > compute.MaxPasses {
		panic("webgpu: Begin while MaxPasses passes are unfinished")
	}
	b.sweep()
	s, err := b.nextSlot()
	if err != nil {
		s = &slot{be: b}
	}
	p := &s.pass
	b.begun++
	p.be, p.slot, p.batch, p.number, p.err = b, s, batch, b.begun, err
	p.reads, p.words, p.lists, p.splits = p.reads[:0], p.words[:0], 0, 1
	p.waiting, p.placesOf, p.lowered = nil, 0, 0
	p.profile()
	p.compiling = p.compiling[:0]
	p.clears.Reset()
	p.commands.Reset()
	p.describe()
	return p
}

// describe writes the batch's rows and page tables.
func (p *pass) describe() {
	rows := 0
	for _, s := range p.batch.Spans {
		if s.Row != rows || s.Count <= 0 || s.Start < 0 || len(s.Pages)*compute.PageTokens < s.Start+s.Count {
			fail("span at row %d of %d rows from position %d with %d pages", s.Row, s.Count, s.Start, len(s.Pages))
		}
		rows += s.Count
	}
	if rows != p.batch.Rows {
		fail("spans of %d rows in a batch of %d", rows, p.batch.Rows)
	}
	for range headWords + rowWords*rows {
		p.words = append(p.words, 0)
	}
	p.words[0] = uint32(rows)
	for _, s := range p.batch.Spans {
		pages := (s.Start + s.Count + compute.PageTokens - 1) / compute.PageTokens
		table := p.table(s.Pages[:pages])
		recent, upper := p.table(s.Recent[:min(pages, len(s.Recent))]), p.table(s.Upper[:min(pages, len(s.Upper))])
		for i := range s.Count {
			copy(p.words[headWords+rowWords*(s.Row+i):], []uint32{uint32(s.Start + i), table, recent, upper})
		}
		p.splits = max(p.splits, (s.Start+s.Count-1)/splitTokens+1)
	}
	p.words[headSplits] = uint32(p.splits)
}

// table appends a table of pages and returns where it begins.
func (p *pass) table(pages []int32) uint32 {
	at := len(p.words)
	for _, page := range pages {
		p.words = append(p.words, uint32(page))
	}
	return uint32(at)
}

// list appends words that a kernel reads by the list's number. Their count stands
// before them.
func (p *pass) list(n int) (number int, words []uint32) {
	if p.lists == maxLists {
		fail("more than %d lists of a pass", maxLists)
	}
	number = p.lists
	p.lists++
	p.words = append(p.words, uint32(n))
	p.words[headLists+number] = uint32(len(p.words))
	for range n {
		p.words = append(p.words, 0)
	}
	return number, p.words[len(p.words)-n:]
}

// dispatch records a kernel on x × y × z workgroups.
func (p *pass) dispatch(k kernel, b block, x, y, z int, buffers ...*device.Buffer) {
	if p.err != nil || x == 0 || y == 0 {
		return
	}
	e, err := p.be.compiled(k)
	if err != nil {
		p.err = err
		return
	}
	param, err := p.be.param(b)
	if err != nil {
		p.err = err
		return
	}
	group, err := p.be.group(e, k, param, buffers)
	if err != nil {
		p.err = err
		return
	}
	if p.profiled {
		p.next.name = k.op.name
		p.timed = append(p.timed, timed{p.commands.Len(), p.next})
		p.next = work{}
	}
	var pipeline *device.Pipeline
	select {
	case <-e.done:
		if pipeline = e.pipeline; e.err != nil {
			p.err = e.err
			return
		}
	default:
		p.compiling = append(p.compiling, compiling{p.commands.Len(), e})
	}
	p.commands.Dispatch(pipeline, group, p.slot.group, x, y, z)
}

// compile waits for the kernels of the pass, which several goroutines compile.
func (p *pass) compile() {
	if p.err != nil {
		return
	}
	for _, c := range p.compiling {
		pipeline, err := c.ready()
		if err != nil {
			p.err = err
			return
		}
		p.commands.SetPipeline(c.at, pipeline)
	}
}

// Submit encodes the pass, unless that was done ahead, and hands it to the device.
func (p *pass) Submit(tag uint64, reads ...compute.Read) {
	p.settle()
	p.compile()
	p.tag = tag
	at := p.flagBytes()
	for _, r := range reads {
		b := r.Src.(*buffer)
		if r.Rows < 0 || r.Rows > b.rows || len(r.Dst) > r.Rows*b.cols {
			fail("read of %d values, %d rows of a buffer of %d rows of %d", len(r.Dst), r.Rows, b.rows, b.cols)
		}
		rows := (len(r.Dst) + b.cols - 1) / b.cols
		size := 4 * uint64(rows) * uint64(b.stride())
		if size == 0 {
			continue
		}
		p.reads = append(p.reads, read{Read: r, src: b, linear: b.linear, from: at, size: size})
		at += size
	}
	at = p.stamp(at)
	if p.err == nil {
		p.err = p.slot.fit(uint64(4*len(p.words)), p.flagBytes(), at)
	}
	if p.err == nil {
		p.collect(at)
	}
	if p.err == nil {
		p.be.latest.Store(p.number)
		p.be.send(p)
	}
	p.be.running <- p
}

// collect puts the pass's commands together, and those of a next pass that does the
// same: the goroutine that encodes has them ready before it comes.
func (p *pass) collect(size uint64) {
	s := p.slot
	s.size = size
	p.all.Reset()
	p.put(&p.all, s, &p.clears)
	p.generation = p.be.generation
	p.guess.Reset()
	if next := p.be.slots[p.number%compute.MaxPasses]; next != nil && next.back != nil && next.back.Size >= size && next.bad.Size >= p.flagBytes() {
		p.put(&p.guess, next, nil)
		p.guess.Rebind(s.group, next.group)
	}
	p.bytes = p.bytes[:0]
	for _, w := range p.words {
		p.bytes = binary.LittleEndian.AppendUint32(p.bytes, w)
	}
}

// flagBytes returns the bytes of a word for each row.
func (p *pass) flagBytes() uint64 { return uint64(4 * max(1, p.batch.Rows)) }

// put appends the pass's commands as they are in a slot.
func (p *pass) put(to *device.Commands, s *slot, clears *device.Commands) {
	to.Clear(s.bad, 0, p.flagBytes())
	if clears != nil {
		to.Append(clears)
	}
	to.Append(&p.commands)
	to.Copy(s.back, 0, s.bad, 0, p.flagBytes())
	if p.profiled {
		to.Copy(s.back, p.timesAt, p.be.profiler.times, 0, uint64(8*(len(p.timed)+1)))
	}
	for _, r := range p.reads {
		to.Copy(s.back, r.from, r.src.buffer, 0, r.size)
	}
}

// notFinite returns the rows marked in what was read back, or nil.
func (p *pass) notFinite(back []byte) []int32 {
	var rows []int32
	for i := range p.batch.Rows {
		if binary.LittleEndian.Uint32(back[4*i:]) != 0 {
			rows = append(rows, int32(i))
		}
	}
	return rows
}

// deliver copies what was read back to its destinations.
func (p *pass) deliver(back []byte) {
	for _, r := range p.reads {
		dst, row := r.Dst, back[r.from:]
		for len(dst) > 0 {
			n := min(len(dst), r.src.cols)
			r.src.unpack(dst[:n], row, r.linear)
			dst, row = dst[n:], row[4*r.src.stride():]
		}
	}
}
