package coordinator

import (
	"context"
	"strings"
	"time"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// readyPatience is how long Ready waits for the owner, who answers at once
// unless something is wrong.
const readyPatience = time.Second

// Ready reports whether the model can answer, and why not or by which stages.
// It may be called from any goroutine, also before and after Run.
func (c *Coordinator) Ready() (bool, map[string]string) {
	ctx, cancel := context.WithTimeout(context.Background(), readyPatience)
	defer cancel()
	answer := make(chan *pb.ClusterResponse, 1)
	select {
	case c.events <- clusterAsked{answer}:
	case <-c.ended:
		return false, map[string]string{"coordinator": "shutting down"}
	case <-ctx.Done():
		return false, map[string]string{"coordinator": "not running"}
	}
	select {
	case r := <-answer:
		return r.Ready, readyReasons(r)
	case <-ctx.Done():
		return false, map[string]string{"coordinator": "does not answer"}
	}
}

func readyReasons(r *pb.ClusterResponse) map[string]string {
	if !r.Ready {
		return map[string]string{"cluster": r.Reason}
	}
	return map[string]string{"pipeline": strings.Join(r.Models[0].Stages, " → ")}
}
