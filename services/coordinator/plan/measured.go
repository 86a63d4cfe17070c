package plan

import (
	"cmp"
	"errors"
	"math"
	"slices"

	"github.com/shoal-llm/shoal/services/coordinator/plan/place"
)

// Measured is a Placer that goes by what was measured of devices and links: it
// makes the pipelines that serve the wishes' objective best (package place).
// Beside pipelines that are kept it makes more on devices that have no stage,
// where that helps.
func Measured(f Facts) (Placement, error) {
	s := newSite(f)
	if len(f.Kept) > 0 {
		return s.beside(), nil
	}
	p, err := place.Place(s.model, s.cluster(idle), s.wishes)
	if err != nil {
		return Placement{}, err
	}
	out := s.placement(p)
	if len(f.Leaving) == 0 || s.fitBeside(out.Pipelines) {
		return out, nil
	}
	// What leaves and what comes must be there at once.
	if p, err = place.Place(s.model, s.cluster(serving), s.wishes); err != nil {
		return Placement{}, err
	}
	return s.placement(p), nil
}

// state says what memory of a cluster is free.
type state int

const (
	idle    state = iota // all of it, as if nothing ran
	serving              // what leaving pipelines do not use
	rest                 // all of it, on devices that have no stage
)

// site is facts in the form that package place takes.
type site struct {
	facts  Facts
	model  *place.Model
	wishes place.Wishes
	nodes  map[string]Node
	held   map[where]*use // by pipelines that are kept or leave
}

func newSite(f Facts) *site {
	s := &site{facts: f, model: f.Model.placed(), wishes: f.Wishes.placed(f.Model), nodes: map[string]Node{}}
	for _, n := range f.Nodes {
		s.nodes[n.ID] = n
	}
	s.held = uses(append(slices.Clone(f.Kept), f.Leaving...)...)
	return s
}

// placed is the model in the form that package place takes.
func (m Model) placed() *place.Model {
	out := &place.Model{
		Name: m.Name, Embed: m.EmbedBytes, Head: m.HeadBytes, Tied: m.TiedBytes, HeadShape: m.HeadShape,
		KVPage: m.KVPage, KVPools: m.KVPools, KVQueries: m.KVQueries, KV: m.KV, Buffers: m.RowScratch, Logits: m.Logits, Wire: m.Wire, Context: m.Context,
	}
	for i, bytes := range m.LayerBytes {
		l := place.Layer{Bytes: bytes}
		if i < len(m.Shapes) {
			l.Shape = m.Shapes[i]
		}
		out.Layers = append(out.Layers, l)
	}
	return out
}

// placed is the wishes in the form that package place takes.
func (w Wishes) placed(m Model) place.Wishes {
	out := w.Aim
	out.Stages, out.Sessions, out.Context, out.Rows, out.Spares = w.Stages, w.Sessions, w.context(m), w.Rows, w.Spares
	return out
}

// cluster is the devices of the site with the memory that is free.
func (s *site) cluster(st state) *place.Cluster {
	c := &place.Cluster{Links: place.Links{Between: map[place.Direction]place.Link{}}}
	for _, n := range s.facts.Nodes {
		for _, d := range n.Devices {
			if at := (where{n.ID, d.Index}); st != rest || s.held[at] == nil {
				c.Devices = append(c.Devices, s.device(&n, &d, st))
			}
		}
		for to, l := range n.Links {
			c.Links.Between[place.Direction{From: n.ID, To: to}] = l
		}
	}
	return c
}

func (s *site) device(n *Node, d *Device, st state) place.Device {
	out := place.Device{
		Node: n.ID, Index: d.Index, Class: d.Class, Memory: d.Memory,
		Pass: d.Speed.Pass, Turn: d.Speed.Turn, Bandwidth: d.Speed.Bandwidth, Slow: d.Speed.Slow, Speeds: d.Speed.Shapes,
		Held: place.Held{Layers: map[int]bool{}},
	}
	at := where{n.ID, d.Index}
	stages := slices.Clone(s.facts.Spares)
	for _, p := range slices.Concat(s.facts.Kept, s.facts.Leaving) {
		stages = append(stages, p.Stages...)
	}
	for _, stage := range stages {
		if (where{stage.Node, stage.Device}) != at {
			continue
		}
		for l := stage.Part.First; l < stage.Part.End; l++ {
			out.Held.Layers[l] = true
		}
		out.Held.Embed = out.Held.Embed || stage.Part.Embed
		out.Held.Head = out.Held.Head || stage.Part.Head
	}
	if u := s.held[at]; st == serving && u != nil {
		out.Memory -= min(out.Memory, u.taken)
		out.Held.Stays = true
	}
	return out
}

// placement turns what package place says into pipelines.
func (s *site) placement(p *place.Placement) Placement {
	out := Placement{Explanation: p.Explain()}
	for i := range p.Pipelines {
		out.Pipelines = append(out.Pipelines, s.pipeline(p, &p.Pipelines[i]))
	}
	out.Spares = reserve(s.spareNodes(p.Spares), out.Pipelines)
	if len(s.facts.Leaving) > 0 {
		out.Gain = s.gain(p)
	}
	return out
}

