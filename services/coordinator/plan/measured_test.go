package plan

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/shoal-llm/shoal/services/coordinator/plan/place"
)

// drawPlacer picks a placer for a machine.
func drawPlacer(t *rapid.T) Placer {
	if rapid.Bool().Draw(t, "measured") {
		return Measured
	}
	return Split
}

// drawSpeeds measures some of the devices.
func drawSpeeds(t *rapid.T, nodes []Node) {
	for i := range nodes {
		for j := range nodes[i].Devices {
			if rapid.Bool().Draw(t, "known") {
				nodes[i].Devices[j].Speed = Speed{Shapes: map[string]place.Speed{"": {Fixed: rapid.Float64Range(.1, 10).Draw(t, "layer")}}}
			}
		}
		nodes[i].Links = map[string]place.Link{"n0": {Delay: rapid.Float64Range(0, 1).Draw(t, "delay")}}
	}
}

// TestMeasuredFitsBeside: what is placed beside pipelines that stay takes no
// device of theirs, and what replaces pipelines fits while those are still there.
func TestMeasuredFitsBeside(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m, w, nodes := drawModel(t), drawWishes(t), drawNodes(t)
		w.Stages = rapid.IntRange(0, 2).Draw(t, "few stages")
		old, err := Split(Facts{Model: m, Wishes: w, Nodes: nodes})
		if err != nil {
			return
		}
		drawSpeeds(t, nodes)
		f := Facts{Model: m, Wishes: w, Nodes: nodes}
		kept := rapid.Bool().Draw(t, "kept")
		if kept {
			f.Kept = old.Pipelines
		} else {
			f.Leaving = old.Pipelines
		}
		p, err := Measured(f)
		if err != nil {
			if kept {
				t.Fatalf("beside pipelines that stay nothing has to be placed: %v", err)
			}
			return
		}
		stays, there := uses(old.Pipelines...), uses(old.Pipelines...)
		memory := map[where]uint64{}
		for _, n := range nodes {
			for _, d := range n.Devices {
				memory[where{n.ID, d.Index}] = d.Memory
			}
		}
		s := newSite(f)
		still := s.cluster(serving).Devices
		for _, pl := range p.Pipelines {
			if old.Pipelines[0].same(pl) && !kept {
				continue
			}
			next := 0
			for _, st := range pl.Stages {
				at := where{st.Node, st.Device}
				if st.Part.First != next {
					t.Fatalf("stages %v", pl.Stages)
				}
				next = st.Part.End
				if kept && stays[at] != nil {
					t.Fatalf("%v runs beside a stage that stays", st)
				}
				need := st.Bytes
				if u := there[at]; u != nil { // layers that leave are shared while they are there
					i := slices.IndexFunc(still, func(d place.Device) bool { return d.Node == st.Node && d.Index == st.Device })
					need += u.taken - still[i].Shared(s.model, st.Part)
				}
				there[at] = &use{taken: need}
				if need > memory[at] {
					t.Fatalf("%v: %d bytes of %d are held while both are there", st, need, memory[at])
				}
			}
			if next != m.Layers() {
				t.Fatalf("stages %v of %d layers", pl.Stages, m.Layers())
			}
		}
	})
}

// TestMeasuredMovesForAGain: when a device turns out to be much faster, the plan
// that uses it is that much better; when nothing has changed, it is the same.
func TestMeasuredMovesForAGain(t *testing.T) {
	m := Model{Name: "m", LayerBytes: []uint64{100, 100}, Shapes: []string{"l", "l"}, Context: 64}
	speed := func(layer float64) Speed { return Speed{Shapes: map[string]place.Speed{"l": {Fixed: layer}}} }
	f := Facts{
		Model: m, Wishes: Wishes{Sessions: 1, Slots: 1, Rows: 1, Aim: place.Wishes{Pipelines: 1}},
		Nodes: []Node{{ID: "a", Devices: []Device{{Memory: 1000, Speed: speed(1)}}}, {ID: "b", Devices: []Device{{Memory: 1000, Speed: speed(2)}}}},
	}
	first, err := Measured(f)
	if err != nil || first.Pipelines[0].Stages[0].Node != "a" {
		t.Fatalf("%v, %v: want all on a", first, err)
	}
	f.Leaving = first.Pipelines
	again, err := Measured(f)
	if err != nil || again.Gain != 0 || !again.Pipelines[0].same(first.Pipelines[0]) {
		t.Fatalf("%v, %v: want no change", again, err)
	}
	f.Nodes[1].Devices[0].Speed = speed(0.25)
	better, err := Measured(f)
	if err != nil || better.Pipelines[0].Stages[0].Node != "b" || better.Gain < 0.7 || better.Gain > 0.8 {
		t.Fatalf("%v, %v: want all on b, for a gain of three quarters", better, err)
	}
}
