package coordinator

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/shoal-llm/shoal/pkg/frame"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/coordinator/plan"
)

// Measure says what the test wants the shard's device to be.
func (f *fakeShard) Measure(_ context.Context, req *pb.MeasureRequest) (*pb.MeasureResponse, error) {
	layer, ok := f.wires.layer[f.node]
	if !ok {
		return nil, status.Error(codes.Unimplemented, "it cannot measure")
	}
	d := &pb.DeviceSpeed{TurnSeconds: req.GetTurnSeconds()}
	if !req.GetCached() || req.GetTurnSeconds() > 0 {
		for _, p := range req.GetParts() {
			d.Shapes = append(d.Shapes, &pb.ShapeSpeed{Shape: p.GetShape(), Fixed: layer})
		}
	}
	return &pb.MeasureResponse{Devices: []*pb.DeviceSpeed{d}}, nil
}

// MeasureLinks says a millisecond to everybody.
func (f *fakeShard) MeasureLinks(_ context.Context, req *pb.MeasureLinksRequest) (*pb.MeasureLinksResponse, error) {
	out := &pb.MeasureLinksResponse{}
	for _, p := range req.GetPeers() {
		out.Links = append(out.Links, &pb.LinkSpeed{From: f.node, To: p.GetNode(), DelaySeconds: 1e-3, Rate: 1e8})
	}
	return out, nil
}

