package plan

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"sort"
	"strings"

	"github.com/shoal-llm/shoal/pkg/model"
	"github.com/shoal-llm/shoal/services/coordinator/plan/place"
)

// errNoDevices says that no node has a device with memory.
var errNoDevices = errors.New("no shard offers a device with memory")

// seat is a place for at most one stage.
type seat struct {
	node   *Node
	device *Device
	share  uint64   // of the device's memory, when it were empty
	budget uint64   // what is free of it
	held   []uint64 // held[l]: bytes of the layers below l that the device holds already
}

// saved returns the bytes of layers [first, end) that need not be loaded.
func (s *seat) saved(first, end int) uint64 {
	if s.held == nil {
		return 0
	}
	return s.held[end] - s.held[first]
}

// Split is a Placer for devices of which nothing but their memory is known. It
// places one pipeline: contiguous ranges of layers in the order of node id and
// device, in proportion to usable memory, each within its device's. When not
// every wished session fits, the most that fit are promised, at least one. The
// nodes with the least memory are the spares, as many as are wished and can be
// done without. Beside a pipeline that is kept it makes no other.
func Split(f Facts) (Placement, error) {
	nodes := slices.SortedFunc(slices.Values(f.Nodes), func(a, b Node) int { return cmp.Compare(a.ID, b.ID) })
	nodes = slices.DeleteFunc(nodes, func(n Node) bool {
		return slices.ContainsFunc(f.Kept, func(p *Pipeline) bool { return p.OfNode(n.ID) >= 0 })
	})
	if len(f.Kept) > 0 {
		return Placement{Spares: reserve(smallest(nodes, f.Wishes.Spares), f.Kept)}, nil
	}
	p, spares, err := splitSparing(f, nodes)
	if err != nil {
		return Placement{}, err
	}
	out := Placement{Pipelines: []*Pipeline{p}, Spares: reserve(spares, []*Pipeline{p})}
	if len(f.Leaving) > 0 {
		out.Gain = 1 - widest(p)/widest(f.Leaving...)
	}
	return out, nil
}

// splitSparing splits over all but the smallest nodes, if that is possible.
func splitSparing(f Facts, nodes []Node) (p *Pipeline, spares []Node, err error) {
	for spare := min(f.Wishes.Spares, max(len(nodes)-1, 0)); spare >= 0; spare-- {
		spares = smallest(nodes, spare)
		used := slices.DeleteFunc(slices.Clone(nodes), func(n Node) bool {
			return slices.ContainsFunc(spares, func(s Node) bool { return s.ID == n.ID })
		})
		if p, err = split(f, used); err == nil {
			return p, spares, nil
		}
	}
	return nil, nil, err
}

// smallest returns the n nodes with the least memory.
func smallest(nodes []Node, n int) []Node {
	nodes = slices.Clone(nodes)
	slices.SortStableFunc(nodes, func(a, b Node) int { return cmp.Compare(b.memory(), a.memory()) })
	return nodes[len(nodes)-min(n, len(nodes)):]
}

func (n *Node) memory() (sum uint64) {
	for _, d := range n.Devices {
		sum += d.Memory
	}
	return sum
}

// widest returns the largest stage of pipelines, by weights, KV pages and
// buffers: what a step waits for longest where all devices are equal.
func widest(pipelines ...*Pipeline) float64 {
	most := uint64(0)
	for _, p := range pipelines {
		for _, s := range p.Stages {
			most = max(most, s.Bytes)
		}
	}
	return float64(most)
}

// reserve fills nodes with what pipelines run, the largest stages first.
func reserve(nodes []Node, pipelines []*Pipeline) []Stage {
	var stages, out []Stage
	for _, p := range pipelines {
		stages = append(stages, p.Stages...)
	}
	slices.SortStableFunc(stages, func(a, b Stage) int { return cmp.Compare(b.Bytes, a.Bytes) })
	for _, n := range nodes {
		for _, d := range n.Devices {
			free := d.Memory
			for _, s := range stages {
				if s.Bytes > free || s.Node == n.ID {
					continue
				}
				free -= s.Bytes
				out = append(out, Stage{
					Node: n.ID, Address: n.Address, Device: d.Index, Part: s.Part,
					Class: d.Class, Fingerprint: d.Fingerprint, Bytes: s.Bytes, Budget: d.Memory,
				})
			}
		}
	}
	return out
}

func split(f Facts, nodes []Node) (*Pipeline, error) {
	m, w := f.Model, f.Wishes
	seats := takeSeats(f, nodes)
	if len(seats) == 0 {
		return nil, errNoDevices
	}
	sessions := max(w.Sessions, 1)
	// Fewer sessions need less of every stage, so the search may halve.
	fewer := sort.Search(sessions, func(i int) bool {
		_, ok := placeSeats(m, w, seats, sessions-i)
		return ok
	})
	if fewer == sessions {
		return nil, tooSmall(m, w, seats)
	}
	sessions -= fewer
	stages, _ := placeSeats(m, w, seats, sessions)
	context := w.context(m)
	return &Pipeline{
		Stages: stages, Pages: sessions * m.PagesFor(context), Sessions: sessions,
		Slots: w.Slots, Rows: w.Rows, Context: context,
	}, nil
}

