// Package plan decides which node computes which layers.
//
// Its Machine is pure: events in, actions out. It reads no clock, starts no
// goroutine and does no I/O; time comes in as Tick. The scripts in testdata are
// its specification.
package plan

import (
	"fmt"
	"strings"
	"time"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/model"
)

// Device is something on a node that can hold stages.
type Device struct {
	Index       int
	Memory      uint64 // usable bytes
	Class       string // numerics class
	Fingerprint []byte // of the class's self-test
}

// Node is a shard whose handshake succeeded.
type Node struct {
	ID      string
	Address string // host:port, node to node
	Devices []Device
}

// Model holds the facts of a model that a plan depends on. All sizes are bytes.
type Model struct {
	Name       string
	LayerBytes []uint64 // weights of each layer
	EmbedBytes uint64   // what the stage with the embedding holds besides its layers
	HeadBytes  uint64   // what the stage with the head holds besides its layers
	TiedBytes  uint64   // counted in both, stored once where one stage has both
	KVPage     uint64   // keys and values of one page of one layer
	Context    int      // positions the model was made for
	RowScratch uint64   // activation buffers for one row of a step
	Logits     uint64   // logits of one row
}

// Layers is the number of layers.
func (m Model) Layers() int { return len(m.LayerBytes) }

// Wishes are what an operator asks of a plan.
type Wishes struct {
	Stages    int           // of the pipeline; 0 is one per device
	MinShards int           // nodes to wait for before the first plan
	Sessions  int           // sessions of the whole context to hold KV pages for; fewer are promised when memory is short
	Context   int           // positions of a session; 0 is the model's
	Slots     int           // sessions that may run at once
	Rows      int           // rows of a step
	Settle    time.Duration // between the last join and a plan
}

// context is the context promised to every session.
func (w Wishes) context(m Model) int {
	if w.Context <= 0 || w.Context > m.Context {
		return m.Context
	}
	return w.Context
}

// Plan is a pipeline in force.
type Plan struct {
	Epoch    uint64
	Stages   []Stage // in order of layers
	Pages    int     // KV pages on every stage
	Slots    int
	Rows     int
	Context  int
	Sessions int // whole contexts that Pages hold
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

// Stage numbers are positions in Plan.Stages.

// OfNode returns the number of the first stage that a node holds, or -1.
func (p *Plan) OfNode(node string) int {
	for i, s := range p.Stages {
		if s.Node == node {
			return i
		}
	}
	return -1
}

// Explain says in one line per stage who computes what.
func (p *Plan) Explain() string {
	var b strings.Builder
	for i, s := range p.Stages {
		fmt.Fprintf(&b, "stage %d: %s, %s of %s\n", i, s, gib(s.Bytes), gib(s.Budget))
	}
	fmt.Fprintf(&b, "%d sessions of %d positions, %d pages on every stage\n", p.Sessions, p.Context, p.Pages)
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

// PagesFor returns the KV pages that hold n positions.
func PagesFor(n int) int { return (n + compute.PageTokens - 1) / compute.PageTokens }

// gib writes bytes as people read them.
func gib(n uint64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%d bytes", n)
}
