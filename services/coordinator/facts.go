package coordinator

import (
	"math"

	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/pkg/compute"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/coordinator/plan"
	"github.com/shoal-llm/shoal/services/coordinator/plan/place"
)

// wireBytes is an element of the rows between two stages: float32.
const wireBytes = 4

// PlaceModel weighs an open model file for placement, with keys and values of a
// class, for slots sessions and steps of rows rows. Every stage holds its part of all
// adapters.
func PlaceModel(m *library.Model, kv compute.KVClass, slots, rows int, adapters ...*library.Adapter) (*place.Model, error) {
	f, err := m.Footprint(kv, adapters...)
	if err != nil {
		return nil, err
	}
	out := &place.Model{
		Name: m.Name, Embed: f.Embed, Head: f.Head, Tied: f.Tied, HeadShape: f.HeadShape,
		KVPage: f.KVPage, KV: kv, Buffers: f.Row, Logits: f.Logits,
		Wire: uint64(m.Spec.Hidden) * wireBytes, Context: m.Spec.Context,
	}
	if m.Vision != nil { // the first stage's node turns pictures into rows
		out.Embed += m.Vision.Memory()
	}
	if pools := kv.Pools(slots, rows, math.MaxInt); kv.Steps() {
		out.KVPools = append(out.KVPools, place.KVPool{Pages: pools.Recent, Bytes: f.KVRecent}, place.KVPool{Pages: pools.Upper, Bytes: f.KVUpper})
	}
	out.KVQueries = uint64(kv.Pools(slots, rows, math.MaxInt).Queries) * f.KVQueries
	for i, bytes := range f.Layers {
		out.Layers = append(out.Layers, place.Layer{Bytes: bytes, Shape: f.Shapes[i]})
	}
	return out, nil
}

// PlaceCluster is what a coordinator's report says of devices and links, as a
// placement takes it. Nodes that are not ready or shall be given nothing are left
// out.
func PlaceCluster(r *pb.ClusterResponse) *place.Cluster {
	c := &place.Cluster{Links: place.Links{Between: map[place.Direction]place.Link{}}}
	for _, n := range r.GetNodes() {
		if n.GetState() != "ready" || n.GetAside() != "" {
			continue
		}
		for _, d := range n.GetDevices() {
			device := place.Device{
				Node: n.GetNode(), Index: int(d.GetIndex()), Name: d.GetName(), Class: d.GetNumericsClass(), Memory: d.GetMemoryBytes(),
			}
			for _, s := range n.GetSpeeds() {
				if s.GetDevice() == d.GetIndex() {
					setSpeed(&device, s)
				}
			}
			c.Devices = append(c.Devices, device)
		}
	}
	for _, l := range r.GetLinks() {
		c.Links.Between[place.Direction{From: l.GetFrom(), To: l.GetTo()}] = linkOf(l)
	}
	return c
}

func linkOf(l *pb.LinkSpeed) place.Link {
	return place.Link{Delay: l.GetDelaySeconds(), Rate: l.GetRate()}
}

// setSpeed gives a device what was measured.
func setSpeed(d *place.Device, s *pb.DeviceSpeed) {
	d.Pass, d.Turn, d.Bandwidth = s.GetPassSeconds(), s.GetTurnSeconds(), s.GetBandwidth()
	d.Speeds = map[string]place.Speed{}
	for _, v := range s.GetShapes() {
		d.Speeds[v.GetShape()] = place.Speed{Fixed: v.GetFixed(), Row: v.GetRow(), Key: v.GetKey()}
	}
}

// measureParts says what to measure of a model: the longest run of layers of
// each shape, the commonest shape first, and the head.
func measureParts(m *plan.Model) []*pb.MeasurePart {
	count := map[string]int{}
	for _, shape := range m.Shapes {
		count[shape]++
	}
	var parts []*pb.MeasurePart
	for len(count) > 0 {
		shape := ""
		for _, s := range m.Shapes { // in order, so that ties are settled
			if count[s] > count[shape] {
				shape = s
			}
		}
		delete(count, shape)
		parts = append(parts, longestRun(m, shape))
	}
	n := uint32(m.Layers())
	return append(parts, &pb.MeasurePart{Shape: m.HeadShape, First: n - 1, End: n, Head: true})
}

// longestRun is the most layers of a shape that follow each other.
func longestRun(m *plan.Model, shape string) *pb.MeasurePart {
	best := &pb.MeasurePart{Shape: shape}
	first := 0
	for i, s := range m.Shapes {
		if s != shape {
			first = i + 1
			continue
		}
		if i+1-first > int(best.GetEnd()-best.GetFirst()) {
			best.First, best.End = uint32(first), uint32(i+1)
		}
	}
	return best
}
