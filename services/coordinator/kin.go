package coordinator

import (
	"google.golang.org/protobuf/proto"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// akin is how many times as fast one device of a make may have been measured as
// another and still count as equal to it: what else a machine does makes a step of a
// measurement longer by as much. Beyond it they do differ, by their memory or by
// what cools them.
const akin = 1.5

// speedsOf is what was measured of a node's devices. Devices of one make are
// equally fast unless they were measured to be very different: each takes as long
// as the one of them that was measured with the least in its way. Without it a split over
// equal machines follows noise.
func (o *owner) speedsOf(n *node) []*pb.DeviceSpeed {
	var out []*pb.DeviceSpeed
	for _, v := range o.survey.of(n.link.node).speeds {
		v = proto.CloneOf(v)
		if d := deviceOf(n, v.GetDevice()); d != nil {
			o.eachKin(d, func(_ *node, other *pb.DeviceSpeed) { liken(v, other) })
		}
		out = append(out, v)
	}
	return out
}

// eachKin calls f with what was measured of every device of d's make, d among
// them.
func (o *owner) eachKin(d *pb.Device, f func(*node, *pb.DeviceSpeed)) {
	for _, id := range sortedKeys(o.nodes) {
		n := o.nodes[id]
		if n.conn == nil {
			continue
		}
		for _, v := range o.survey.of(id).speeds {
			if e := deviceOf(n, v.GetDevice()); e != nil && sameMake(d, e) {
				f(n, v)
			}
		}
	}
}

// kin lists the other nodes that have a device of the make of one of n's.
func (o *owner) kin(n *node) []*node {
	found := map[string]*node{}
	for _, d := range n.hello.GetDevices() {
		o.eachKin(d, func(other *node, _ *pb.DeviceSpeed) { found[other.link.node] = other })
	}
	delete(found, n.link.node)
	var out []*node
	for _, id := range sortedKeys(found) {
		out = append(out, found[id])
	}
	return out
}

func deviceOf(n *node, index uint32) *pb.Device {
	for _, d := range n.hello.GetDevices() {
		if d.GetIndex() == index {
			return d
		}
	}
	return nil
}

func sameMake(a, b *pb.Device) bool {
	return a.GetName() != "" && a.GetKind() == b.GetKind() && a.GetName() == b.GetName() &&
		a.GetThreads() == b.GetThreads() && a.GetNumericsClass() == b.GetNumericsClass()
}

// liken gives v the times of a device of its make, shape by shape, where they are
// less and not by far.
func liken(v, other *pb.DeviceSpeed) {
	v.PassSeconds = lesser(v.GetPassSeconds(), other.GetPassSeconds())
	for _, a := range v.GetShapes() {
		for _, b := range other.GetShapes() {
			if a.GetShape() != b.GetShape() {
				continue
			}
			one, theirs := a.GetFixed()+a.GetRow(), b.GetFixed()+b.GetRow()
			if one > akin*theirs || theirs > akin*one {
				continue
			}
			a.Row = min(a.GetRow(), b.GetRow())
			a.Fixed = min(one, theirs) - a.GetRow()
			a.Key = min(a.GetKey(), b.GetKey())
		}
	}
}

// lesser is the less of two times that differ by noise, or a.
func lesser(a, b float64) float64 {
	if a > b && a <= akin*b {
		return b
	}
	return a
}
