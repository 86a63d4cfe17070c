package place

import (
	"github.com/shoal-llm/shoal/pkg/model"
)

// PagesFor returns the KV pages that a session of n positions needs.
func (m *Model) PagesFor(n int) int { return m.KV.Pages(n) }

// Bytes returns what a stage with part p holds: weights, pages KV pages, and
// buffers for steps of rows rows.
func (m *Model) Bytes(p model.Part, pages, rows int) uint64 {
	n := uint64(rows) * m.Buffers
	for _, l := range m.Layers[p.First:p.End] {
		n += l.Bytes + m.Cache(pages)
	}
	if p.Embed {
		n += m.Embed
	}
	if p.Head {
		n += m.Head + uint64(rows)*m.Logits
	}
	if p.Embed && p.Head {
		n -= m.Tied
	}
	return n
}

// Cache returns what a layer's cache of so many pages takes.
func (m *Model) Cache(pages int) uint64 {
	if pages == 0 {
		return 0
	}
	n := uint64(pages)*m.KVPage + m.KVQueries
	for _, p := range m.KVPools {
		n += uint64(min(p.Pages, pages)) * p.Bytes
	}
	return n
}

// part is layers [first, end) with the ends that belong to them.
func (m *Model) part(first, end int) model.Part {
	return model.Part{First: first, End: end, Embed: first == 0, Head: end == len(m.Layers)}
}

// whole is all of m.
func (m *Model) whole() model.Part { return m.part(0, len(m.Layers)) }

// Work is rows of a step that are computed together: decodes, or a chunk of a
// prompt.
type Work struct {
	Rows   float64
	Keys   float64 // positions before each row, in the mean
	Logits float64 // rows whose logits are wanted
}

// decode is one row of each of n streams, in the middle of typical answers.
func (w *Wishes) decode(n float64) Work {
	return Work{Rows: n, Keys: float64(w.Prompt) + 64, Logits: n}
}

// chunk is rows of a typical prompt, all but its last row without logits.
func (w *Wishes) chunk() Work {
	return Work{Rows: float64(min(w.Rows, w.Prompt)), Keys: float64(w.Prompt) / 2, Logits: 1}
}

// slow is how many times as long as measured the device takes.
func (d *Device) slow() float64 {
	if d.Slow <= 0 {
		return 1
	}
	return d.Slow
}

// turn is the time from the arrival of a message to the step that it begins.
func (d *Device) turn() float64 { return d.slow() * d.Turn }

// load is the rate at which weights arrive.
func (d *Device) load() float64 {
	if d.Load <= 0 {
		return assumedLoad
	}
	return d.Load
}

// reads is what one row reads of a layer.
func (l *Layer) reads() uint64 {
	if l.Read > 0 {
		return l.Read
	}
	return l.Bytes
}

// layer is the time of a layer. A shape that was not measured is scaled by
// bytes from one that was, or else from the bandwidth of the memory; a device
// of which nothing is known is as fast as any other of which nothing is known.
func (d *Device) layer(m *Model, l *Layer, w Work) float64 {
	if s, ok := d.Speeds[l.Shape]; ok {
		return d.slow() * s.At(w.Rows, w.Keys)
	}
	for i := range m.Layers {
		o := &m.Layers[i]
		if s, ok := d.Speeds[o.Shape]; ok {
			return d.slow() * s.At(w.Rows, w.Keys) * float64(l.reads()) / float64(max(o.reads(), 1))
		}
	}
	return d.slow() * d.read(l.reads(), w.Rows)
}

// read is the time of work that has not been measured, by the bytes it reads.
func (d *Device) read(n uint64, rows float64) float64 {
	rate := d.Bandwidth
	if rate <= 0 {
		rate = assumedRead
	}
	once := float64(n) / rate
	return once * (1 + (rows-1)/assumedRow)
}

// head is the time of the output head.
func (d *Device) head(m *Model, w Work) float64 {
	if w.Logits == 0 {
		return 0
	}
	if s, ok := d.Speeds[m.HeadShape]; ok {
		return d.slow() * s.At(w.Logits, 0)
	}
	return d.slow() * d.read(m.Head, w.Logits)
}

// time is how long a stage takes for w.
func (d *Device) time(m *Model, p model.Part, w Work) float64 {
	t := d.slow() * d.Pass
	for i := p.First; i < p.End; i++ {
		t += d.layer(m, &m.Layers[i], w)
	}
	if p.Head {
		t += d.head(m, w)
	}
	return t
}

// missing is the bytes of a stage's weights that the device has not loaded.
func (d *Device) missing(m *Model, p model.Part) uint64 {
	n := uint64(0)
	for i := p.First; i < p.End; i++ {
		if !d.Held.Layers[i] {
			n += m.Layers[i].Bytes
		}
	}
	if p.Embed && !d.Held.Embed {
		n += m.Embed
	}
	if p.Head && !d.Held.Head {
		n += m.Head
	}
	if p.Embed && p.Head && !(d.Held.Embed && d.Held.Head) {
		n -= m.Tied
	}
	return n
}

// Shared is the bytes of a stage's weights that take no memory of their own.
func (d *Device) Shared(m *Model, p model.Part) uint64 {
	if !d.Held.Stays {
		return 0
	}
	return m.Bytes(p, 0, 0) - d.missing(m, p)
}

// Weights is the bytes of all weights, on one device.
func (m *Model) Weights() uint64 { return m.Bytes(m.whole(), 0, 0) }