func (s *site) pipeline(p *place.Placement, pipe *place.Pipeline) *Pipeline {
	w := s.facts.Wishes
	out := &Pipeline{
		Pages: p.Pages, Slots: w.Slots, Rows: w.Rows, Context: p.Wishes.Context, Sessions: p.Sessions,
	}
	for _, st := range pipe.Stages {
		n := s.nodes[st.Device.Node]
		d := n.Devices[slices.IndexFunc(n.Devices, func(d Device) bool { return d.Index == st.Device.Index })]
		out.Stages = append(out.Stages, Stage{
			Node: n.ID, Address: n.Address, Device: d.Index, Part: st.Part, Class: d.Class, Fingerprint: d.Fingerprint,
			Bytes: st.Bytes, Budget: st.Budget,
		})
	}
	return out
}

// spareNodes are nodes with the devices that are to be spare and no others.
func (s *site) spareNodes(devices []*place.Device) []Node {
	var out []Node
	for _, d := range devices {
		n := s.nodes[d.Node]
		n.Devices = slices.DeleteFunc(slices.Clone(n.Devices), func(o Device) bool { return o.Index != d.Index })
		out = append(out, n)
	}
	return out
}

// beside places more pipelines beside those that are kept, or none.
func (s *site) beside() Placement {
	out := Placement{}
	free := s.cluster(rest)
	w := s.wishes
	if w.Pipelines == 0 || w.Pipelines > len(s.facts.Kept) {
		w.Pipelines = max(w.Pipelines-len(s.facts.Kept), 0)
		w.Slowest = tolerable * s.token(s.facts.Kept)
		if p, err := place.Place(s.model, free, w); err == nil && len(w.Pins) == 0 {
			out = s.placement(p)
			all := append(slices.Clone(s.facts.Kept), out.Pipelines...)
			out.Spares = reserve(s.spareNodes(p.Spares), all)
			out.Explanation = s.explain(all)
			return out
		}
	}
	var spares []*place.Device
	for i := range free.Devices {
		spares = append(spares, &free.Devices[i])
	}
	slices.SortStableFunc(spares, func(a, b *place.Device) int { return cmp.Compare(b.Memory, a.Memory) })
	out.Spares = reserve(s.spareNodes(spares[:min(len(spares), w.Spares)]), s.facts.Kept)
	out.Explanation = s.explain(s.facts.Kept)
	return out
}

// explain says how fast pipelines are that serve together.
func (s *site) explain(pipelines []*Pipeline) string {
	p := s.predict(pipelines)
	if p == nil {
		return ""
	}
	p.Sessions, p.Pages = pipelines[0].Sessions, pipelines[0].Pages
	return p.Explain()
}

// tolerable is how many times as long as on those that run a token may take on a
// pipeline that is added.
const tolerable = 2

// fitBeside reports whether pipelines can be loaded while those that leave are
// still there. One that equals one of those is there already; layers that a
// device holds are shared.
func (s *site) fitBeside(pipelines []*Pipeline) bool {
	c := s.cluster(serving)
	for _, p := range pipelines {
		if slices.ContainsFunc(s.facts.Leaving, p.same) {
			continue
		}
		for _, st := range p.Stages {
			i := slices.IndexFunc(c.Devices, func(d place.Device) bool { return d.Node == st.Node && d.Index == st.Device })
			d := &c.Devices[i]
			need := s.model.Bytes(st.Part, p.Pages, p.Rows) - d.Shared(s.model, st.Part)
			if need > d.Memory {
				return false
			}
			d.Memory -= need
		}
	}
	return true
}

// gain is by how much a placement is better than the pipelines that leave.
func (s *site) gain(p *place.Placement) float64 {
	old := s.predict(s.facts.Leaving)
	if old == nil {
		return 1 // a device of theirs is gone
	}
	if s.wishes.Objective == place.Throughput {
		return 1 - old.Tokens/max(p.Tokens, math.SmallestNonzeroFloat64)
	}
	return 1 - fastest(p)/fastest(old)
}

// token is the time of a token on the fastest of pipelines, or without limit.
func (s *site) token(pipelines []*Pipeline) float64 {
	if p := s.predict(pipelines); p != nil {
		return fastest(p)
	}
	return math.Inf(1)
}

func fastest(p *place.Placement) float64 {
	return slices.MinFunc(p.Pipelines, func(a, b place.Pipeline) int { return cmp.Compare(a.Token, b.Token) }).Token
}

// predict says how fast pipelines are by the facts of now; nil when some device
// of theirs is not among them.
func (s *site) predict(pipelines []*Pipeline) *place.Placement {
	c := s.cluster(idle)
	var all [][]place.Stage
	for _, p := range pipelines {
		var stages []place.Stage
		for _, st := range p.Stages {
			i := slices.IndexFunc(c.Devices, func(d place.Device) bool { return d.Node == st.Node && d.Index == st.Device })
			if i < 0 {
				return nil
			}
			stages = append(stages, place.Stage{Device: &c.Devices[i], Part: st.Part, Bytes: st.Bytes, Budget: st.Budget})
		}
		all = append(all, stages)
	}
	return place.Predict(s.model, all, c.Links, s.wishes)
}

// Predict says how fast a pipeline is by the facts of now. The error says that a
// device of it is not among them.
func Predict(f Facts, p *Pipeline) (place.Pipeline, error) {
	out := newSite(f).predict([]*Pipeline{p})
	if out == nil {
		return place.Pipeline{}, errors.New("a device of the pipeline is not there")
	}
	return out.Pipelines[0], nil
}
