package coordinator

import (
	"testing"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/model"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/coordinator/plan"
)

// TestMemoryReport: a stage is reported by its device's account where there is one and
// as predicted elsewhere; 16 bits are those of its share of the values, and of as many
// positions, thinned out or not.
func TestMemoryReport(t *testing.T) {
	m := &Model{Parameters: 1000, HalfPage: 100, KV: compute.KVClass{Bits: 16, Ratio: 4, Older: 1024}}
	m.Facts = plan.Model{KVPage: 40, KV: m.KV}
	p := &plan.Pipeline{Sessions: 2, Context: 4096, Pages: 2 * m.Facts.PagesFor(4096), Stages: []plan.Stage{
		{Part: model.Part{End: 2}, Bytes: 9000}, {Part: model.Part{First: 2, End: 3}, Bytes: 5000},
	}}
	got := m.memory(p, []deviceUse{{total: 10000, weights: 700, caches: 8000}, {}}, []*pb.StageSpeed{{WeightBytes: 600}, {WeightBytes: 200}})
	cache := uint64(40 * p.Pages)
	for i, want := range []*pb.StageMemory{
		{Measured: true, Weights: 700, Caches: 8000, Buffers: 1300, Halves: 1500 + 128*2*100},
		{Weights: 200, Caches: cache, Buffers: 5000 - 200 - cache, Halves: 500 + 128*100},
	} {
		if got[i].String() != want.String() {
			t.Errorf("stage %d: %v, want %v", i, got[i], want)
		}
	}
}
