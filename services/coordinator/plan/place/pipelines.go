package place

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"sort"
)

// tolerable is how many times as long as on the best pipeline a token may take
// on another one that serves beside it.
const tolerable = 2

// Place decides where m goes on c. The result is a function of its arguments;
// the order of devices does not matter. When not every wished session fits, the
// most that fit are promised, at least one. The error wraps ErrDoesNotFit, or
// names the wish that cannot be meant.
func Place(m *Model, c *Cluster, w Wishes) (*Placement, error) {
	if err := w.Check(m, c); err != nil {
		return nil, err
	}
	w = w.complete(m)
	devices := candidates(c, &w)
	sessions, err := promise(m, c, &w, devices)
	if err != nil {
		return nil, err
	}
	pl := &planner{model: m, wishes: &w, links: &c.Links, pages: sessions * m.PagesFor(w.Context), work: searchWork}
	routes, spares := pl.withSpares(devices)
	if len(routes) == 0 {
		return nil, pl.nothing(devices)
	}
	p := &Placement{
		Model: m, Wishes: w, Pipelines: routes, Spares: spares, Sessions: sessions, Pages: pl.pages,
	}
	p.divideStreams()
	p.explainIdle(c)
	p.compareAlone(devices, &c.Links)
	return p, nil
}

// candidates are the devices that may get a stage, in a stable order.
func candidates(c *Cluster, w *Wishes) []*Device {
	var out []*Device
	for i := range c.Devices {
		if d := &c.Devices[i]; d.Memory > 0 && !w.excludes(d) {
			out = append(out, d)
		}
	}
	slices.SortFunc(out, func(a, b *Device) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.Index, b.Index))
	})
	return out
}

// promise finds how many whole contexts every pipeline can hold.
func promise(m *Model, c *Cluster, w *Wishes, devices []*Device) (int, error) {
	fits := func(sessions int) bool {
		p := newProblem(m, w, devices, &c.Links, sessions*m.PagesFor(w.Context))
		return p.feasible()
	}
	if fits(w.Sessions) {
		return w.Sessions, nil
	}
	// Fewer sessions need less of every stage, so the search may halve.
	fewer := sort.Search(w.Sessions, func(i int) bool { return fits(w.Sessions - i) })
	if fewer == w.Sessions {
		pl := &planner{model: m, wishes: w, links: &c.Links, pages: m.PagesFor(w.Context)}
		return 0, pl.tooSmall(devices, "")
	}
	return w.Sessions - fewer, nil
}

// feasible reports whether there is a pipeline.
func (p *problem) feasible() bool {
	for i := range p.seats {
		if p.fewest <= 1 {
			if _, fits := p.stage(&p.seats[i], 0, p.last()); fits {
				return true
			}
		}
	}
	none := 0 // of local search: any pipeline will do
	r, _, _ := p.best(&none)
	return r != nil
}

// planner forms pipelines.
type planner struct {
	model  *Model
	wishes *Wishes
	links  *Links
	pages  int
	work   int // of local searches that may still be done
}

// withSpares forms pipelines so that as many devices as are wished stay without
// a stage: those that are of least use.
func (pl *planner) withSpares(devices []*Device) ([]Pipeline, []*Device) {
	kept := slices.Clone(devices)
	for {
		pipes := pl.form(kept)
		if len(pipes) == 0 || pl.wishes.Spares == 0 {
			return pipes, nil
		}
		free := slices.DeleteFunc(slices.Clone(devices), func(d *Device) bool { return holdsStage(pipes, d) })
		slices.SortStableFunc(free, func(a, b *Device) int { return cmp.Compare(pl.slowness(a), pl.slowness(b)) })
		if len(free) >= pl.wishes.Spares {
			return pipes, free[:pl.wishes.Spares]
		}
		least := -1 // the slowest device that is not pinned to
		for i, d := range kept {
			if !pl.pinned(d) && (least < 0 || pl.slowness(d) > pl.slowness(kept[least])) {
				least = i
			}
		}
		if least < 0 {
			return nil, nil
		}
		kept = slices.Delete(kept, least, least+1)
	}
}

func holdsStage(pipes []Pipeline, d *Device) bool {
	return slices.ContainsFunc(pipes, func(p Pipeline) bool {
		return slices.ContainsFunc(p.Stages, func(s Stage) bool { return s.Device == d })
	})
}

func (pl *planner) pinned(d *Device) bool {
	return slices.ContainsFunc(pl.wishes.Pins, func(p Pin) bool { return p.on(d) })
}

// slowness is the time of all layers on one device.
func (pl *planner) slowness(d *Device) float64 {
	return d.time(pl.model, pl.model.whole(), pl.wishes.decode(1))
}

// form makes the pipelines of devices that serve best.
func (pl *planner) form(devices []*Device) []Pipeline {
	w := *pl.wishes
	w.Objective = Latency
	replicas := pl.replicas(devices, &w)
	if pl.wishes.Objective == Latency {
		return replicas
	}
	wide := pl.one(devices, pl.wishes)
	if wide == nil {
		return replicas
	}
	both := [][]Pipeline{replicas, {*wide}}
	if split := pl.replicas(devices, pl.wishes); len(split) > 1 {
		both = append(both, split)
	}
	best := both[0]
	for _, b := range both[1:] {
		if pl.rate(b) > pl.rate(best)*(1+slack) {
			best = b
		}
	}
	return best
}

