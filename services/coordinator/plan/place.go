package plan

// Facts are all that a placement is a function of.
type Facts struct {
	Model  Model
	Wishes Wishes
	Nodes  []Node // that may hold stages, in order of their ids
	// Kept are pipelines that stay as they are: their memory is taken.
	Kept []*Pipeline
	// Leaving are pipelines that serve until the new ones do. Their memory is
	// taken until then; a layer that a device holds for them is not loaded again.
	Leaving []*Pipeline
	// Spares are the reserves of the plan in force: those layers are loaded too.
	Spares []Stage
}

// Placement is who shall hold what.
type Placement struct {
	// Pipelines are new ones, without keys; none is no error where Kept is not
	// empty. One that equals a pipeline of Leaving stays in its place.
	Pipelines []*Pipeline
	// Spares are the reserves beside Kept and Pipelines, each with the Bytes and
	// Budget that it needs to be run.
	Spares []Stage
	// Gain is by how much the new pipelines are better than those of Leaving:
	// 0.2 is one fifth. It decides whether sessions are moved for it.
	Gain float64
	// Explanation says in sentences why it is so; empty where nothing is known
	// to say.
	Explanation string
}

// A Placer decides where layers go. It is a pure function. An error says in
// words for an operator why no pipeline is possible.
type Placer func(Facts) (Placement, error)

// use is what a device holds.
type use struct {
	taken  uint64
	layers map[int]bool // whose weights are there
}

// where names a device.
type where struct {
	node   string
	device int
}

// uses adds up what pipelines take on every device.
func uses(pipelines ...*Pipeline) map[where]*use {
	out := map[where]*use{}
	for _, p := range pipelines {
		for _, s := range p.Stages {
			at := where{s.Node, s.Device}
			if out[at] == nil {
				out[at] = &use{layers: map[int]bool{}}
			}
			out[at].taken += s.Bytes
			for l := s.Part.First; l < s.Part.End; l++ {
				out[at].layers[l] = true
			}
		}
	}
	return out
}

// sums returns, for every number of layers, the bytes of those below it that are
// there.
func (u *use) sums(m Model) []uint64 {
	out := make([]uint64, m.Layers()+1)
	for l, bytes := range m.LayerBytes {
		out[l+1] = out[l]
		if u.layers[l] {
			out[l+1] += bytes
		}
	}
	return out
}
