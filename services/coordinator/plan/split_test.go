package plan

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

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
		placed, err := Split(Facts{Model: m, Wishes: w, Nodes: nodes})
		if err != nil {
			return
		}
		p := placed.Pipelines[0]
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
		if p.Pages < m.PagesFor(p.Context) || p.Pages != p.Sessions*m.PagesFor(p.Context) {
			t.Fatalf("%d pages for %d sessions of %d positions", p.Pages, p.Sessions, p.Context)
		}
	})
}

// TestSplitIgnoresTheOrderOfNodes: a plan is a function of who is there.
func TestSplitIgnoresTheOrderOfNodes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m, w, nodes := drawModel(t), drawWishes(t), drawNodes(t)
		a, errA := Split(Facts{Model: m, Wishes: w, Nodes: nodes})
		shuffled := slices.Clone(nodes)
		rnd := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		rnd.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		b, errB := Split(Facts{Model: m, Wishes: w, Nodes: shuffled})
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
		whole := cost(m, w, part(0, m.Layers(), m.Layers()), m.PagesFor(w.context(m)))
		nodes = append(nodes, Node{ID: "big", Devices: []Device{{Memory: whole}}})
		if _, err := Split(Facts{Model: m, Wishes: w, Nodes: nodes}); err != nil {
			t.Fatalf("it fits node big: %v", err)
		}
	})
}
