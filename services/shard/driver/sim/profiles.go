package sim

import (
	"time"

	"github.com/shoal-llm/shoal/services/shard/driver"
)

// Profiles are three kinds of pipelines of so many equal stages. On the first, the
// time of a step is that of its rows; on the second, that of reading the weights;
// on the third, that of the links.
func Profiles(stages int) []Pipeline {
	return []Pipeline{
		Uniform("compute-bound", stages, Device{Fixed: 200 * time.Microsecond, Row: time.Millisecond}, Link{Latency: 100 * time.Microsecond, Bandwidth: 1.25e9}),
		Uniform("bandwidth-bound", stages, Device{Fixed: 10 * time.Millisecond, Row: 100 * time.Microsecond}, Link{Latency: 100 * time.Microsecond, Bandwidth: 1.25e9}),
		Uniform("link-bound", stages, Device{Fixed: 500 * time.Microsecond, Row: 20 * time.Microsecond}, Link{Latency: 10 * time.Millisecond, Bandwidth: 12.5e6}),
	}
}

// Uniform is a pipeline of equal stages and links, with 4 KiB of activations a
// row.
func Uniform(name string, stages int, d Device, l Link) Pipeline {
	p := Pipeline{Name: name, RowBytes: 4096}
	for range stages {
		p.Devices, p.Links = append(p.Devices, d), append(p.Links, l)
	}
	return p
}

// Adaptive is a driver that learns, as a shard has it; Fixed one with given lanes
// and rows.
func Adaptive(stages int) driver.Config {
	return driver.Config{
		Rows: 512, Chunk: 512, Lanes: stages + 1, InFlight: 8,
		Drafts: 8, Cached: 1 << 12, Target: 50 * time.Millisecond,
	}
}

// Fixed is a driver with a number of lanes and rows of a step that learns nothing.
func Fixed(lanes, rows int) driver.Config {
	return driver.Config{Rows: rows, Chunk: rows, Lanes: lanes, InFlight: 8}
}

// Streams are n sessions that come back as soon as they have ended, each time with
// a prompt and an answer of half to one and a half times the given lengths.
func Streams(n, prompt, answer int) []Request {
	var out []Request
	for i := range n {
		q := Request{Seed: uint64(i), Again: true, lengths: [2]int{prompt, answer}}
		out = append(out, q.next())
	}
	return out
}

// next is the session that comes after one.
func (q Request) next() Request {
	q.Seed += 1 << 32
	if q.lengths[0] > 0 {
		part := func(of, at int) int { return max(1, of/2+of*int(q.id(at)%1024)/1024) }
		q.Prompt, q.Answer = part(q.lengths[0], 0), part(q.lengths[1], 1)
	}
	return q
}
