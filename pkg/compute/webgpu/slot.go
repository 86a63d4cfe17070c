//go:build cgo && ((linux && amd64) || darwin || (windows && amd64))

package webgpu

import (
	"errors"
	"fmt"
	"time"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/compute/webgpu/device"
)

// slot is what one unfinished pass needs of its own; passes take slots in turn.
type slot struct {
	be    *Backend
	pass  pass
	batch *device.Buffer // the batch as shaders read it
	bad   *device.Buffer // a word for each row that is not finite
	back  *device.Buffer // what is read back
	group *device.Group  // of batch and bad
	size  uint64         // of what is read back
	sent  time.Time
}

// Sizes that slots begin with.
const (
	slotBatch = 16 << 10
	slotBad   = 4 << 10
	slotBack  = 16 << 10
)

// nextSlot returns the slot of the pass that begins.
func (b *Backend) nextSlot() (*slot, error) {
	i := int(b.begun % compute.MaxPasses)
	if b.slots[i] == nil {
		b.slots[i] = &slot{be: b}
	}
	s := b.slots[i]
	if err := b.prepare(); err != nil {
		return s, err
	}
	return s, s.fit(slotBatch, slotBad, slotBack)
}

// fit makes room in a slot whose pass is not submitted. The group changes with it,
// so recorded dispatches are bound anew.
func (s *slot) fit(batch, bad, back uint64) error {
	old := s.group
	for _, want := range []struct {
		buffer **device.Buffer
		size   uint64
		usage  device.Usage
	}{{&s.batch, batch, device.Storage}, {&s.bad, bad, device.Storage}, {&s.back, back, device.ReadBack}} {
		if *want.buffer != nil && (*want.buffer).Size >= want.size {
			continue
		}
		size := want.size
		if *want.buffer != nil {
			size = max(size, 2*(*want.buffer).Size)
		}
		b, err := s.be.ownBuffer(size, want.usage)
		if err != nil {
			return fmt.Errorf("make room for a pass: %w", err)
		}
		if *want.buffer != nil {
			s.be.changing()
			s.be.own.Add(-(*want.buffer).Size)
			(*want.buffer).Free()
		}
		*want.buffer = b
		if want.usage == device.Storage {
			s.group = nil
		}
	}
	if s.group != nil {
		return nil
	}
	var err error
	if s.group, err = s.be.dev.NewGroup(s.be.kernel.batch, device.Slice{Buffer: s.batch}, device.Slice{Buffer: s.bad}); err != nil {
		return fmt.Errorf("bind a pass: %w", err)
	}
	if old != nil {
		s.pass.commands.Rebind(old, s.group)
		old.Free()
	}
	return nil
}

// free frees the slot's buffers.
func (s *slot) free() {
	if s == nil {
		return
	}
	for _, b := range []*device.Buffer{s.batch, s.bad, s.back} {
		if b != nil {
			b.Free()
		}
	}
	if s.group != nil {
		s.group.Free()
	}
}

// ahead is commands encoded before the pass that may want them.
type ahead struct {
	commands           device.Commands
	encoded            device.Encoded
	number, generation uint64
	ready              bool
}

// take returns the encoded commands if they are the pass's.
func (a *ahead) take(p *pass) (device.Encoded, bool) {
	if !a.ready {
		return device.Encoded{}, false
	}
	if a.number == p.number && a.generation == p.generation && a.commands.Same(&p.all) {
		a.ready = false
		return a.encoded, true
	}
	a.drop()
	return device.Encoded{}, false
}

// drop forgets what was encoded.
func (a *ahead) drop() {
	if a.ready {
		a.encoded.Drop()
		a.ready = false
	}
}

// prepare encodes what a pass after p would be if it did the same.
func (a *ahead) prepare(dev *device.Device, p *pass) {
	a.drop()
	a.commands.Reset()
	a.commands.Append(&p.guess)
	a.encoded, a.ready = dev.Encode(&a.commands), true
	a.number, a.generation = p.number+1, p.generation
}

// sent is a pass and its number when it was submitted.
type sent struct {
	pass   *pass
	number uint64
}

// send submits a pass, asks for its results, and has the next one encoded.
func (b *Backend) send(p *pass) {
	b.queue.Lock()
	encoded, ok := b.ahead.take(p)
	if !ok {
		encoded = b.dev.Encode(&p.all)
	}
	b.dev.Write(p.slot.batch, 0, p.bytes)
	p.slot.sent = time.Now()
	b.dev.Submit(encoded)
	p.slot.back.Map(p.slot.size, false)
	b.queue.Unlock()
	if p.guess.Len() == 0 {
		return
	}
	select {
	case b.sent <- sent{p, p.number}:
	default: // it is still busy with the one before
	}
}

// encodeAhead encodes, while a pass runs, the one that follows if it does the same,
// until Close.
func (b *Backend) encodeAhead() {
	for s := range b.sent {
		b.queue.Lock()
		// Else the pass may be another one by now, or what it names gone.
		if s.number == b.latest.Load() && s.pass.generation == b.generation {
			b.ahead.prepare(b.dev, s.pass)
		}
		b.queue.Unlock()
	}
	b.ahead.drop()
}

// serve waits for passes in order and delivers their completions.
func (b *Backend) serve() {
	defer close(b.done)
	var last time.Time
	var took time.Duration
	for p := range b.running {
		c := compute.Completion{Tag: p.tag, Err: p.err}
		if c.Err == nil {
			c.Err = b.await(p, took)
		}
		now := time.Now()
		if from := p.slot.sent; from.After(last) {
			last = from
		}
		c.Elapsed = now.Sub(last)
		took = now.Sub(p.slot.sent)
		last = now
		if c.Err == nil {
			back := p.slot.back.Bytes(p.slot.size)
			c.NotFinite = p.notFinite(back)
			p.deliver(back)
			p.account(back, c.Elapsed)
			p.slot.back.Unmap()
		}
		b.completed.Store(p.number)
		b.unfinished.Add(-1)
		b.done <- c
	}
}

// await polls until a pass's results are mapped: the library's own wait would keep
// others from recording.
//
// It sleeps until shortly before the pass is done if it takes as long as the one
// before, and then looks again and again for a short time.
func (b *Backend) await(p *pass, before time.Duration) error {
	const watch = 300 * time.Microsecond
	for {
		b.dev.Poll(false)
		if err := b.dev.Err(); err != nil {
			return fmt.Errorf("%w: %w", ErrLost, err)
		}
		done, err := p.slot.back.Mapped()
		if err != nil {
			return fmt.Errorf("%w: %w", ErrLost, err)
		}
		if done {
			return nil
		}
		spent := time.Since(p.slot.sent)
		if spent > hangs {
			return errors.Join(ErrLost, fmt.Errorf("a pass took more than %v", hangs))
		}
		if spent < before-watch/2 || spent > before+watch/2 {
			device.Pause()
		}
	}
}
