package coordinator

import (
	"github.com/shoal-llm/shoal/pkg/compute"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/coordinator/plan"
)

// speedAndMemory reports how fast a pipeline is, and what its stages hold; nothing while
// nothing is predicted.
func (o *owner) speedAndMemory(p *pipeline) (*pb.PipelineSpeed, []*pb.StageMemory) {
	held := o.held(p.plan)
	speed := p.tempo.proto(p.plan, held)
	memory := o.c.deps.Model.memory(p.plan, held, speed.GetStages())
	for i := range memory {
		memory[i].Gpu = o.onGPU(&p.plan.Stages[i])
	}
	return speed, memory
}

// onGPU reports whether a stage's device is none that computes with threads.
func (o *owner) onGPU(s *plan.Stage) bool {
	n := o.nodes[s.Node]
	if n == nil {
		return false
	}
	for _, d := range n.hello.GetDevices() {
		if int(d.GetIndex()) == s.Device {
			return d.GetThreads() == 0
		}
	}
	return false
}

// memory is what the stages of a pipeline hold, each with its device alone, by the
// backend's account where it is known and else as predicted; and what its share of the
// model's values, and as many positions of a cache, would take in 16 bits.
func (m *Model) memory(p *plan.Pipeline, held []deviceUse, speeds []*pb.StageSpeed) []*pb.StageMemory {
	if len(speeds) != len(p.Stages) {
		return nil
	}
	all := uint64(0)
	for _, s := range speeds {
		all += s.GetWeightBytes()
	}
	positions := uint64(p.Sessions) * uint64((p.Context+compute.PageTokens-1)/compute.PageTokens)
	var out []*pb.StageMemory
	for i, st := range p.Stages {
		use := held[i]
		v := &pb.StageMemory{Measured: use.total > 0}
		if !v.Measured {
			use = deviceUse{st.Bytes, speeds[i].GetWeightBytes(), m.Facts.CacheBytes(p.Pages) * uint64(st.Part.End-st.Part.First)}
		}
		v.Weights, v.Caches = use.weights, use.caches
		v.Buffers = use.total - min(use.total, use.weights+use.caches)
		v.Halves = uint64(float64(2*m.Parameters)*float64(speeds[i].GetWeightBytes())/float64(max(all, 1))) +
			positions*m.HalfPage*uint64(st.Part.End-st.Part.First)
		out = append(out, v)
	}
	return out
}
