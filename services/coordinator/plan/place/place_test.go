package place

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "rewrite the scripts' answers")

// TestScripts runs the scripts: facts line by line, and after each `place` what
// the planner says of them, indented.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := (&script{t: t}).run(string(want))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if d := cmp.Diff(string(want), got); d != "" {
				t.Errorf("-want +got:\n%s", d)
			}
		})
	}
}

// script is the facts that have been told so far.
type script struct {
	t        *testing.T
	model    Model
	cluster  Cluster
	wishes   Wishes
	requests []Request
}

func (s *script) run(text string) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if strings.HasPrefix(line, "  ") {
			continue // the last run's answer
		}
		out.WriteString(line + "\n")
		verb, rest, _ := strings.Cut(line, " ")
		for answer := range strings.Lines(s.tell(verb, rest)) {
			out.WriteString("  " + answer)
		}
	}
	return out.String()
}

// tell takes a fact, or answers a question.
func (s *script) tell(verb, rest string) string {
	switch verb {
	case "", "#":
	case "model":
		s.model = s.parseModel(rest)
	case "device":
		s.cluster.Devices = append(s.cluster.Devices, s.parseDevice(rest))
	case "link":
		s.parseLink(rest)
	case "wish":
		s.wishes = s.parseWishes(rest)
	case "reset":
		s.cluster, s.wishes, s.requests = Cluster{}, Wishes{}, nil
	case "place":
		p, err := Place(&s.model, &s.cluster, s.wishes)
		if err != nil {
			return err.Error() + "\n"
		}
		return p.Explain()
	case "also":
		m := s.model
		s.requests = append(s.requests, Request{&m, s.wishes})
	case "place-all":
		placements, err := PlaceAll(s.requests, &s.cluster)
		text := ""
		for _, p := range placements {
			text += p.Model.Name + "\n" + p.Explain()
		}
		if err != nil {
			text += err.Error() + "\n"
		}
		return text
	case "reach":
		answer, err := Reach(&s.model, &s.cluster, s.wishes, s.number(rest))
		if err != nil {
			return err.Error() + "\n"
		}
		return answer + "\n"
	default:
		s.t.Fatalf("unknown word %q", verb)
	}
	return ""
}

// fields reads key=value pairs.
func fields(text string) map[string]string {
	out := map[string]string{}
	for f := range strings.FieldsSeq(text) {
		key, value, _ := strings.Cut(f, "=")
		out[key] = value
	}
	return out
}

// number reads a number that may end in K, M or G; empty is 0.
func (s *script) number(text string) float64 {
	if text == "" {
		return 0
	}
	unit := 1.0
	if i := strings.IndexByte("KMG", text[len(text)-1]); i >= 0 {
		unit = float64(uint64(1) << (10 * (i + 1)))
		text = text[:len(text)-1]
	}
	v, err := strconv.ParseFloat(text, 64)
	if err != nil {
		s.t.Fatalf("number %q: %v", text, err)
	}
	return v * unit
}

// seconds reads a duration; empty is 0.
func (s *script) seconds(text string) float64 {
	if text == "" {
		return 0
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		s.t.Fatal(err)
	}
	return d.Seconds()
}

func (s *script) parseModel(text string) Model {
	f := fields(text)
	n := func(key string) uint64 { return uint64(s.number(f[key])) }
	m := Model{
		Name: f["name"], Embed: n("embed"), Head: n("head"), Tied: n("tied"), HeadShape: "head",
		KVPage: n("kvpage"), Context: int(n("context")), Buffers: n("row"), Logits: n("logits"), Wire: n("wire"),
	}
	for range n("layers") {
		m.Layers = append(m.Layers, Layer{Bytes: n("layer"), Read: n("read"), Shape: "layer"})
	}
	return m
}

