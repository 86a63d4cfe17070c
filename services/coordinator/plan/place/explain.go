package place

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// explainIdle says of every device without a stage why it has none.
func (p *Placement) explainIdle(c *Cluster) {
	for i := range c.Devices {
		d := &c.Devices[i]
		if holdsStage(p.Pipelines, d) || slices.Contains(p.Spares, d) {
			continue
		}
		p.Idle = append(p.Idle, Idle{d, p.whyIdle(d, &c.Links)})
	}
	slices.SortFunc(p.Idle, func(a, b Idle) int { return strings.Compare(a.Device.ID(), b.Device.ID()) })
}

func (p *Placement) whyIdle(d *Device, links *Links) string {
	m, w := p.Model, &p.Wishes
	if w.excludes(d) {
		return "it is excluded"
	}
	least := m.leastStage(p.Pages, w.Rows)
	if have := w.budget(d); have < least {
		return fmt.Sprintf("one layer with its KV pages and buffers takes %s, it has %s", Size(least), Size(have))
	}
	if len(w.Pins) > 0 {
		return "the layers that are pinned leave it none that would make a token faster"
	}
	pipe := &p.Pipelines[0]
	layer := d.layer(m, &m.Layers[0], w.decode(1))
	used := pipe.Stages[0].Device
	for _, s := range pipe.Stages {
		if s.Device.layer(m, &m.Layers[0], w.decode(1)) > used.layer(m, &m.Layers[0], w.decode(1)) {
			used = s.Device
		}
	}
	hop := links.Of(used.Node, d.Node).Time(m.Wire)
	text := fmt.Sprintf("a layer takes %s there and %s on %s, and the hop to it %s",
		Duration(layer), Duration(used.layer(m, &m.Layers[0], w.decode(1))), used.ID(), Duration(hop))
	if w.MaxStages > 0 || w.Stages > 0 {
		return text + ", and the number of stages is limited"
	}
	if w.Objective == Latency {
		return text + ": a stage there would make every token slower"
	}
	return text + ": a stage there would be the slowest and hold up the others"
}

// leastStage is the bytes of the smallest stage there can be.
func (m *Model) leastStage(pages, rows int) uint64 {
	least := uint64(math.MaxUint64)
	for i := range m.Layers {
		least = min(least, m.Bytes(m.part(i, i+1), pages, rows))
	}
	return least
}

// Duration writes seconds as people read them.
func Duration(s float64) string {
	switch {
	case s >= 10:
		return fmt.Sprintf("%.0f s", s)
	case s >= 1:
		return fmt.Sprintf("%.1f s", s)
	case s >= 10e-3:
		return fmt.Sprintf("%.0f ms", s*1e3)
	case s >= 1e-3:
		return fmt.Sprintf("%.1f ms", s*1e3)
	}
	return fmt.Sprintf("%.0f µs", s*1e6)
}

// Rate writes tokens a second as people read them.
func Rate(r float64) string {
	if r >= 100 {
		return fmt.Sprintf("%.0f tokens/s", r)
	}
	return fmt.Sprintf("%.1f tokens/s", r)
}

// Explain says who computes what, how fast that is predicted to be and why, one
// sentence a line.
func (p *Placement) Explain() string {
	var b strings.Builder
	for i := range p.Pipelines {
		p.explainPipeline(&b, i)
	}
	fmt.Fprintf(&b, "memory: %d %s of %d positions, %d KV pages on every stage", p.Sessions, plural(p.Sessions, "session"), p.Wishes.Context, p.Pages)
	if p.Sessions < p.Wishes.Sessions {
		fmt.Fprintf(&b, "; there is no memory for the %d that were wished", p.Wishes.Sessions)
	}
	b.WriteString("\n")
	if len(p.Pipelines) > 1 || p.Wishes.Streams > 1 {
		fmt.Fprintf(&b, "together: %s for %d %s\n", Rate(p.Tokens), p.Wishes.Streams, plural(p.Wishes.Streams, "stream"))
	}
	for _, d := range p.Spares {
		fmt.Fprintf(&b, "spare: %s\n", d.ID())
	}
	for _, d := range p.Idle {
		fmt.Fprintf(&b, "without a stage: %s: %s\n", d.Device.ID(), d.Reason)
	}
	for _, n := range p.notes() {
		b.WriteString("note: " + n + "\n")
	}
	return b.String()
}

