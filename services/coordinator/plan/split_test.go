package plan

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func drawModel(t *rapid.T) Model {
	bytes := rapid.Uint64Range(1, 1000)
	m := Model{
		Name:       "m",
		LayerBytes: rapid.SliceOfN(bytes, 1, 12).Draw(t, "layers"),
		EmbedBytes: bytes.Draw(t, "embed"),
		HeadBytes:  bytes.Draw(t, "head"),
		KVPage:     rapid.Uint64Range(0, 20).Draw(t, "page"),
		Context:    rapid.IntRange(1, 300).Draw(t, "context"),
		RowScratch: rapid.Uint64Range(0, 5).Draw(t, "scratch"),
		Logits:     rapid.Uint64Range(0, 5).Draw(t, "logits"),
	}
	m.TiedBytes = rapid.Uint64Range(0, min(m.EmbedBytes, m.HeadBytes)).Draw(t, "tied")
	return m
}

func drawWishes(t *rapid.T) Wishes {
	return Wishes{
		Stages:   rapid.IntRange(0, 14).Draw(t, "stages"),
		Sessions: rapid.IntRange(1, 9).Draw(t, "sessions"),
		Context:  rapid.IntRange(0, 400).Draw(t, "wished context"),
		Slots:    4, Rows: 8,
	}
}

func drawNodes(t *rapid.T) []Node {
	var nodes []Node
	for i := range rapid.IntRange(0, 5).Draw(t, "nodes") {
		n := Node{ID: fmt.Sprint("n", i), Address: fmt.Sprint("h", i)}
		for j, mem := range rapid.SliceOfN(rapid.Uint64Range(0, 9000), 0, 3).Draw(t, "devices") {
			n.Devices = append(n.Devices, Device{Index: j, Memory: mem})
		}
		nodes = append(nodes, n)
	}
	return nodes
}

// TestSplitCoversTheModel: whatever the facts, a plan holds every layer exactly
// once, in order, the embedding first and the head last, within memory.
func TestSplitCoversTheModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m, w, nodes := drawModel(t), drawWishes(t), drawNodes(t)
		p, err := Split(m, w, nodes)
		if err != nil {
			return
		}
		next := 0
		used := map[[2]string]uint64{}
		for i, s := range p.Stages {
			if err := s.Part.Check(m.Layers()); err != nil || s.Part.First != next {
				t.Fatalf("stage %d is %v, want layers from %d: %v", i, s, next, err)
			}
			next = s.Part.End
			if got := cost(m, w, s.Part, p.Pages); s.Bytes != got {
				t.Fatalf("stage %d is said to take %d bytes, takes %d", i, s.Bytes, got)
			}
			used[[2]string{s.Node, fmt.Sprint(s.Device)}] += s.Bytes
		}
		if next != m.Layers() {
			t.Fatalf("the plan ends at layer %d of %d", next, m.Layers())
		}
		for _, n := range nodes {
			for _, d := range n.Devices {
				if got := used[[2]string{n.ID, fmt.Sprint(d.Index)}]; got > d.Memory {
					t.Fatalf("device %d of %s holds %d bytes of %d", d.Index, n.ID, got, d.Memory)
				}
			}
		}
		if w.Stages > 0 && len(p.Stages) > w.Stages {
			t.Fatalf("%d stages, %d wished", len(p.Stages), w.Stages)
		}
		if p.Pages < PagesFor(p.Context) || p.Pages != p.Sessions*PagesFor(p.Context) {
			t.Fatalf("%d pages for %d sessions of %d positions", p.Pages, p.Sessions, p.Context)
		}
	})
}

// TestSplitIgnoresTheOrderOfNodes: a plan is a function of who is there.
func TestSplitIgnoresTheOrderOfNodes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m, w, nodes := drawModel(t), drawWishes(t), drawNodes(t)
		a, errA := Split(m, w, nodes)
		shuffled := slices.Clone(nodes)
		rnd := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		rnd.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		b, errB := Split(m, w, shuffled)
		if fmt.Sprint(errA) != fmt.Sprint(errB) || cmp.Diff(a, b) != "" {
			t.Fatalf("two orders, two plans: %v %v\n%s", errA, errB, cmp.Diff(a, b))
		}
	})
}

// TestSplitFindsWhatFits: when the whole model fits one device, a plan exists.
func TestSplitFindsWhatFits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m, w, nodes := drawModel(t), drawWishes(t), drawNodes(t)
		w.Stages = rapid.IntRange(0, 1).Draw(t, "one or any")
		whole := cost(m, w, part(0, m.Layers(), m.Layers()), PagesFor(w.context(m)))
		nodes = append(nodes, Node{ID: "big", Devices: []Device{{Memory: whole}}})
		if _, err := Split(m, w, nodes); err != nil {
			t.Fatalf("it fits node big: %v", err)
		}
	})
}

// TestEpochGrows: in any history of events every installed plan has a higher
// epoch than those before and than any a node has seen, and a plan starts only
// after it was installed and not after it was dropped.
func TestEpochGrows(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := New(Config{Coordinator: 7, Model: drawModel(t), Wishes: Wishes{Sessions: 1, Slots: 1, Rows: 1, Settle: time.Millisecond}})
		var last, alive uint64
		now := time.UnixMilli(0)
		for range rapid.IntRange(1, 60).Draw(t, "events") {
			now = now.Add(time.Duration(rapid.IntRange(0, 2).Draw(t, "ms")) * time.Millisecond)
			actions := append(m.Step(Tick{now}), m.Step(drawEvent(t, m))...)
			for _, a := range actions {
				switch a := a.(type) {
				case Install:
					if a.Plan.Epoch <= last || a.Plan.Epoch&0xff != 7 || alive != 0 {
						t.Fatalf("epoch %d after %d, %d in force", a.Plan.Epoch, last, alive)
					}
					last, alive = a.Plan.Epoch, a.Plan.Epoch
				case Start:
					if a.Epoch != alive {
						t.Fatalf("epoch %d starts, %d is in force", a.Epoch, alive)
					}
				case Drop:
					if a.Epoch != alive {
						t.Fatalf("epoch %d is dropped, %d is in force", a.Epoch, alive)
					}
					alive = 0
				}
			}
			if (m.Phase() == Waiting) != (m.Plan() == nil) || (m.Phase() == Ready) != (m.Reason() == "") {
				t.Fatalf("phase %v, plan %v, reason %q", m.Phase(), m.Plan(), m.Reason())
			}
			last = max(last, m.Epoch())
		}
	})
}

func drawEvent(t *rapid.T, m *Machine) Event {
	id := fmt.Sprint("n", rapid.IntRange(0, 3).Draw(t, "node"))
	stage := rapid.IntRange(0, 3).Draw(t, "stage")
	switch rapid.IntRange(0, 5).Draw(t, "kind") {
	case 0, 1:
		return Joined{Node: Node{ID: id, Devices: []Device{{Memory: rapid.Uint64Range(0, 9000).Draw(t, "memory")}}}}
	case 2:
		return Lost{id, "lost"}
	case 3:
		return Loaded{Epoch: m.Epoch(), Stage: stage, Err: rapid.SampledFrom([]string{"", "", "", "no"}).Draw(t, "error")}
	case 4:
		return Refused{id, m.Epoch() + rapid.Uint64Range(0, 600).Draw(t, "ahead"), "newer"}
	}
	return Faulted{m.Epoch(), stage, "fault"}
}