// parseDevice reads `a/0 memory=4G layer=1ms,0.1ms head=2ms class=c`: a layer's
// fixed time and that of a row.
func (s *script) parseDevice(text string) Device {
	name, rest, _ := strings.Cut(text, " ")
	f := fields(rest)
	node, index, _ := strings.Cut(name, "/")
	d := Device{
		Node: node, Index: int(s.number(index)), Memory: uint64(s.number(f["memory"])), Class: f["class"],
		Pass: s.seconds(f["pass"]), Bandwidth: s.number(f["bandwidth"]), Slow: s.number(f["slow"]), Turn: s.seconds(f["turn"]),
		Speeds: map[string]Speed{},
	}
	for _, shape := range []string{"layer", "head"} {
		if v, ok := f[shape]; ok {
			fixed, row, _ := strings.Cut(v, ",")
			d.Speeds[shape] = Speed{Fixed: s.seconds(fixed), Row: s.seconds(row)}
		}
	}
	if held, ok := f["held"]; ok {
		first, end, _ := strings.Cut(held, "..")
		d.Held = Held{Layers: map[int]bool{}, Embed: first == "0", Head: int(s.number(end)) == len(s.model.Layers)}
		for i := int(s.number(first)); i < int(s.number(end)); i++ {
			d.Held.Layers[i] = true
		}
	}
	return d
}

// parseLink reads `delay=1ms rate=100M` for all links, or `a b delay=…` for both
// directions of one.
func (s *script) parseLink(text string) {
	f := fields(text)
	l := Link{Delay: s.seconds(f["delay"]), Rate: s.number(f["rate"])}
	words := strings.Fields(text)
	if strings.Contains(words[0], "=") {
		s.cluster.Links.Default = l
		return
	}
	if s.cluster.Links.Between == nil {
		s.cluster.Links.Between = map[Direction]Link{}
	}
	s.cluster.Links.Between[Direction{words[0], words[1]}] = l
	s.cluster.Links.Between[Direction{words[1], words[0]}] = l
}

func (s *script) parseWishes(text string) Wishes {
	f := fields(text)
	n := func(key string) int { return int(s.number(f[key])) }
	w := Wishes{
		Streams: n("streams"), Prompt: n("prompt"), Sessions: n("sessions"), Context: n("context"), Rows: n("rows"),
		Stages: n("stages"), MaxStages: n("most"), Pipelines: n("pipelines"), Spares: n("spares"),
		Memory: uint64(s.number(f["memory"])), Headroom: s.number(f["headroom"]),
	}
	if o, ok := f["objective"]; ok {
		var err error
		if w.Objective, err = ParseObjective(o); err != nil {
			s.t.Fatal(err)
		}
	}
	if v, ok := f["exclude"]; ok {
		w.Exclude = strings.Split(v, ",")
	}
	if v, ok := f["pin"]; ok {
		for p := range strings.SplitSeq(v, ",") {
			layers, on, _ := strings.Cut(p, ":")
			first, last, _ := strings.Cut(layers, "-")
			w.Pins = append(w.Pins, Pin{int(s.number(first)), int(s.number(last)) + 1, on})
		}
	}
	return w
}

// TestPlacementHolds: whatever the facts, every pipeline covers the model once
// and in order, no device holds two stages of different pipelines nor more than
// it may, and every device has a stage, is a spare, or is told why not.
func TestPlacementHolds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m, c, w := drawCase(t, 6, 6)
		w.Spares = rapid.IntRange(0, 2).Draw(t, "spares")
		p, err := Place(m, c, w)
		if err != nil {
			return
		}
		used, owner := map[string]uint64{}, map[string]int{}
		for i, pipe := range p.Pipelines {
			next := 0
			for _, s := range pipe.Stages {
				if err := s.Part.Check(len(m.Layers)); err != nil || s.Part.First != next {
					t.Fatalf("pipeline %d: stage %v, want layers from %d: %v", i, s, next, err)
				}
				next = s.Part.End
				if used[s.Device.ID()] += s.Bytes - s.Device.Shared(m, s.Part); used[s.Device.ID()] > s.Device.Memory {
					t.Fatalf("%s holds %d bytes of %d", s.Device.ID(), used[s.Device.ID()], s.Device.Memory)
				}
				if had, ok := owner[s.Device.ID()]; ok && had != i {
					t.Fatalf("%s serves pipelines %d and %d", s.Device.ID(), had, i)
				}
				owner[s.Device.ID()] = i
			}
			if next != len(m.Layers) || w.Stages > 0 && len(pipe.Stages) != min(w.Stages, next) {
				t.Fatalf("pipeline %d: %v", i, pipe.Stages)
			}
		}
		if len(p.Spares) != w.Spares || len(owner)+len(p.Spares)+len(p.Idle) != len(c.Devices) {
			t.Fatalf("%d devices: %d with stages, %d spare of %d, %d idle", len(c.Devices), len(owner), len(p.Spares), w.Spares, len(p.Idle))
		}
	})
}

