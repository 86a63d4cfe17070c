package gateway

import pb "github.com/shoal-llm/shoal/proto/shoal/v1"

// The part of the cluster's document that is about speed: what was measured of
// links, and what is predicted and measured of pipelines. It is absent while
// nobody has measured.

// linkReport is what a message costs in one direction. The round trip of two
// nodes is the sum of both directions.
type linkReport struct {
	DelaySeconds   float64 `json:"delaySeconds"` // of a small message
	BytesPerSecond float64 `json:"bytesPerSecond"`
}

// linkReports are the measured links, by the node they begin at and the one they
// lead to.
func linkReports(links []*pb.LinkSpeed) map[string]map[string]linkReport {
	var out map[string]map[string]linkReport
	for _, l := range links {
		if out == nil {
			out = map[string]map[string]linkReport{}
		}
		if out[l.GetFrom()] == nil {
			out[l.GetFrom()] = map[string]linkReport{}
		}
		out[l.GetFrom()][l.GetTo()] = linkReport{l.GetDelaySeconds(), l.GetRate()}
	}
	return out
}

// pipelineReport is one pipeline of the plan, and how it is doing.
type pipelineReport struct {
	ID          uint32        `json:"id"`
	Epoch       uint64        `json:"epoch"` // of the plan that made it
	State       string        `json:"state"` // loading, ready, retiring
	Running     uint32        `json:"running"`
	FreePages   uint32        `json:"freePages"` // of plan.pages
	Fingerprint string        `json:"fingerprint"`
	Plan        planReport    `json:"plan"`
	Speed       *speedReport  `json:"speed,omitempty"`  // absent while nothing is known
	Memory      *memoryReport `json:"memory,omitempty"` // absent while nothing is known
}

// speedReport is a prediction beside what was measured. Seconds; 0 is unknown.
type speedReport struct {
	TokenSeconds         float64            `json:"tokenSeconds"` // of one stream
	TokenSecondsMeasured float64            `json:"tokenSecondsMeasured"`
	FirstTokenSeconds    float64            `json:"firstTokenSeconds"` // after promptTokens
	PromptTokens         uint32             `json:"promptTokens"`
	BackSeconds          float64            `json:"backSeconds"`     // of a token: from the last stage to the next step
	TokensPerSecond      float64            `json:"tokensPerSecond"` // of that many streams
	Streams              uint32             `json:"streams"`
	Stages               []stageSpeedReport `json:"stages"`
}

type stageSpeedReport struct {
	DecodeSeconds         float64 `json:"decodeSeconds"` // a step of one row
	DecodeSecondsMeasured float64 `json:"decodeSecondsMeasured"`
	PrefillSeconds        float64 `json:"prefillSeconds"` // a chunk of a prompt
	HopSeconds            float64 `json:"hopSeconds"`     // a row to the next stage
	Bytes                 uint64  `json:"bytes"`          // of device memory
	BytesMeasured         uint64  `json:"bytesMeasured"`
	WeightBytes           uint64  `json:"weightBytes"` // of bytes
	PageBytes             uint64  `json:"pageBytes"`   // of one page of the KV cache, of which the plan has so many
	Assumed               bool    `json:"assumed"`     // its device has not been measured for this model
}

func pipelineReports(list []*pb.PipelineInfo) []pipelineReport {
	var out []pipelineReport
	for _, p := range list {
		out = append(out, pipelineReport{
			ID: p.GetPipeline().GetId(), Epoch: p.GetPipeline().GetEpoch(), State: p.GetState(),
			Running: p.GetRunning(), FreePages: p.GetFreePages(), Fingerprint: p.GetFingerprint(),
			Plan: *planReportOf(orEmpty(p.GetPipeline())), Speed: speedReportOf(p.GetSpeed()), Memory: memoryReportOf(p.GetMemory()),
		})
	}
	return out
}

func orEmpty(p *pb.Pipeline) *pb.Pipeline {
	if p == nil {
		return &pb.Pipeline{}
	}
	return p
}

func speedReportOf(s *pb.PipelineSpeed) *speedReport {
	if s == nil {
		return nil
	}
	r := &speedReport{
		TokenSeconds: s.GetToken(), TokenSecondsMeasured: s.GetTokenMeasured(),
		FirstTokenSeconds: s.GetFirstToken(), PromptTokens: s.GetPrompt(), BackSeconds: s.GetBack(),
		TokensPerSecond: s.GetRate(), Streams: s.GetStreams(), Stages: []stageSpeedReport{},
	}
	for _, st := range s.GetStages() {
		r.Stages = append(r.Stages, stageSpeedReport{
			DecodeSeconds: st.GetDecode(), DecodeSecondsMeasured: st.GetDecodeMeasured(),
			PrefillSeconds: st.GetPrefill(), HopSeconds: st.GetHop(),
			Bytes: st.GetBytes(), BytesMeasured: st.GetBytesMeasured(), WeightBytes: st.GetWeightBytes(), PageBytes: st.GetPageBytes(), Assumed: st.GetAssumed(),
		})
	}
	return r
}

// deviceSpeedReport is what was measured of a device. Seconds; 0 is unknown.
type deviceSpeedReport struct {
	PassSeconds    float64                     `json:"passSeconds"`    // of any step, besides its work
	TurnSeconds    float64                     `json:"turnSeconds"`    // from the arrival of a message to the step that it begins
	BytesPerSecond float64                     `json:"bytesPerSecond"` // that its memory is read
	Shapes         map[string]shapeSpeedReport `json:"shapes"`         // of layers and heads
}

// shapeSpeedReport is fixed + rows × row, and key more for each row and each
// position before it.
type shapeSpeedReport struct {
	FixedSeconds float64 `json:"fixedSeconds"`
	RowSeconds   float64 `json:"rowSeconds"`
	KeySeconds   float64 `json:"keySeconds"`
}

// deviceSpeedOf is what was measured of one device of a node, or nil.
func deviceSpeedOf(n *pb.NodeInfo, device uint32) *deviceSpeedReport {
	for _, s := range n.GetSpeeds() {
		if s.GetDevice() != device || len(s.GetShapes()) == 0 {
			continue
		}
		out := &deviceSpeedReport{s.GetPassSeconds(), s.GetTurnSeconds(), s.GetBandwidth(), map[string]shapeSpeedReport{}}
		for _, v := range s.GetShapes() {
			out.Shapes[v.GetShape()] = shapeSpeedReport{v.GetFixed(), v.GetRow(), v.GetKey()}
		}
		return out
	}
	return nil
}
