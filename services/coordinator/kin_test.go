package coordinator

import (
	"testing"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/coordinator/plan"
)

// TestKin: devices of one make that were measured a little apart count as equally
// fast, so that equal machines get equal parts; one that is slower by far, or of
// another make, keeps its own times.
func TestKin(t *testing.T) {
	for _, c := range []struct {
		name, make string
		a, b       float64 // seconds that a layer took
		wantA      float64
	}{
		{"noise", "a processor", 1.3e-3, 1e-3, 1e-3},
		{"really slower", "a processor", 4e-3, 1e-3, 4e-3},
		{"nameless", "", 1.3e-3, 1e-3, 1.3e-3},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, func(cfg *Config, w *wires) {
				cfg.Place, cfg.Wishes.Stages = plan.Measured, 2
				w.make, w.layer = c.make, map[string]float64{"a": c.a, "b": c.b}
			}, "a", "b")
			got := clusterWhen(t, r, "measured", func(c *pb.ClusterResponse) bool {
				return c.GetReady() && c.GetPipelines()[0].GetSpeed().GetToken() > 0
			})
			for _, n := range got.GetNodes() {
				want := c.b
				if n.GetNode() == "a" {
					want = c.wantA
				}
				for _, v := range n.GetSpeeds()[0].GetShapes() {
					if seen := v.GetFixed() + v.GetRow(); seen != want {
						t.Errorf("%s: %s takes %g seconds, want %g", n.GetNode(), v.GetShape(), seen, want)
					}
				}
			}
			stages := got.GetPipelines()[0].GetPipeline().GetStages()
			if n := stages[0].GetEnd() - stages[0].GetFirst(); c.name == "noise" && n != 2 {
				t.Errorf("the first of two equal devices has %d of 4 layers, want 2", n)
			}
		})
	}
}