func (p *Placement) explainPipeline(b *strings.Builder, i int) {
	pipe := &p.Pipelines[i]
	fmt.Fprintf(b, "pipeline %d: %s for one stream, first token after %s for a prompt of %d",
		i, Rate(1/pipe.Token), Duration(pipe.FirstToken), p.Wishes.Prompt)
	if pipe.Streams > 1 {
		fmt.Fprintf(b, "; %s for %.0f streams in %d %s", Rate(pipe.Throughput), pipe.Streams, pipe.Lanes, plural(pipe.Lanes, "lane"))
	}
	b.WriteString("\n")
	for k, s := range pipe.Stages {
		fmt.Fprintf(b, "  stage %d: %s, %s of %s, %s a token, %s a chunk",
			k, s, Size(s.Bytes), Size(s.Budget), Duration(s.Decode), Duration(s.Prefill))
		if k+1 < len(pipe.Stages) {
			fmt.Fprintf(b, ", hop %s", Duration(s.Hop))
		} else {
			fmt.Fprintf(b, ", back %s", Duration(pipe.Return))
		}
		if s.Load > 0 && !s.Device.Held.empty() {
			fmt.Fprintf(b, ", %s to load", Size(s.Load))
		}
		b.WriteString("\n")
	}
}

func plural(n int, what string) string {
	if n == 1 {
		return what
	}
	return what + "s"
}

// String names the stage's place and layers: "a/0 [0..15) embed".
func (s Stage) String() string {
	text := fmt.Sprintf("%s [%d..%d)", s.Device.ID(), s.Part.First, s.Part.End)
	if s.Part.Embed {
		text += " embed"
	}
	if s.Part.Head {
		text += " head"
	}
	return text
}

// notes are what an operator should know besides.
func (p *Placement) notes() []string {
	var out []string
	if a := p.Alone; a != nil && a.Token < p.Pipelines[0].Token {
		out = append(out, p.aloneIsFaster(a))
	}
	for i := range p.Pipelines {
		if pipe := &p.Pipelines[i]; pipe.Value > pipe.Bound*(1+slack) {
			out = append(out, fmt.Sprintf("pipeline %d was found by search: at most %.0f %% could be gained", i, 100*(1-pipe.Bound/pipe.Value)))
		}
	}
	if assumed := p.assumed(); len(assumed) > 0 {
		out = append(out, fmt.Sprintf("not measured, so predictions there are guesses: %s", strings.Join(assumed, ", ")))
	}
	if classes := p.classes(); len(classes) > 1 {
		out = append(out, fmt.Sprintf("devices are of the numerics classes %s: an answer that moves between them goes on, and need not be the same bit for bit", strings.Join(classes, " and ")))
	}
	return out
}

func (p *Placement) aloneIsFaster(a *Alone) string {
	gain := fmt.Sprintf("%s alone would be faster: %s for one stream instead of %s", a.Device.ID(), Rate(1/a.Token), Rate(1/p.Pipelines[0].Token))
	switch {
	case a.Sessions == 0:
		return fmt.Sprintf("%s, but the model takes %s with one session and it has %s", gain, Size(a.Bytes), Size(p.Wishes.budget(a.Device)))
	case a.Sessions < p.Sessions:
		return fmt.Sprintf("%s, but it holds %d %s instead of %d", gain, a.Sessions, plural(a.Sessions, "session"), p.Sessions)
	}
	return gain
}

// assumed lists the devices in use that were not measured for this model.
func (p *Placement) assumed() []string {
	return p.eachStage(func(s *Stage) string { return ifTrue(s.Assumed, s.Device.ID()) })
}

// classes lists the numerics classes in use.
func (p *Placement) classes() []string {
	return p.eachStage(func(s *Stage) string { return s.Device.Class })
}

// eachStage collects what f says of the stages, once and in order.
func (p *Placement) eachStage(f func(*Stage) string) []string {
	var out []string
	for i := range p.Pipelines {
		for k := range p.Pipelines[i].Stages {
			if v := f(&p.Pipelines[i].Stages[k]); v != "" && !slices.Contains(out, v) {
				out = append(out, v)
			}
		}
	}
	return out
}

func ifTrue(ok bool, s string) string {
	if ok {
		return s
	}
	return ""
}