// clusterWhen returns the report once ok holds.
func clusterWhen(t *testing.T, r *rig, what string, ok func(*pb.ClusterResponse) bool) *pb.ClusterResponse {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for {
		got, err := r.relay.cluster.Cluster(ctx, &pb.ClusterRequest{})
		if err != nil {
			t.Fatalf("%s: %v; the last report was %v", what, err, got)
		}
		if ok(got) {
			return got
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: not in time: %v", what, got)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// TestSurveyDecides: devices and links are measured before the first plan, which
// goes by them, and the report shows both, with the prediction.
func TestSurveyDecides(t *testing.T) {
	r := newRig(t, func(c *Config, w *wires) {
		c.Place = plan.Measured
		w.layer = map[string]float64{"a": 4e-3, "b": 1e-3}
	}, "a", "b")
	got := clusterWhen(t, r, "links", func(c *pb.ClusterResponse) bool {
		return c.GetReady() && len(c.GetLinks()) == 4 && c.GetPipelines()[0].GetSpeed().GetToken() > 0
	})
	if len(got.GetPipelines()) != 1 || len(got.GetPipelines()[0].GetPipeline().GetStages()) != 1 {
		t.Fatalf("pipelines %v, want all of the model on one node", got.GetPipelines())
	}
	if st := got.GetPipelines()[0].GetPipeline().GetStages()[0]; st.GetNode() != "b" {
		t.Errorf("the model is on node %s, want the fast one", st.GetNode())
	}
	// Four layers and a head of a millisecond each, and nothing else.
	if token := got.GetPipelines()[0].GetSpeed().GetToken(); math.Abs(token-5e-3) > 1e-9 {
		t.Errorf("a token is predicted to take %g seconds, want 5 ms", token)
	}
	if !strings.Contains(got.GetExplanation(), "without a stage: a/0: a layer takes 4.0 ms there and 1.0 ms on b/0") {
		t.Errorf("explanation %q", got.GetExplanation())
	}
	for _, n := range got.GetNodes() {
		if len(n.GetSpeeds()) != 1 || len(n.GetSpeeds()[0].GetShapes()) != 2 {
			t.Errorf("node %s: speeds %v", n.GetNode(), n.GetSpeeds())
		}
	}
}

// TestSurveyDoesWithout: shards that cannot measure are used all the same.
func TestSurveyDoesWithout(t *testing.T) {
	r := newRig(t, func(c *Config, _ *wires) { c.Place, c.Wishes.Stages = plan.Measured, 2 }, "a", "b")
	got := clusterWhen(t, r, "ready", func(c *pb.ClusterResponse) bool { return c.GetReady() })
	if n := len(got.GetPipelines()[0].GetPipeline().GetStages()); n != 2 {
		t.Errorf("%d stages, want 2", n)
	}
	if !strings.Contains(got.GetExplanation(), "not measured") {
		t.Errorf("explanation %q, want that it is guessed", got.GetExplanation())
	}
}

// TestSlowness: a device counts as slow after seconds of slow steps, not of a
// hiccup, and as its old self after seconds of steps as before.
func TestSlowness(t *testing.T) {
	now := time.Unix(0, 0)
	var s slowness
	// run takes steps of 10 ms and returns how many there were until news.
	run := func(ratio float64, most int) int {
		for i := range most {
			now = now.Add(10 * time.Millisecond)
			told := s.told
			if told == 0 {
				told = 1
			}
			if s.note(ratio/told, now) {
				return i + 1
			}
		}
		return 0
	}
	if run(1, 1000) != 0 || run(9, 5) != 0 || run(1, 1000) != 0 {
		t.Fatalf("a hiccup of 50 ms makes a device slow: %+v", s)
	}
	if n := run(3, 5000); n == 0 || n > 1000 || s.told < slower || s.told > 3.1 {
		t.Fatalf("three times as slow: told after %d steps: %+v", n, s)
	}
	run(3, 5000)
	if s.told < 2.5 || s.told > 3.2 {
		t.Errorf("three times as slow for long: %+v", s)
	}
	run(1, 5000)
	if s.told < 0.7 || s.told > 1.3 {
		t.Errorf("as fast as before: %+v", s)
	}
}

// TestTempoOfALoneSession: only a session that has the pipeline to itself says
// how long a token takes.
func TestTempoOfALoneSession(t *testing.T) {
	now := time.Unix(0, 0)
	p := &pipeline{slots: make([]slot, 2)}
	p.slots[0].attempt = 7
	token := func(attempt uint32) {
		now = now.Add(5 * time.Millisecond)
		p.tempo.ticked(p, []frame.Sampled{{Attempt: attempt, IDs: []int32{1}}}, now)
	}
	for range tokens + 1 {
		token(7)
	}
	if math.Abs(p.tempo.token-5e-3) > 1e-9 || !p.tempo.fresh {
		t.Fatalf("a token of 5 ms is said to take %g", p.tempo.token)
	}
	p.slots[1].attempt = 8
	now = now.Add(time.Minute)
	for range 2 * tokens {
		token(7)
		token(8)
	}
	p.slots[1].attempt = 0
	for range tokens + 1 {
		token(7)
	}
	if math.Abs(p.tempo.token-5e-3) > 1e-9 {
		t.Errorf("after others have been there a token is said to take %g", p.tempo.token)
	}
}

// TestMeasureParts: each shape is measured once, where the most layers of it
// follow each other, the commonest first.
func TestMeasureParts(t *testing.T) {
	m := &plan.Model{
		LayerBytes: make([]uint64, 8), HeadShape: "head",
		Shapes: []string{"b", "a", "a", "b", "a", "a", "a", "c"},
	}
	var got []string
	for _, p := range measureParts(m) {
		got = append(got, fmt.Sprintf("%s [%d..%d) %v", p.GetShape(), p.GetFirst(), p.GetEnd(), p.GetHead()))
	}
	want := []string{"a [4..7) false", "b [0..1) false", "c [7..8) false", "head [7..8) true"}
	if !slices.Equal(got, want) {
		t.Errorf("parts %q, want %q", got, want)
	}
}

// TestTurnIgnoresSlowReaders: what a reader does not take in time is no property
// of the machines.
func TestTurnIgnoresSlowReaders(t *testing.T) {
	var tp tempo
	for range 100 {
		tp.unhindered(1e-3)
		tp.unhindered(0.1)
	}
	if tp.best != 1e-3 {
		t.Errorf("a token takes %g seconds besides slow readers, want 1 ms", tp.best)
	}
	for range 100 {
		tp.unhindered(2e-3)
	}
	if math.Abs(tp.best-2e-3) > 1e-5 {
		t.Errorf("after the machines have become slower a token takes %g seconds, want 2 ms", tp.best)
	}
}
