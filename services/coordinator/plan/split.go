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
)

// errNoDevices says that no node has a device with memory.
var errNoDevices = errors.New("no shard offers a device with memory")

// seat is a place for at most one stage.
type seat struct {
	node   *Node
	device *Device
	budget uint64
}

// Split places the layers of m on the devices of nodes: contiguous ranges in
// the order of node id and device, in proportion to usable memory, each within
// its device's memory. The result is a function of its arguments; the order of
// nodes does not matter. When not every wished session fits, the most that fit
// are promised, at least one.
func Split(m Model, w Wishes, nodes []Node) (*Plan, error) {
	seats := takeSeats(m, w, nodes)
	if len(seats) == 0 {
		return nil, errNoDevices
	}
	sessions := max(w.Sessions, 1)
	// Fewer sessions need less of every stage, so the search may halve.
	fewer := sort.Search(sessions, func(i int) bool {
		_, ok := place(m, w, seats, sessions-i)
		return ok
	})
	if fewer == sessions {
		return nil, tooSmall(m, w, seats)
	}
	sessions -= fewer
	stages, _ := place(m, w, seats, sessions)
	context := w.context(m)
	return &Plan{
		Stages: stages, Pages: sessions * PagesFor(context), Sessions: sessions,
		Slots: w.Slots, Rows: w.Rows, Context: context,
	}, nil
}

// takeSeats lists the places for stages in a stable order. A device has
// several when more stages are wished than there are devices.
func takeSeats(m Model, w Wishes, nodes []Node) []seat {
	nodes = slices.SortedFunc(slices.Values(nodes), func(a, b Node) int { return cmp.Compare(a.ID, b.ID) })
	var devices []seat
	for i := range nodes {
		for j := range nodes[i].Devices {
			if d := &nodes[i].Devices[j]; d.Memory > 0 {
				devices = append(devices, seat{&nodes[i], d, d.Memory})
			}
		}
	}
	wish := min(w.Stages, m.Layers())
	if wish <= len(devices) || len(devices) == 0 {
		return devices
	}
	var seats []seat
	for i, d := range devices {
		n := wish / len(devices)
		if i < wish%len(devices) {
			n++
		}
		d.budget /= uint64(n)
		seats = append(seats, slices.Repeat([]seat{d}, n)...)
	}
	return seats
}

// cost returns the bytes of a stage that holds p.
func cost(m Model, w Wishes, p model.Part, pages int) uint64 {
	n := uint64(w.Rows) * m.RowScratch
	for _, b := range m.LayerBytes[p.First:p.End] {
		n += b + uint64(pages)*m.KVPage
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

// place finds the best split that holds sessions whole contexts: exact dynamic
// programming over (seat, stages used, layers placed).
func place(m Model, w Wishes, seats []seat, sessions int) ([]Stage, bool) {
	layers, pages := m.Layers(), sessions*PagesFor(w.context(m))
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
				table[s+1][k][end] = bestCell(table[s], costs, seats[s].budget, k, end)
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

// bestCell is the best way to have placed end layers in k stages once a seat of
// budget bytes has been decided: it stays empty, or takes the last of them.
func bestCell(before [][]cell, costs [][]uint64, budget uint64, k, end int) cell {
	best := cell{sum: before[k][end].sum, first: end}
	if k == 0 {
		return best
	}
	for first := range end {
		bytes := costs[first][end]
		if bytes > budget {
			continue
		}
		sum := before[k-1][first].sum + float64(bytes)*float64(bytes)/float64(budget)
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
			Part: part(first, end, layers), Bytes: costs[first][end], Budget: at.budget,
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
	need := cost(m, w, part(0, m.Layers(), m.Layers()), PagesFor(w.context(m)))
	var have uint64
	var list []string
	for i, s := range seats {
		have += s.budget
		if i > 0 && seats[i-1].device == s.device {
			continue
		}
		list = append(list, fmt.Sprintf("node %s %s", s.node.ID, gib(s.device.Memory)))
	}
	const most = 8
	if len(list) > most {
		list = append(list[:most], fmt.Sprintf("%d more", len(list)-most))
	}
	if have >= need {
		return fmt.Errorf("model %s needs %s and the cluster has %s usable, but no split of %d layers fits: %s",
			m.Name, gib(need), gib(have), m.Layers(), strings.Join(list, ", "))
	}
	return fmt.Errorf("model %s needs %s, the cluster has %s usable: %s", m.Name, gib(need), gib(have), strings.Join(list, ", "))
}
