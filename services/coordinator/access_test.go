package coordinator

import (
	"testing"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/shoal-llm/shoal/internal/pki"
	"github.com/shoal-llm/shoal/internal/pki/pkitest"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// TestP01RolesByMethods: who may call what, method by method, whatever the rules
// of the server say.
func TestP01RolesByMethods(t *testing.T) {
	r := newRig(t, nil)
	everyone := pki.AnyRole()
	pkitest.Matrix(t, r.secret, r.addr, map[string][]pki.Role{
		"/shoal.v1.CoordinatorService/Relay":   {pki.Gateway},
		"/shoal.v1.CoordinatorService/Cluster": everyone,
		"/shoal.v1.CoordinatorService/Drain":   {pki.Operator},
		"/shoal.v1.WeightService/Have":         {pki.Shard},
		"/shoal.v1.WeightService/Segments":     {pki.Shard},
		"/grpc.health.v1.Health/Check":         everyone,
		"/grpc.health.v1.Health/List":          everyone,
		"/grpc.health.v1.Health/Watch":         everyone,
	}, &pb.CoordinatorService_ServiceDesc, &pb.WeightService_ServiceDesc, &healthpb.Health_ServiceDesc)
}
