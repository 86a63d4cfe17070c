package coordinator

import (
	"strings"
	"testing"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// TestLoads: while stages fetch weights a report says how far each is and why the
// model does not answer; once they are ready it says nothing of them.
func TestLoads(t *testing.T) {
	r := newRig(t, func(_ *Config, w *wires) { w.fetched = make(chan struct{}) }, "a", "b")
	before := r.report("both fetch", func(c *pb.ClusterResponse) bool { return len(c.GetLoads()) == 2 })
	for i, l := range before.GetLoads() {
		if l.GetStage() != uint32(i) || l.GetPhase() != phaseFetch || l.GetDoneBytes() != 30 || l.GetTotalBytes() != 100 || l.GetRate() != 7 || l.GetNode() == "" {
			t.Errorf("load %d is %v", i, l)
		}
	}
	if why := before.GetReason(); !strings.Contains(why, "30 %") || !strings.Contains(why, "10 s") {
		t.Errorf("it does not answer because %q", why)
	}
	close(r.wires.fetched)
	if after := r.report("ready", ready); len(after.GetLoads()) > 0 {
		t.Errorf("a model that answers loads %v", after.GetLoads())
	}
}

// TestFailedLoadsSayWhy: what a shard says of a stage that it cannot load is in the
// report.
func TestFailedLoadsSayWhy(t *testing.T) {
	o := &owner{loads: map[loadKey]*pb.LoadInfo{}}
	o.noteLoad("a", &pb.StageState{Epoch: 1, State: pb.LoadState_LOAD_STATE_LOADING})
	if l := o.loads[loadKey{}.of(1)]; l.GetPhase() != phaseLoad {
		t.Errorf("loading is %v", l)
	}
	o.noteLoad("a", &pb.StageState{Epoch: 1, State: pb.LoadState_LOAD_STATE_FAILED, Error: "the weights do not come"})
	if l := o.loads[loadKey{}.of(1)]; l.GetPhase() != phaseFailed || l.GetNote() != "the weights do not come" {
		t.Errorf("failed is %v", l)
	}
	o.noteLoad("a", &pb.StageState{Epoch: 1, State: pb.LoadState_LOAD_STATE_READY})
	if len(o.loads) > 0 {
		t.Errorf("ready is %v", o.loads)
	}
}

// of is the key of the first stage of an epoch's first pipeline.
func (loadKey) of(epoch uint64) (k loadKey) {
	k.Epoch = epoch
	return k
}