// replicas takes the best pipeline of the devices that are left, again and
// again, until the model does not fit them or a token would take too long.
func (pl *planner) replicas(devices []*Device, w *Wishes) []Pipeline {
	var pipes []Pipeline
	left := slices.Clone(devices)
	for len(left) > 0 && (w.Pipelines == 0 || len(pipes) < w.Pipelines) {
		if len(pipes) > 0 && w.Stages > len(left) {
			break // only the first pipeline may share devices among its stages
		}
		p := pl.one(left, w)
		if p == nil || len(pipes) > 0 && p.Token > tolerable*pipes[0].Token || w.Slowest > 0 && p.Token > w.Slowest {
			break
		}
		if pl.wishes.Objective == Latency {
			p = pl.even(p, w)
		}
		pipes = append(pipes, *p)
		left = slices.DeleteFunc(left, func(d *Device) bool { return holdsStage(pipes[len(pipes)-1:], d) })
		if len(w.Pins) > 0 {
			break // they fix one pipeline
		}
	}
	return pipes
}

// evenly is how much longer a token may take for the sake of an even split.
const evenly = 0.03

// mostEven is the number of devices beyond which memory, not choice, makes the split, and
// another search would take long.
const mostEven = 8

// even returns the pipeline over the same devices whose busiest stage has the least to do
// with a prompt, if a token takes hardly longer on it: prompts, and answers beside each
// other, pass the stages one behind the other, which a token alone does not tell.
func (pl *planner) even(p *Pipeline, w *Wishes) *Pipeline {
	var devices []*Device
	for _, s := range p.Stages {
		if !slices.Contains(devices, s.Device) {
			devices = append(devices, s.Device)
		}
	}
	if len(devices) < 2 || len(devices) < len(p.Stages) || len(devices) > mostEven {
		return p
	}
	t := *w
	t.Objective, t.Stages = Throughput, len(p.Stages)
	problem := newProblem(pl.model, &t, devices, pl.links, pl.pages)
	work := searchWork / 8
	r, _, _ := problem.best(&work)
	if r == nil {
		return p
	}
	q := pl.describe(problem, r)
	if q.Token > p.Token*(1+evenly) || q.busiest() > p.busiest()*(1-evenly) {
		return p
	}
	q.Value = p.Value + q.Token - p.Token
	q.Bound = min(p.Bound, q.Value)
	return q
}

// busiest is the longest that a stage takes for a step of a prompt.
func (p *Pipeline) busiest() float64 {
	longest := 0.0
	for _, s := range p.Stages {
		longest = max(longest, s.Prefill)
	}
	return longest
}

// one finds one pipeline; nil when there is none.
func (pl *planner) one(devices []*Device, w *Wishes) *Pipeline {
	p := newProblem(pl.model, w, devices, pl.links, pl.pages)
	r, value, bound := p.best(&pl.work)
	if r == nil {
		return nil
	}
	out := pl.describe(p, r)
	out.Value, out.Bound = value, bound
	return out
}

// rate is the tokens a second of pipelines that share the expected streams.
func (pl *planner) rate(pipes []Pipeline) float64 {
	p := Placement{Model: pl.model, Wishes: *pl.wishes, Pipelines: slices.Clone(pipes)}
	p.divideStreams()
	return p.Tokens
}

// divideStreams gives each pipeline a share of the expected streams, by its
// speed, and predicts what they get.
func (p *Placement) divideStreams() {
	speed := 0.0
	for _, pipe := range p.Pipelines {
		speed += 1 / pipe.Token
	}
	p.Tokens = 0
	for i := range p.Pipelines {
		pipe := &p.Pipelines[i]
		share := float64(p.Wishes.Streams) / pipe.Token / speed
		pipe.Streams = max(1, math.Round(share))
		pipe.Lanes, pipe.Throughput = pipe.throughput(p.Model, pipe.Streams, &p.Wishes)
		if i < p.Wishes.Streams { // with fewer streams the others wait
			p.Tokens += pipe.Throughput
		}
	}
}

// nothing says why there is no pipeline though the model fits.
func (pl *planner) nothing(devices []*Device) error {
	if pl.wishes.Slowest > 0 {
		return fmt.Errorf("model %s %w: a token would take longer than %s", pl.model.Name, ErrDoesNotFit, Duration(pl.wishes.Slowest))
	}
	return pl.tooSmall(devices, fmt.Sprintf("with %d devices kept as spares", pl.wishes.Spares))
}

// tooSmall says what is needed and what is there. The error wraps
// ErrDoesNotFit.
func (pl *planner) tooSmall(devices []*Device, why string) error {
	if len(devices) == 0 {
		return fmt.Errorf("model %s %w: no device with memory may be used", pl.model.Name, ErrDoesNotFit)
	}
	if why != "" {
		return fmt.Errorf("model %s %w %s", pl.model.Name, ErrDoesNotFit, why)
	}
	need := pl.model.Bytes(pl.model.whole(), pl.model.PagesFor(pl.wishes.Context), pl.wishes.Rows)
	var have uint64
	list := ""
	const most = 8
	for i, d := range devices {
		have += pl.wishes.budget(d)
		switch {
		case i == most:
			list += fmt.Sprintf(", %d more", len(devices)-most)
		case i < most:
			if i > 0 {
				list += ", "
			}
			list += fmt.Sprintf("%s %s", d.ID(), Size(pl.wishes.budget(d)))
		}
	}
	but := ""
	if have >= need {
		but = fmt.Sprintf(", but no split of %d layers fits", len(pl.model.Layers))
	}
	return fmt.Errorf("model %s %w: it needs %s with one session of %d positions, the cluster has %s usable%s: %s",
		pl.model.Name, ErrDoesNotFit, Size(need), pl.wishes.Context, Size(have), but, list)
}

// Size writes bytes as people read them.
func Size(n uint64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%d bytes", n)
}
