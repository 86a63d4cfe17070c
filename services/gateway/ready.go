package gateway

import (
	"context"
	"net/http"
	"strings"
	"time"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// readiness is the answer of /readyz.
type readiness struct {
	Ready   bool         `json:"ready"`
	Reasons []string     `json:"reasons,omitempty"`
	Nodes   []nodeStatus `json:"nodes,omitempty"` // with ?verbose
}

type nodeStatus struct {
	Node   string `json:"node"`
	State  string `json:"state"`
	Reason string `json:"reason,omitempty"`
}

// live serves /livez and /healthz: the process answers.
func (g *Gateway) live(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]string{"status": "alive"})
}

// ready serves /readyz: 200 only when a model can answer. What is wrong with
// which node is told to those who may ask for answers too.
func (g *Gateway) ready(w http.ResponseWriter, r *http.Request) {
	doc := g.readiness(r.Context())
	if r.URL.Query().Has("verbose") {
		doc.Nodes = g.nodes(r.Context())
	}
	if _, refused := g.access.holderOf(keyOf(r)); refused != nil {
		doc = readiness{Ready: doc.Ready}
	}
	status := http.StatusOK
	if !doc.Ready {
		status = http.StatusServiceUnavailable
		w.Header().Set("Retry-After", "1")
	}
	writeJSON(w, status, doc)
}

func (g *Gateway) readiness(ctx context.Context) readiness {
	if g.isDraining() {
		return readiness{Reasons: []string{drainText}}
	}
	state, err := g.cluster.state(ctx)
	switch {
	case err != nil:
		return readiness{Reasons: []string{"no coordinator answers"}}
	case !g.relay.connected():
		return readiness{Reasons: []string{"the relay to the coordinator is not connected"}}
	case state.GetReady():
		return readiness{Ready: true}
	}
	return readiness{Reasons: reasons(state)}
}

// reasons lists why the cluster cannot answer: its own word, then what is wrong
// with models and nodes.
func reasons(s *pb.ClusterResponse) []string {
	var list []string
	if s.GetReason() != "" {
		list = append(list, s.GetReason())
	}
	for _, m := range s.GetModels() {
		if m.GetState() != "ready" {
			list = append(list, "model "+m.GetName()+": "+because(m.GetState(), m.GetReason()))
		}
	}
	for _, n := range s.GetNodes() {
		if n.GetState() != "ready" {
			list = append(list, "node "+n.GetNode()+": "+because(n.GetState(), n.GetReason()))
		}
	}
	if len(list) == 0 {
		list = append(list, "the coordinator is not ready")
	}
	return list
}

func because(state, reason string) string {
	if reason == "" {
		return state
	}
	return state + " (" + reason + ")"
}

func (g *Gateway) nodes(ctx context.Context) []nodeStatus {
	state, err := g.cluster.state(ctx)
	if err != nil {
		return nil
	}
	var list []nodeStatus
	for _, n := range state.GetNodes() {
		list = append(list, nodeStatus{n.GetNode(), n.GetState(), n.GetReason()})
	}
	return list
}

// Ready reports the last known readiness without waiting, and why it is so. It
// is at most a moment old while Run runs.
func (g *Gateway) Ready() (ok bool, reasons map[string]string) {
	known := g.known.Load()
	if known == nil {
		return false, map[string]string{"coordinator": "not asked yet"}
	}
	if known.Ready && !g.isDraining() {
		return true, map[string]string{"coordinator": "ready"}
	}
	if g.isDraining() {
		return false, map[string]string{"gateway": drainText}
	}
	return false, map[string]string{"coordinator": strings.Join(known.Reasons, "; ")}
}

// watchHealth keeps Ready and the gRPC health service true to readiness until
// ctx ends.
func (g *Gateway) watchHealth(ctx context.Context) error {
	ticker := time.NewTicker(unreadyAge)
	defer ticker.Stop()
	for {
		now := g.readiness(ctx)
		g.known.Store(&now)
		status := healthpb.HealthCheckResponse_NOT_SERVING
		if now.Ready {
			status = healthpb.HealthCheckResponse_SERVING
		}
		g.health.SetServingStatus("", status)
		g.health.SetServingStatus(pb.GenerateService_ServiceDesc.ServiceName, status)
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}
