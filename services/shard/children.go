package shard

import (
	"fmt"
	"slices"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// Announce tells the coordinator how a node is that this one supervises: a
// process for one of its GPUs. The message is not changed any more. It may be
// called from any goroutine, before Run too.
func (s *Shard) Announce(child *pb.Child) { s.control.announce(child) }

func (c *control) announce(child *pb.Child) {
	c.mu.Lock()
	defer c.mu.Unlock()
	children := slices.DeleteFunc(slices.Clone(c.children), func(old *pb.Child) bool { return old.Node == child.Node })
	c.children = append(children, child)
	c.tell()
}

// childText says how a child is, in words.
func childText(child *pb.Child) string {
	switch child.State {
	case pb.ChildState_CHILD_STATE_READY:
		return "ready"
	case pb.ChildState_CHILD_STATE_REFUSED:
		return "refused: " + child.Reason
	case pb.ChildState_CHILD_STATE_LOST:
		return "lost: " + child.Reason
	}
	return fmt.Sprintf("testing %s", child.GetDevice().GetName())
}
