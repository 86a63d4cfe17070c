package coordinator

import (
	"fmt"
	"slices"

	"github.com/shoal-llm/shoal/pkg/frame"
	"github.com/shoal-llm/shoal/pkg/kv"
	"github.com/shoal-llm/shoal/services/coordinator/generation"
)

// The simulated model: the id behind some ids is a hash of all of them, the seed
// and the position. It computes as a real one does: each stage keeps keys and
// values in pages, reads those of all positions before a row, and passes a value
// for the row on. Here a key is the position's id, and the value the hash of all
// ids up to the row as this stage's pages have them; a stage that finds another
// hash than the one before it passes on what no golden run has.

// simAlphabet is what answers consist of: text of which some characters take more
// than one id.
var simAlphabet = []byte("ab c.\néß€")

// simMix adds a number to a hash (the finaliser of SplitMix64).
func simMix(h, v uint64) uint64 {
	h ^= v + 0x9e3779b97f4a7c15
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}

func simHash(ids []int32) uint64 {
	h := uint64(len(simAlphabet))
	for _, id := range ids {
		h = simMix(h, uint64(uint32(id)))
	}
	return h
}

// simNext is the id at a position, by the hash of those before it. Of seeds that
// are multiples of three the last two ids alone decide: such answers repeat
// themselves, and guesses hold.
func simNext(hash, seed uint64, position int, last []int32) int32 {
	h := simMix(simMix(hash, seed), uint64(position))
	if seed%3 == 0 {
		h = simMix(simHash(last), seed)
	} else if h%61 == 0 {
		return toyEnd
	}
	return int32(simAlphabet[h%uint64(len(simAlphabet))])
}

// simGolden is the answer of an undisturbed run: its ids, and what the client is
// told of it.
type simGolden struct {
	ids    []int32
	text   string
	finish string
}

// simRun computes an answer directly.
func simRun(prompt []int32, seed uint64, most int, stops []string) simGolden {
	ids := slices.Clone(prompt)
	hash := simHash(ids)
	m := generation.New(generation.Config{Prompt: len(prompt), MaxTokens: most, Stops: stops, Detokenizer: toyText{}.Detokenizer()})
	m.Step(generation.Credit{Seq: 1 << 20})
	var g simGolden
	for {
		id := simNext(hash, seed, len(ids), ids[max(0, len(ids)-2):])
		s := frame.Sampled{Position: int32(len(ids)), IDs: []int32{id}, Finish: simFinish(id, len(ids)+1-len(prompt), most)}
		for _, a := range m.Step(generation.Sampled(s)) {
			switch a := a.(type) {
			case generation.Token:
				g.ids, g.text = append(g.ids, a.ID), g.text+a.Text
			case generation.Complete:
				g.text, g.finish = g.text+a.Text, a.FinishReason
				return g
			case generation.Failed:
				panic(fmt.Sprintf("the golden run failed: %+v", a))
			}
		}
		ids = append(ids, id)
		hash = simMix(hash, uint64(uint32(id)))
	}
}

func simFinish(id int32, answer, most int) frame.Finish {
	switch {
	case id == toyEnd:
		return frame.FinishStop
	case answer == most:
		return frame.FinishLength
	}
	return frame.FinishNone
}

// simFrame is a frame with the values of its rows.
type simFrame struct {
	*frame.Frame
	rows []uint64 // nil: it goes to the first stage
}

// simPage is a page as the device of a stage holds it.
type simPage struct {
	cells [kv.PageTokens]int32
	used  bool // something was written since it was cleared
}

// simDevice is the memory of a stage, and who is in its slots.
type simDevice struct {
	pages []simPage
	open  map[frame.Slot]*frame.Open
	first bool
	last  bool
	bug   simBug
}

func newSimDevice(pages int, first, last bool, bug simBug) *simDevice {
	d := &simDevice{pages: make([]simPage, pages), open: map[frame.Slot]*frame.Open{}, first: first, last: last, bug: bug}
	for i := range d.pages {
		for j := range d.pages[i].cells {
			d.pages[i].cells[j] = -1 // what was there before
		}
	}
	return d
}

// compute does what a step asks for: the frame for the next stage, or the result.
func (d *simDevice) compute(f simFrame, st *kv.Step) (simFrame, *frame.Result) {
	for _, slot := range st.Closed {
		delete(d.open, slot)
	}
	for _, o := range st.Opened {
		d.open[o.Slot] = o
	}
	for _, p := range st.Clear {
		if d.bug == simStalePage && d.pages[p].used {
			continue
		}
		d.pages[p] = simPage{}
	}
	out := simFrame{Frame: f.Frame, rows: make([]uint64, 0, f.NumRows())}
	result := &frame.Result{Epoch: f.Epoch, Pipeline: f.Pipeline, Step: f.Step}
	for i := range st.Spans {
		from := len(out.rows)
		out.rows = d.span(out.rows, f, &st.Spans[i], f.Spans[i].Tokens)
		if sp := &f.Spans[i]; d.last && sp.Output == frame.OutputSample {
			result.Sampled = append(result.Sampled, d.sample(sp, &st.Spans[i], out.rows[from:]))
		}
	}
	return out, result
}

// span writes the keys of a span and appends the values of its rows.
func (d *simDevice) span(out []uint64, f simFrame, sp *kv.Span, tokens []int32) []uint64 {
	h := uint64(len(simAlphabet))
	for pos := range sp.Start {
		h = simMix(h, uint64(uint32(d.at(sp, pos))))
	}
	for i, id := range tokens {
		d.write(sp, sp.Start+i, id)
		h = simMix(h, uint64(uint32(d.at(sp, sp.Start+i))))
		switch {
		case d.first, f.rows[sp.Row+i] == h:
			out = append(out, h)
		default:
			out = append(out, simMix(h, f.rows[sp.Row+i]))
		}
	}
	return out
}

func (d *simDevice) at(sp *kv.Span, pos int) int32 {
	return d.pages[sp.Pages[pos/kv.PageTokens]].cells[pos%kv.PageTokens]
}

func (d *simDevice) write(sp *kv.Span, pos int, id int32) {
	p := &d.pages[sp.Pages[pos/kv.PageTokens]]
	if c := &p.cells[pos%kv.PageTokens]; d.bug != simStalePage || *c <= 0 {
		*c = id
	}
	p.used = true
}

// sample samples behind a span's last row, and behind its guesses as long as they
// hold.
func (d *simDevice) sample(sp *frame.Span, at *kv.Span, rows []uint64) frame.Sampled {
	o, end := d.open[sp.Slot], at.Start+at.Count
	pos := end - int(sp.Drafted)
	out := frame.Sampled{Slot: sp.Slot, Attempt: o.Attempt, Position: int32(pos)}
	for ; ; pos++ {
		last := make([]int32, 0, 2)
		for i := max(0, pos-2); i < pos; i++ {
			last = append(last, d.at(at, i))
		}
		id := simNext(rows[pos-1-at.Start], o.Sampling.Seed, pos, last)
		out.IDs = append(out.IDs, id)
		out.Finish = simFinish(id, pos+1-int(o.AnswerStart), int(o.Sampling.MaxTokens))
		if out.Finish != frame.FinishNone || pos == end || d.at(at, pos) != id {
			return out
		}
	}
}
