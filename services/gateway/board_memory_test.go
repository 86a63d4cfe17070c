package gateway

import (
	"testing"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// TestCompleteReportsMemory: who asks is told at the end what the stages hold, on both
// protocols, and the coordinator is asked for it.
func TestCompleteReportsMemory(t *testing.T) {
	f := serve(t)
	f.fake.set(func(g *fakeGeneration) {
		e := completeEvent("stop", 1, "")
		if g.GetReportMemory() {
			e.GetComplete().Memory = []*pb.StageMemory{{Measured: true, Weights: 3 << 20, Caches: 1 << 20, Halves: 16 << 20}}
		}
		g.accept()
		g.send(g.number, tokenEvent(1, "x"), e)
	})
	for _, ask := range []string{"", `,"config":{"trackMemoryUsage":true}`} {
		plain, rich := f.dial(t, nil), f.rich(t)
		plain.send(`{"prompt":"x"` + ask + `}`)
		rich.generate("a", ask)
		for name, socket := range map[string]*pageSocket{"plain": plain, "rich": rich} {
			got := socket.read()
			for got["type"] != "complete" {
				got = socket.read()
			}
			memory, _ := got["memory"].(map[string]any)
			if (memory != nil) != (ask != "") {
				t.Errorf("%s, asked %q: memory %v", name, ask, memory)
			}
			if ask != "" && (memory["totalEstimatedMB"] != 4. || memory["memoryReductionPercent"] != 75. || memory["kvCacheMB"] != 1.) {
				t.Errorf("%s: %v", name, memory)
			}
		}
	}
}