// takeSeats lists the places for stages in a stable order. A device has
// several when more stages are wished than there are devices.
func takeSeats(f Facts, nodes []Node) []seat {
	busy := uses(slices.Concat(f.Kept, f.Leaving)...)
	var devices []seat
	for i := range nodes {
		for j := range nodes[i].Devices {
			d := &nodes[i].Devices[j]
			s := seat{node: &nodes[i], device: d, share: d.Memory, budget: d.Memory}
			if u := busy[where{nodes[i].ID, d.Index}]; u != nil {
				s.budget -= min(s.budget, u.taken)
				s.held = u.sums(f.Model)
			}
			if d.Memory > 0 {
				devices = append(devices, s)
			}
		}
	}
	wish := min(f.Wishes.Stages, f.Model.Layers())
	if wish <= len(devices) || len(devices) == 0 {
		return devices
	}
	var seats []seat
	for i, d := range devices {
		n := wish / len(devices)
		if i < wish%len(devices) {
			n++
		}
		d.share /= uint64(n)
		d.budget /= uint64(n)
		seats = append(seats, slices.Repeat([]seat{d}, n)...)
	}
	return seats
}

// cost returns the bytes of a stage that holds p.
func cost(m Model, w Wishes, p model.Part, pages int) uint64 {
	n, kv := uint64(w.Rows)*m.RowScratch, m.placed().Cache(pages)
	for _, b := range m.LayerBytes[p.First:p.End] {
		n += b + kv
	}
	if p.Embed {
		n += m.EmbedBytes
	}
	if p.Head {
		n += m.HeadBytes + uint64(w.Rows)*m.Logits
	}
	if p.Embed && p.Head {
		n -= m.TiedBytes
	}
	return n
}

// cell is the best way to place the first layers on the first seats: the sum
// of its stages' bytes squared over budget, which is least when all are filled
// in proportion, and where its last stage begins.
type cell struct {
	sum   float64
	first int // of the last stage; equal to the layers when the seat stays empty
}

// placeSeats finds the best split that holds sessions whole contexts: exact dynamic
// programming over (seat, stages used, layers placed).
func placeSeats(m Model, w Wishes, seats []seat, sessions int) ([]Stage, bool) {
	layers, pages := m.Layers(), sessions*m.PagesFor(w.context(m))
	most := min(len(seats), layers)
	costs := costTable(m, w, pages)
	table := make([][][]cell, len(seats)+1) // [seat][stages used][layers placed]
	for s := range table {
		table[s] = make([][]cell, most+1)
		for k := range table[s] {
			table[s][k] = slices.Repeat([]cell{{sum: math.Inf(1)}}, layers+1)
		}
	}
	table[0][0][0].sum = 0
	for s := range seats {
		for k := 0; k <= most; k++ {
			for end := 0; end <= layers; end++ {
				table[s+1][k][end] = bestCell(table[s], costs, &seats[s], k, end)
			}
		}
	}
	used := w.Stages
	if used > 0 {
		used = min(used, most)
	} else {
		for k := 1; k <= most; k++ {
			if used == 0 || table[len(seats)][k][layers].sum < table[len(seats)][used][layers].sum {
				used = k
			}
		}
	}
	if math.IsInf(table[len(seats)][used][layers].sum, 1) {
		return nil, false
	}
	return readStages(table, costs, seats, used, layers), true
}

// costTable returns the bytes of every range of layers, [first][end].
func costTable(m Model, w Wishes, pages int) [][]uint64 {
	layers := m.Layers()
	t := make([][]uint64, layers)
	for first := range t {
		t[first] = make([]uint64, layers+1)
		for end := first + 1; end <= layers; end++ {
			t[first][end] = cost(m, w, part(first, end, layers), pages)
		}
	}
	return t
}

// bestCell is the best way to have placed end layers in k stages once a seat
// has been decided: it stays empty, or takes the last of them.
func bestCell(before [][]cell, costs [][]uint64, at *seat, k, end int) cell {
	best := cell{sum: before[k][end].sum, first: end}
	if k == 0 {
		return best
	}
	for first := range end {
		bytes := costs[first][end]
		if bytes > at.budget+at.saved(first, end) {
			continue
		}
		sum := before[k-1][first].sum + float64(bytes)*float64(bytes)/float64(at.share)
		if sum < best.sum {
			best = cell{sum: sum, first: first}
		}
	}
	return best
}

// readStages walks the table back from its end.
func readStages(table [][][]cell, costs [][]uint64, seats []seat, used, layers int) []Stage {
	var stages []Stage
	end := layers
	for s := len(seats); s > 0; s-- {
		first := table[s][used][end].first
		if first == end {
			continue
		}
		at := seats[s-1]
		stages = append(stages, Stage{
			Node: at.node.ID, Address: at.node.Address, Device: at.device.Index,
			Class: at.device.Class, Fingerprint: at.device.Fingerprint,
			Part: part(first, end, layers), Bytes: costs[first][end], Budget: at.share,
		})
		end = first
		used--
	}
	slices.Reverse(stages)
	return stages
}

func part(first, end, layers int) model.Part {
	return model.Part{First: first, End: end, Embed: first == 0, Head: end == layers}
}

// tooSmall says what is needed and what is there.
func tooSmall(m Model, w Wishes, seats []seat) error {
	need := cost(m, w, part(0, m.Layers(), m.Layers()), m.PagesFor(w.context(m)))
	var have uint64
	var list []string
	for i, s := range seats {
		have += s.share
		if i > 0 && seats[i-1].device == s.device {
			continue
		}
		list = append(list, fmt.Sprintf("node %s %s", s.node.ID, place.Size(s.device.Memory)))
	}
	const most = 8
	if len(list) > most {
		list = append(list[:most], fmt.Sprintf("%d more", len(list)-most))
	}
	if have >= need {
		return fmt.Errorf("model %s needs %s and the cluster has %s usable, but no split of %d layers fits: %s",
			m.Name, place.Size(need), place.Size(have), m.Layers(), strings.Join(list, ", "))
	}
	return fmt.Errorf("model %s needs %s, the cluster has %s usable: %s", m.Name, place.Size(need), place.Size(have), strings.Join(list, ", "))
}
