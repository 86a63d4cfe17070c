package gateway

import (
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// memoryReport is what a pipeline holds, in MiB, by the account of its backends, by the
// names of the guide.
type memoryReport struct {
	memoryUse
	Stages []stageMemoryReport `json:"stages"`
}

type stageMemoryReport struct {
	memoryUse
	Measured bool `json:"measured"` // else it is what the plan predicts
}

type memoryUse struct {
	PeakWebGPUBufferMB     float64 `json:"peakWebGPUBufferMB"` // all that GPUs hold; nothing is taken after loading
	PeakCPUBufferMB        float64 `json:"peakCPUBufferMB"`    // all that CPUs hold
	KVCacheMB              float64 `json:"kvCacheMB"`
	ModelWeightsMB         float64 `json:"modelWeightsMB"`
	TotalEstimatedMB       float64 `json:"totalEstimatedMB"`
	OriginalFP16MB         float64 `json:"originalFP16MB"` // weights and as many positions of the cache in 16 bits
	MemoryReductionPercent float64 `json:"memoryReductionPercent"`
}

func memoryReportOf(stages []*pb.StageMemory) *memoryReport {
	if len(stages) == 0 {
		return nil
	}
	var r memoryReport
	for _, s := range stages {
		u := memoryUseOf(s)
		r.Stages = append(r.Stages, stageMemoryReport{u.reduced(), s.GetMeasured()})
		r.PeakWebGPUBufferMB += u.PeakWebGPUBufferMB
		r.PeakCPUBufferMB += u.PeakCPUBufferMB
		r.KVCacheMB += u.KVCacheMB
		r.ModelWeightsMB += u.ModelWeightsMB
		r.TotalEstimatedMB += u.TotalEstimatedMB
		r.OriginalFP16MB += u.OriginalFP16MB
	}
	r.memoryUse = r.reduced()
	return &r
}

func memoryUseOf(s *pb.StageMemory) memoryUse {
	const mb = 1 << 20
	total := float64(s.GetWeights()+s.GetCaches()+s.GetBuffers()) / mb
	u := memoryUse{
		KVCacheMB: float64(s.GetCaches()) / mb, ModelWeightsMB: float64(s.GetWeights()) / mb,
		TotalEstimatedMB: total, OriginalFP16MB: float64(s.GetHalves()) / mb,
	}
	if s.GetGpu() {
		u.PeakWebGPUBufferMB = total
	} else {
		u.PeakCPUBufferMB = total
	}
	return u
}

// reduced says how much less weights and cache take than in 16 bits.
func (u memoryUse) reduced() memoryUse {
	if u.OriginalFP16MB > 0 {
		u.MemoryReductionPercent = 100 * (1 - (u.ModelWeightsMB+u.KVCacheMB)/u.OriginalFP16MB)
	}
	return u
}
