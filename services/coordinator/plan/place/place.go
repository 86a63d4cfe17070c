// Package place decides which device computes which layers of a model: facts
// in, a placement out. It is pure, and knows nothing of epochs or of what is
// running.
//
// A pipeline is found by dynamic programming over contiguous ranges of layers
// (solve.go) on a graph of the orders in which devices may follow each other
// (graph.go): up to six devices all orders, exactly; beyond that a relaxation
// bounds the best from below (bound.go) and gives a first order, which is exact
// where links and layers are alike, and a local search improves it elsewhere
// (search.go). Several pipelines, spares and the promise of sessions are built
// on top (pipelines.go); explain.go says why in sentences.
//
// All times are seconds, all sizes bytes, all rates bytes a second.
package place

import (
	"errors"
	"fmt"
	"slices"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/model"
)

// ErrDoesNotFit says that no placement holds the model.
var ErrDoesNotFit = errors.New("does not fit")

// Speed is how long work of one shape takes on a device: Fixed + rows·Row for a
// pass over rows, and Key more for each row and each position before it.
type Speed struct{ Fixed, Row, Key float64 }

// At is the time of rows rows with keys positions before them.
func (s Speed) At(rows, keys float64) float64 { return s.Fixed + rows*(s.Row+keys*s.Key) }

// Layer is one layer of a model, in the precision in which it is loaded.
type Layer struct {
	Bytes uint64 // of its weights
	Read  uint64 // of them that one row needs; 0 is all, less where experts are chosen
	Shape string // layers of one shape take the same time on a device
}

// Model holds what a placement needs to know of a model.
type Model struct {
	Name      string
	Layers    []Layer
	Embed     uint64 // held by the first stage besides its layers
	Head      uint64 // held by the last stage besides its layers
	Tied      uint64 // counted in both, stored once where one stage has both
	HeadShape string
	KVPage    uint64 // keys and values of one page of one layer
	KVPools   []KVPool
	KVQueries uint64 // of one layer, of sessions whose positions thin out
	KV        compute.KVClass
	Buffers   uint64 // activation buffers of a stage, for one row of a step
	Logits    uint64 // more of them where the head is
	Wire      uint64 // a row between two stages
	Context   int    // positions that the model was made for
}

// KVPool is pages that a stage holds besides in a finer form, where keys and
// values step down as they age.
type KVPool struct {
	Pages int    // at most; never more than the stage has
	Bytes uint64 // of one page of one layer
}

// Device is something that computes, with what is known of it.
type Device struct {
	Node      string
	Index     int
	Name      string // as people know it
	Class     string // numerics class
	Memory    uint64 // usable
	Pass      float64
	Bandwidth float64          // of its memory; 0 is not measured
	Speeds    map[string]Speed // by shape, as measured
	Slow      float64          // real steps take so many times as long; 0 is 1
	Turn      float64          // from the arrival of a message to the step that it begins
	Load      float64          // rate at which weights arrive; 0 is assumed
	Held      Held             // what it has loaded of this model
}

// Held is the weights that a device has loaded already.
type Held struct {
	Layers      map[int]bool
	Embed, Head bool
	// Stays says that Device.Memory is what is free beside these weights: a
	// stage that uses them shares them.
	Stays bool
}

// empty reports whether nothing is held.
func (h *Held) empty() bool { return len(h.Layers) == 0 && !h.Embed && !h.Head }

// ID names a device: node/index.
func (d *Device) ID() string { return fmt.Sprintf("%s/%d", d.Node, d.Index) }

// Measured reports whether the device's speed is known for every shape of m.
func (d *Device) Measured(m *Model) bool {
	for _, l := range m.Layers {
		if _, ok := d.Speeds[l.Shape]; !ok {
			return false
		}
	}
	return len(d.Speeds) > 0
}

// Link is what a message costs from one node to another.
type Link struct {
	Delay float64 // of a small message, one way
	Rate  float64 // 0 is without limit
}

// Time is how long n bytes take.
func (l Link) Time(n uint64) float64 {
	if l.Rate <= 0 {
		return l.Delay
	}
	return l.Delay + float64(n)/l.Rate
}

// Direction is a pair of nodes; a link from a node to itself is one too.
type Direction struct{ From, To string }

// Links are the links of a cluster.
type Links struct {
	Default Link // of directions that Between does not name
	Local   Link // from a node to itself, where Between does not name it
	Between map[Direction]Link
}

// Of returns the link of a direction.
func (l Links) Of(from, to string) Link {
	if link, ok := l.Between[Direction{from, to}]; ok {
		return link
	}
	if from == to {
		return l.Local
	}
	return l.Default
}

// Cluster is what there is to place a model on.
type Cluster struct {
	Devices []Device
	Links   Links
}

// Objective is what a placement makes best.
type Objective uint8

// The objectives.
const (
	Latency    Objective = iota // the time of one token of one stream
	Throughput                  // tokens a second of many streams
)

// String is the objective as flags spell it.
func (o Objective) String() string { return [...]string{"latency", "throughput"}[o] }

// ParseObjective reads an objective as flags spell it.
func ParseObjective(s string) (Objective, error) {
	for o := range Throughput + 1 {
		if o.String() == s {
			return o, nil
		}
	}
	return 0, fmt.Errorf("objective %q: want latency or throughput", s)
}

