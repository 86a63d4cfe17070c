package coordinator

import (
	"strings"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/coordinator/plan"
)

// maxChildren bounds the children of all nodes.
const maxChildren = 512

// child is a node that another one supervises, as that one tells: it knows first
// when a process ends, and why. Once ready it is a shard like those of gossip.
type child struct {
	parent string
	*pb.Child
}

// childState hears from a node how its child is. A node speaks for those alone
// whose names begin with its own.
func (o *owner) childState(parent *node, c *pb.Child) {
	id := c.GetNode()
	if !strings.HasPrefix(id, parent.link.node+".") {
		o.log.Warn("a shard speaks for a node that is not its child", "shard", parent.link.node, "node", id)
		return
	}
	if _, known := o.children[id]; !known && len(o.children) >= maxChildren {
		o.log.Warn("too many children", "shard", parent.link.node, "node", id)
		return
	}
	o.children[id] = child{parent.link.node, c}
	switch c.GetState() {
	case pb.ChildState_CHILD_STATE_READY:
		o.findNodes()
		if n := o.nodes[id]; n != nil {
			n.link.hurry()
		}
	case pb.ChildState_CHILD_STATE_REFUSED:
		o.forgetChild(id, noteNodeRefused, c.GetReason())
	case pb.ChildState_CHILD_STATE_LOST:
		o.forgetChild(id, noteNodeLost, c.GetReason())
	}
}

// forgetChild ends the link to a child that has ended.
func (o *owner) forgetChild(id, kind, reason string) {
	o.log.Warn("a device's process has ended", "shard", id, "reason", reason)
	o.note(kind, id, reason)
	n := o.nodes[id]
	if n == nil {
		return
	}
	n.link.stop()
	delete(o.nodes, id)
	if n.conn != nil && !n.leaves {
		o.blame(id)
		o.step(plan.Lost{Node: id, Reason: reason})
	}
}

// orphan forgets the children of a node that is gone. Those that are connected
// stay as long as they are.
func (o *owner) orphan(parent string) {
	for id, c := range o.children {
		if c.parent == parent {
			delete(o.children, id)
		}
	}
}

// childrenReport lists the children that are no shards now, with the reason.
func (o *owner) childrenReport() []*pb.NodeInfo {
	var out []*pb.NodeInfo
	for id, c := range o.children {
		if _, here := o.nodes[id]; here {
			continue
		}
		info := &pb.NodeInfo{Node: id, Address: c.GetAddress(), State: "joining", Reason: c.GetReason()}
		switch c.GetState() {
		case pb.ChildState_CHILD_STATE_REFUSED:
			info.State = "refused"
		case pb.ChildState_CHILD_STATE_LOST:
			info.State = "lost"
		}
		if d := c.GetDevice(); d != nil {
			info.Devices = []*pb.Device{d}
		}
		out = append(out, info)
	}
	return out
}
