// Package plan decides which node computes which layers, and keeps it so while
// nodes come and go.
//
// A plan is a set of pipelines. A pipeline is made once and never changed; its
// key, the epoch of the plan that made it and a number, is its identity. A newer
// plan that keeps a pipeline keeps its key, so its sessions are not disturbed,
// and frames of (epoch, pipeline, step) stay totally ordered.
//
// The Machine is pure: events in, actions out. It reads no clock, starts no
// goroutine and does no I/O; time comes in as Tick. The scripts in testdata are
// its specification. Where layers go is decided by a Placer, a pure function.
package plan

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/model"
	"github.com/shoal-llm/shoal/services/coordinator/plan/place"
)

// Device is something on a node that can hold stages.
type Device struct {
	Index       int
	Memory      uint64 // usable bytes
	Class       string // numerics class
	Fingerprint []byte // of the class's self-test
	Speed       Speed
}

// Speed is what was measured of a device; the zero value is nothing.
type Speed struct {
	Pass      float64                // seconds of any step, besides its work
	Turn      float64                // seconds from a result to the next step, where a pipeline begins
	Bandwidth float64                // bytes a second
	Slow      float64                // real steps take so many times as long; 0 is 1
	Shapes    map[string]place.Speed // by shape of layers and heads
}

// Node is a shard whose handshake succeeded.
type Node struct {
	ID      string
	Address string // host:port, node to node
	Devices []Device
	Links   map[string]place.Link // to other nodes and to itself, as measured
}

// Model holds the facts of a model that a plan depends on. All sizes are bytes.
type Model struct {
	Name       string
	LayerBytes []uint64 // weights of each layer
	EmbedBytes uint64   // what the stage with the embedding holds besides its layers
	HeadBytes  uint64   // what the stage with the head holds besides its layers
	TiedBytes  uint64   // counted in both, stored once where one stage has both
	KVPage     uint64   // keys and values of one page of one layer
	KVPools    []place.KVPool
	KVQueries  uint64 // of one layer, of sessions whose positions thin out
	KV         compute.KVClass
	Context    int      // positions the model was made for
	RowScratch uint64   // activation buffers for one row of a step
	Logits     uint64   // logits of one row
	Shapes     []string // of each layer: those of one shape take the same time
	HeadShape  string
	Wire       uint64 // a row between two stages
}

// Layers is the number of layers.
func (m Model) Layers() int { return len(m.LayerBytes) }

// Wishes are what an operator asks of a plan.
type Wishes struct {
	Stages    int           // of a pipeline; 0 is one per device
	MinShards int           // nodes to wait for before the first plan
	Spares    int           // nodes that hold weights in reserve and compute nothing
	Sessions  int           // sessions of the whole context to hold KV pages for; fewer are promised when memory is short
	Context   int           // positions of a session; 0 is the model's
	Slots     int           // sessions that may run at once on a pipeline
	Rows      int           // rows of a step
	Settle    time.Duration // between the last join and the first plan
	Steady    time.Duration // how long a node must have been there before running pipelines change for it
	Losses    int           // of a node in five minutes, after which it is left out for a while; 0 is never
	Aim       place.Wishes  // what else makes a plan good: objective, pins, exclusions, limits
}

// context is the context promised to every session.
func (w Wishes) context(m Model) int {
	if w.Context <= 0 || w.Context > m.Context {
		return m.Context
	}
	return w.Context
}

// Key is the identity of a pipeline, for ever.
type Key struct {
	Epoch uint64 // of the plan that made it
	ID    uint32 // its number; no other pipeline of a plan has it
}

// String writes "0x101/0".
func (k Key) String() string { return fmt.Sprintf("%#x/%d", k.Epoch, k.ID) }

// Plan is the pipelines that shards hold. It is not changed once it was made.
type Plan struct {
	Epoch     uint64
	Pipelines []*Pipeline // oldest first
	Spares    []Stage     // what devices hold in reserve: the weights of stages that others run
}

// Pipeline is a row of stages that together hold the model once. It is not
// changed once it was made.
type Pipeline struct {
	Key
	Stages   []Stage // in order of layers; their numbers are their places here
	Pages    int     // KV pages on every stage
	Slots    int     // sessions at once
	Rows     int     // rows of a step
	Context  int     // positions of a session
	Sessions int     // whole contexts that Pages hold
}

// Stage is a contiguous range of layers on one device.
type Stage struct {
	Node        string
	Address     string
	Device      int
	Part        model.Part
	Class       string
	Fingerprint []byte
	Bytes       uint64 // predicted: weights, KV pages and buffers
	Budget      uint64 // of the device that this stage may use
}

// Find returns the pipeline of a key, or nil.
func (p *Plan) Find(k Key) *Pipeline {
	for _, pl := range p.Pipelines {
		if pl.Key == k {
			return pl
		}
	}
	return nil
}

// OfNode returns the number of the first stage that a node holds, or -1.
func (p *Pipeline) OfNode(node string) int {
	return slices.IndexFunc(p.Stages, func(s Stage) bool { return s.Node == node })
}

// Nodes returns the nodes of the stages, each once, in order.
func (p *Pipeline) Nodes() []string {
	var out []string
	for _, s := range p.Stages {
		if !slices.Contains(out, s.Node) {
			out = append(out, s.Node)
		}
	}
	return out
}

// same reports whether two pipelines differ in their keys alone.
func (p *Pipeline) same(o *Pipeline) bool {
	return p.Pages == o.Pages && p.Slots == o.Slots && p.Rows == o.Rows && p.Context == o.Context &&
		slices.EqualFunc(p.Stages, o.Stages, Stage.same)
}

// same reports whether two stages are the same layers on the same device.
func (s Stage) same(o Stage) bool {
	return s.Node == o.Node && s.Address == o.Address && s.Device == o.Device && s.Part == o.Part &&
		s.Class == o.Class && string(s.Fingerprint) == string(o.Fingerprint)
}

// Explain says in one line per stage who computes what.
func (p *Plan) Explain() string {
	var b strings.Builder
	for _, pl := range p.Pipelines {
		fmt.Fprintf(&b, "pipeline %v: %d sessions of %d positions, %d pages on every stage\n", pl.Key, pl.Sessions, pl.Context, pl.Pages)
		for i, s := range pl.Stages {
			fmt.Fprintf(&b, "  stage %d: %s, %s of %s\n", i, s, place.Size(s.Bytes), place.Size(s.Budget))
		}
	}
	for _, s := range p.Spares {
		fmt.Fprintf(&b, "spare: %s\n", s)
	}
	return b.String()
}

// String names the stage's place and layers: "a/0 [0..15) embed".
func (s Stage) String() string {
	text := fmt.Sprintf("%s/%d [%d..%d)", s.Node, s.Device, s.Part.First, s.Part.End)
	if s.Part.Embed {
		text += " embed"
	}
	if s.Part.Head {
		text += " head"
	}
	return text
}

// CacheBytes returns what a layer's cache of so many pages takes.
func (m *Model) CacheBytes(pages int) uint64 { return m.placed().Cache(pages) }

// PagesFor returns the KV pages that a session of n positions needs.
func (m *Model) PagesFor(n int) int { return m.KV.Pages(n) }