// TestPlacementIgnoresTheOrderOfDevices: a placement is a function of what is
// there.
func TestPlacementIgnoresTheOrderOfDevices(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m, c, w := drawCase(t, 6, 6)
		say := func(c *Cluster) string {
			p, err := Place(m, c, w)
			if err != nil {
				return err.Error()
			}
			return p.Explain()
		}
		a := say(c)
		rnd := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		rnd.Shuffle(len(c.Devices), func(i, j int) { c.Devices[i], c.Devices[j] = c.Devices[j], c.Devices[i] })
		if b := say(c); a != b {
			t.Fatalf("two orders, two placements:\n%s\n%s", a, b)
		}
	})
}

// TestPromiseIsTheMostThatFits: one session more would not fit.
func TestPromiseIsTheMostThatFits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m, c, w := drawCase(t, 4, 5)
		w.Sessions = 12
		p, err := Place(m, c, w)
		if err != nil || p.Sessions == w.Sessions {
			return
		}
		full := w.complete(m)
		more := newProblem(m, &full, candidates(c, &full), &c.Links, (p.Sessions+1)*m.PagesFor(full.Context))
		if !same(brute(more), inf) {
			t.Fatalf("%d sessions are promised, %d fit", p.Sessions, p.Sessions+1)
		}
	})
}

// uneven is a model of 128 layers and 32 nodes of many speeds, on links that are
// all different: the planner's worst case.
func uneven(layers, nodes int) (*Model, *Cluster) {
	rnd := rand.New(rand.NewPCG(1, 2))
	m := &Model{
		Name: "m", Embed: 1 << 30, Head: 1 << 30, Tied: 1 << 30, HeadShape: "head",
		KVPage: 256 << 10, Context: 8192, Buffers: 1 << 20, Logits: 512 << 10, Wire: 32 << 10,
	}
	for i := range layers {
		m.Layers = append(m.Layers, Layer{Bytes: 500<<20 + uint64(i%3)<<24, Shape: fmt.Sprint("s", i%3)})
	}
	c := &Cluster{Links: Links{Default: Link{Delay: 1e-3, Rate: 1e8}, Between: map[Direction]Link{}}}
	for a := range nodes {
		speed := 0.5 + rnd.Float64()
		d := Device{Node: fmt.Sprintf("n%02d", a), Memory: uint64((4 + rnd.IntN(20)) << 30), Pass: 1e-4, Speeds: map[string]Speed{"head": {2e-2 * speed, 1e-3, 0}}}
		for i := range 3 {
			d.Speeds[fmt.Sprint("s", i)] = Speed{5e-3 * speed * float64(3+i), 2e-4 * speed, 1e-8}
		}
		c.Devices = append(c.Devices, d)
		for b := range nodes {
			c.Links.Between[Direction{d.Node, fmt.Sprintf("n%02d", b)}] = Link{Delay: 1e-4 + 2e-3*rnd.Float64(), Rate: 1e8 * (1 + rnd.Float64())}
		}
	}
	return m, c
}

func BenchmarkPlace(b *testing.B) {
	m, c := uneven(128, 32)
	for _, o := range []Objective{Latency, Throughput} {
		b.Run(o.String(), func(b *testing.B) {
			for b.Loop() {
				if _, err := Place(m, c, Wishes{Objective: o, Sessions: 4}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
