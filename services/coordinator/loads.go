package coordinator

import (
	"cmp"
	"fmt"
	"slices"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/coordinator/plan"
)

// Phases of a stage that is being loaded, in reports.
const (
	phaseFetch  = "fetch" // into the node's store; verify is told as it comes
	phaseLoad   = "load"  // from this node's disk onto the device
	phaseFailed = "failed"
)

// loadKey names a stage in all plans.
type loadKey struct {
	plan.Key
	stage uint32
}

// noteLoad remembers how far a shard says that a stage of the plan in force is.
func (o *owner) noteLoad(node string, s *pb.StageState) {
	key := loadKey{plan.Key{Epoch: s.GetEpoch(), ID: s.GetPipeline()}, s.GetStage()}
	if s.GetState() == pb.LoadState_LOAD_STATE_READY {
		delete(o.loads, key)
		return
	}
	info := &pb.LoadInfo{
		Node: node, Epoch: s.GetEpoch(), Pipeline: s.GetPipeline(), Stage: s.GetStage(), Phase: s.GetPhase(),
		DoneBytes: s.GetDoneBytes(), TotalBytes: s.GetTotalBytes(), Rate: s.GetRate(), Note: s.GetNote(),
	}
	if info.Phase == "" {
		info.Phase = phaseLoad
	}
	if s.GetState() == pb.LoadState_LOAD_STATE_FAILED {
		info.Phase, info.Note = phaseFailed, s.GetError()
	}
	o.loads[key] = info
}

// reportLoads says how far the stages are that the plan in force waits for. What is
// of no plan any more is forgotten.
func (o *owner) reportLoads() (out []*pb.LoadInfo) {
	for key, l := range o.loads {
		if p := o.machine.Plan(); p == nil || p.Find(key.Key) == nil {
			delete(o.loads, key)
			continue
		}
		out = append(out, l)
	}
	slices.SortFunc(out, func(a, b *pb.LoadInfo) int {
		return cmp.Or(cmp.Compare(a.Epoch, b.Epoch), cmp.Compare(a.Pipeline, b.Pipeline), cmp.Compare(a.Stage, b.Stage))
	})
	return out
}

// loadingText says how much of the weights has been fetched; nothing when none are.
func (o *owner) loadingText() string {
	var done, total uint64
	slowest := 0.0
	for key, l := range o.loads {
		if p := o.machine.Plan(); p == nil || p.Find(key.Key) == nil || l.Phase != phaseFetch {
			continue
		}
		done, total = done+l.DoneBytes, total+l.TotalBytes
		if l.Rate > 0 {
			slowest = max(slowest, float64(l.TotalBytes-min(l.DoneBytes, l.TotalBytes))/l.Rate)
		}
	}
	if total == 0 {
		return ""
	}
	text := fmt.Sprintf(": %d %% of its weights are fetched", 100*done/total)
	if slowest > 0 {
		text += fmt.Sprintf(", the rest takes about %.0f s", slowest)
	}
	return text
}

// holder is this coordinator as a node that has what lies before the weights, and all
// of a model that it lends.
func (c *Coordinator) holder() *pb.Holder {
	address := c.deps.Address
	if address == "" {
		address = c.deps.Listener.Addr().String()
	}
	return &pb.Holder{Node: c.deps.Identity.NodeID(), Address: address}
}

// holders are the nodes that may have weights: this one, and the shards that are
// here. Nobody needs them for a model that each shard has.
func (o *owner) holders() []*pb.Holder {
	if len(o.c.deps.Model.Manifest) == 0 {
		return nil
	}
	out := []*pb.Holder{o.c.holder()}
	for _, id := range sortedKeys(o.nodes) {
		if n := o.nodes[id]; n.conn != nil {
			out = append(out, &pb.Holder{Node: id, Address: *n.link.addr.Load()})
		}
	}
	return out
}
