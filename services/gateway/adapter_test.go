package gateway

import (
	"slices"
	"testing"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// TestAdaptersAreListed: an adapter is a model of its own to clients, which finds the
// model that it belongs to.
func TestAdaptersAreListed(t *testing.T) {
	m := &pb.ModelInfo{Name: "base", Aliases: []string{"other"}, Adapters: []string{"poet"}, State: "ready"}
	if c := adapterCard(m, "poet"); c.ID != "poet" || c.Parent != "base" || c.Shoal.State != "ready" || len(c.Shoal.Aliases) != 0 {
		t.Errorf("card %+v", c)
	}
	if c := cardOf(m); c.Parent != "" {
		t.Errorf("the model's own card has a parent: %+v", c)
	}
	for _, name := range []string{"base", "other", "poet", "poet:latest"} {
		if findModel([]*pb.ModelInfo{m}, name) != m {
			t.Errorf("%s is not found", name)
		}
	}
	var ids []string
	for _, c := range cardsOf(m) {
		ids = append(ids, c.ID)
	}
	if !slices.Equal(ids, []string{"base", "poet"}) {
		t.Errorf("listed are %v", ids)
	}
}
