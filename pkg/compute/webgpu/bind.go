//go:build cgo && ((linux && amd64) || darwin || (windows && amd64))

package webgpu

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/shoal-llm/shoal/pkg/compute/webgpu/device"
)

// params holds the parameter blocks of all operations recorded so far, each once:
// layers differ in their buffers alone.
type params struct {
	buffers []*device.Buffer
	used    int
	known   map[block]device.Slice
}

const (
	paramBytes = 256 // of a block: the alignment of offsets
	paramCount = 256 // blocks in a buffer
)

// param returns where a block is in the device's memory.
func (b *Backend) param(words block) (device.Slice, error) {
	if s, ok := b.params.known[words]; ok {
		return s, nil
	}
	p := &b.params
	if p.used == paramCount*len(p.buffers) {
		buffer, err := b.ownBuffer(paramBytes*paramCount, device.Uniform)
		if err != nil {
			return device.Slice{}, err
		}
		p.buffers = append(p.buffers, buffer)
	}
	s := device.Slice{Buffer: p.buffers[len(p.buffers)-1], Offset: uint64(p.used % paramCount * paramBytes), Size: paramBytes}
	p.used++
	if p.known == nil {
		p.known = map[block]device.Slice{}
	}
	p.known[words] = s
	bytes := make([]byte, 0, 4*words.n)
	for _, w := range words.words[:words.n] {
		bytes = binary.LittleEndian.AppendUint32(bytes, w)
	}
	b.write(s.Buffer, s.Offset, bytes)
	return s, nil
}

// groupKey is what a bind group binds.
type groupKey struct {
	op      *op
	param   device.Slice
	buffers [9]*device.Buffer
}

// group returns the bind group of a kernel's parameters and buffers, made once.
func (b *Backend) group(e *entry, k kernel, param device.Slice, buffers []*device.Buffer) (*device.Group, error) {
	key := groupKey{op: k.op, param: param}
	copy(key.buffers[:], buffers)
	if g, ok := b.groups[key]; ok {
		return g, nil
	}
	slices := []device.Slice{param}
	for _, buffer := range buffers {
		slices = append(slices, device.Slice{Buffer: buffer})
	}
	g, err := b.dev.NewGroup(e.layout, slices...)
	if err != nil {
		return nil, fmt.Errorf("bind %s: %w", k.op.name, err)
	}
	b.groups[key] = g
	return g, nil
}

// changing comes before objects are freed: commands encoded ahead may name them.
func (b *Backend) changing() {
	b.queue.Lock()
	defer b.queue.Unlock()
	b.generation++
	b.ahead.drop()
}

// forget frees the groups that bind any of the buffers.
func (b *Backend) forget(buffers []*device.Buffer) {
	b.changing()
	gone := make(map[*device.Buffer]bool, len(buffers))
	for _, buffer := range buffers {
		gone[buffer] = true
	}
	for key, g := range b.groups {
		if slices.ContainsFunc(key.buffers[:], func(x *device.Buffer) bool { return gone[x] }) {
			g.Free()
			delete(b.groups, key)
		}
	}
}

// Working memory that passes share: the device runs them one after the other.
const (
	factorScratch = iota // norms' factors of rows
	partScratch          // splits of attention
	gateScratch          // gate and up, where they are not stored together
	upScratch
	copyScratch  // an input that is an output too
	pickScratch  // parts of rows of logits
	routeScratch // experts of rows
	scratches
)

// retired is memory that passes up to a number may still use.
type retired struct {
	buffer *device.Buffer
	after  uint64
}

// room returns working memory of at least size bytes.
func (b *Backend) room(which int, size uint64) (*device.Buffer, error) {
	old := b.scratch[which]
	if old != nil && old.Size >= size {
		return old, nil
	}
	grown := size
	if old != nil {
		grown = max(size, 2*old.Size)
	}
	buffer, err := b.ownBuffer(grown, device.Storage)
	if err != nil {
		return nil, err
	}
	if old != nil {
		b.retire(old)
	}
	b.scratch[which] = buffer
	return buffer, nil
}

// retire frees a buffer once the passes begun so far are complete.
func (b *Backend) retire(buffer *device.Buffer) {
	b.forget([]*device.Buffer{buffer})
	b.retired = append(b.retired, retired{buffer, b.begun})
}

// sweep frees what no pass uses any more.
func (b *Backend) sweep() {
	done := b.completed.Load()
	b.retired = slices.DeleteFunc(b.retired, func(r retired) bool {
		if r.after > done {
			return false
		}
		b.own.Add(-r.buffer.Size)
		r.buffer.Free()
		return true
	})
}

// ownBuffer makes a buffer that the backend itself holds.
func (b *Backend) ownBuffer(size uint64, usage device.Usage) (*device.Buffer, error) {
	buffer, err := b.dev.NewBuffer(size, usage)
	if err != nil {
		return nil, err
	}
	b.own.Add(buffer.Size)
	return buffer, nil
}

// compiled is registry.get without a lock for kernels that were asked for before.
func (b *Backend) compiled(k kernel) (*entry, error) {
	if e, ok := b.entries[k]; ok {
		return e, nil
	}
	e, err := b.kernel.get(k)
	if err == nil {
		b.entries[k] = e
	}
	return e, err
}