// Pin wants layers [First, End) on a node, or on one device of it.
type Pin struct {
	First, End int
	On         string // node, or node/index
}

// Wishes are what an operator asks of a placement. The zero value asks for the
// least time of a token in one session of the model's whole context.
type Wishes struct {
	Objective Objective
	Streams   int     // expected at once; throughput is for these
	Prompt    int     // tokens of a typical prompt, for predictions
	Sessions  int     // of the whole context, to hold KV pages for; fewer are promised when memory is short
	Context   int     // positions of a session; 0 is the model's
	Rows      int     // of a step
	Stages    int     // of each pipeline, exactly; 0 is as many as are best
	MaxStages int     // 0 is without limit
	Pipelines int     // at most; 0 is as many as help
	Slowest   float64 // seconds of a token on a pipeline, at most; 0 is without limit
	Spares    int     // devices without a stage, to take over for others
	Pins      []Pin
	Exclude   []string // nodes, or node/index
	Memory    uint64   // of a device that this model may use; 0 is all
	Headroom  float64  // part of a device's memory that stays free
}

// What is assumed where nothing is said or measured.
const (
	typicalPrompt  = 128
	typicalStreams = 16
	typicalRows    = 256
	assumedRead    = 10e9 // bytes a second that a device reads while it decodes
	assumedRow     = 16   // rows take the time of one reading of the weights
	assumedLoad    = 250e6
	// patience is how many steps a move may take to pay for itself.
	patience = 10_000
)

// complete fills in what was not said.
func (w Wishes) complete(m *Model) Wishes {
	set := func(v *int, to int) {
		if *v <= 0 {
			*v = to
		}
	}
	set(&w.Streams, typicalStreams)
	if w.Objective == Latency {
		w.Streams = 1
	}
	set(&w.Prompt, typicalPrompt)
	set(&w.Sessions, 1)
	set(&w.Rows, typicalRows)
	if w.Context <= 0 || w.Context > m.Context {
		w.Context = m.Context
	}
	w.Prompt = min(w.Prompt, w.Context)
	return w
}

// excludes reports whether the operator wants nothing on d.
func (w *Wishes) excludes(d *Device) bool {
	return slices.Contains(w.Exclude, d.Node) || slices.Contains(w.Exclude, d.ID())
}

// on reports whether a pin names d.
func (p Pin) on(d *Device) bool { return p.On == d.Node || p.On == d.ID() }

// Check reports the first wish that cannot be meant for m on c.
func (w Wishes) Check(m *Model, c *Cluster) error {
	for i, p := range w.Pins {
		if p.First < 0 || p.End > len(m.Layers) || p.First >= p.End {
			return fmt.Errorf("pin layers %d to %d: the model has layers 0 to %d", p.First, p.End-1, len(m.Layers)-1)
		}
		if !slices.ContainsFunc(c.Devices, func(d Device) bool { return p.on(&d) && !w.excludes(&d) }) {
			return fmt.Errorf("pin layers %d to %d on %s: there is no such device", p.First, p.End-1, p.On)
		}
		for _, q := range w.Pins[:i] {
			if q.On != p.On && p.First < q.End && q.First < p.End {
				return fmt.Errorf("pin layers %d to %d on %s: %s is pinned to some of them", p.First, p.End-1, p.On, q.On)
			}
		}
	}
	return nil
}

// Placement says where a model goes.
type Placement struct {
	Model     *Model
	Wishes    Wishes // completed
	Pipelines []Pipeline
	Spares    []*Device
	Idle      []Idle
	Sessions  int     // of the whole context, on every pipeline
	Pages     int     // KV pages on every stage
	Tokens    float64 // a second, of all pipelines together, for the expected streams
	Alone     *Alone  // the best that one device could do, where a pipeline has several
}

// Pipeline is stages that cover the model once, in order.
type Pipeline struct {
	Stages     []Stage
	Value      float64 // of the objective: seconds of a token, or of the busiest stage or link
	Bound      float64 // no placement has a smaller value; equal to Value where that is proven
	Token      float64 // seconds of a token of one stream
	Return     float64 // of it, from the last stage to the next step
	BackLink   float64 // of that, on the link
	FirstToken float64 // seconds to the first token after a prompt of Prompt tokens
	Prompt     int
	Streams    float64 // that Throughput is for
	Lanes      int     // that give Throughput
	Throughput float64 // tokens a second
}

// Stage is a contiguous range of layers on one device.
type Stage struct {
	Device  *Device
	Part    model.Part
	Bytes   uint64  // weights, KV pages and buffers
	Weights uint64  // of them, weights
	Page    uint64  // of them, one KV page
	Budget  uint64  // of the device that the stage may use
	Decode  float64 // seconds of a step of one row
	Row     float64 // more for each further row of another session
	Prefill float64 // seconds of a step of Wishes.Rows rows of a prompt
	Hop     float64 // seconds of one row to the next stage, until its step begins; 0 on the last
	Link    float64 // of them, on the link
	Load    uint64  // bytes that are not there yet
	Assumed bool    // the device has not been measured for this model
}

// Idle is a device without a stage, and why.
type Idle struct {
	Device *Device
	Reason string
}

// Alone is what one device could do by itself.
type Alone struct {
	Device   *Device
	Token    float64 // seconds of a token
	Sessions int     // whole contexts that fit; 0 when the model does not
	Bytes    uint64  // of the model with one session
}
