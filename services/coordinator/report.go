package coordinator

import (
	"slices"
	"strings"
	"time"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// maxNotes is how many events a report holds.
const maxNotes = 64

// Kinds of events in reports.
const (
	noteNodeJoined    = "node_joined"
	noteNodeLost      = "node_lost"
	noteNodeRefused   = "node_refused"
	notePlan          = "plan"
	noteReady         = "ready"
	notePipelineLost  = "pipeline_lost"
	noteRetired       = "pipeline_retired"
	noteMoveFailed    = "move_failed"
	noteDrain         = "node_drain"
	noteGatewayJoined = "gateway_joined"
	noteGatewayLeft   = "gateway_left"
)

// totals count since the start.
type totals struct{ requests, promptTokens, generatedTokens, failed uint64 }

// journal is what the owner remembers for reports.
type journal struct {
	totals totals
	number uint64
	notes  []*pb.ClusterEvent // at most maxNotes; none is changed
}

func (t totals) proto() *pb.Totals {
	return &pb.Totals{Requests: t.requests, PromptTokens: t.promptTokens, GeneratedTokens: t.generatedTokens, Failed: t.failed}
}

// note remembers an event.
func (j *journal) note(now time.Time, kind, node, text string) {
	j.number++
	if len(j.notes) == maxNotes {
		j.notes = j.notes[1:]
	}
	j.notes = append(j.notes, &pb.ClusterEvent{
		Number: j.number, TimeMs: now.UnixMilli(), Kind: kind, Node: node, Text: text,
	})
}

// note remembers an event for reports.
func (o *owner) note(kind, node, text string) { o.journal.note(o.now(), kind, node, text) }

// report says who is there, what is loaded, what happened and whether an answer
// is possible.
func (o *owner) report() *pb.ClusterResponse {
	id := o.c.deps.Identity
	_, why := o.reason()
	r := &pb.ClusterResponse{
		Cluster: id.ClusterID(), Coordinator: id.NodeID(), Epoch: o.machine.Epoch(),
		Ready: why == "", Reason: why, Models: []*pb.ModelInfo{o.modelInfo(why)},
		Running: uint32(len(o.running)), Waiting: uint32(o.waiting.len()),
		Totals: o.journal.totals.proto(), Events: slices.Clone(o.journal.notes),
	}
	o.reportPlan(r)
	r.Loads = o.reportLoads()
	for _, n := range o.nodes {
		r.Nodes = append(r.Nodes, &pb.NodeInfo{
			Node: n.link.node, Address: *n.link.addr.Load(), State: n.state, Reason: n.reason,
			Devices: n.hello.GetDevices(), Version: n.hello.GetVersion(), Aside: o.machine.Aside(n.link.node), Check: n.check,
		})
	}
	r.Nodes = append(r.Nodes, o.childrenReport()...)
	slices.SortFunc(r.Nodes, func(a, b *pb.NodeInfo) int { return strings.Compare(a.Node, b.Node) })
	o.reportSpeeds(r)
	return r
}

// reportPlan says which pipelines there are and how they are doing.
func (o *owner) reportPlan(r *pb.ClusterResponse) {
	p := o.machine.Plan()
	if p == nil {
		return
	}
	for _, pl := range p.Pipelines {
		info := &pb.PipelineInfo{Pipeline: pipelineProto(pl), State: "loading", FreePages: uint32(pl.Pages)}
		if pipe := o.pipes[pl.Key]; pipe != nil {
			info.Running, info.FreePages, info.Fingerprint = uint32(pipe.running()), uint32(pipe.free), pipe.fingerprint
			info.Speed, info.Memory = o.speedAndMemory(pipe)
			switch {
			case !pipe.retiring.IsZero():
				info.State = "retiring"
			case pipe.ready:
				info.State = "ready"
			}
		}
		r.Pipelines = append(r.Pipelines, info)
	}
	for _, s := range p.Spares {
		r.Spares = append(r.Spares, stageProto(s))
	}
	if len(r.Pipelines) > 0 {
		r.Pipeline = r.Pipelines[0].Pipeline
	}
}
