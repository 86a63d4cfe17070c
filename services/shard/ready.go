package shard

import (
	"fmt"
	"time"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// Ready reports whether the shard can do its work: a coordinator holds its lease
// and no stage is loading or has failed. It may be called from any goroutine.
func (s *Shard) Ready() (bool, map[string]string) { return s.control.ready(time.Now()) }

func (c *control) ready(now time.Time) (bool, map[string]string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.machine.Ended() != nil:
		return false, map[string]string{"shard": c.machine.Ended().Error()}
	case c.machine.Holder(now) == "":
		return false, map[string]string{"coordinator": "no coordinator has taken this shard yet"}
	}
	ok, stages := true, map[string]string{}
	for _, st := range c.states {
		name := fmt.Sprintf("pipeline %d stage %d", st.Pipeline, st.Stage)
		switch st.State {
		case pb.LoadState_LOAD_STATE_READY:
			stages[name] = "ready"
		case pb.LoadState_LOAD_STATE_FAILED:
			ok, stages[name] = false, st.Error
		default:
			ok, stages[name] = false, fmt.Sprintf("loading, %d of %d bytes", st.DoneBytes, st.TotalBytes)
		}
	}
	for _, child := range c.children {
		stages[child.Node] = childText(child)
	}
	return ok, stages
}
