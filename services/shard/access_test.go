package shard

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
	b := newBench(t, 1)
	everyone := pki.AnyRole()
	pkitest.Matrix(t, b.secret, b.nodes[0].addr, map[string][]pki.Role{
		"/shoal.v1.ShardService/Hello":        {pki.Coordinator, pki.Shard},
		"/shoal.v1.ShardService/Control":      {pki.Coordinator},
		"/shoal.v1.ShardService/Drive":        {pki.Coordinator},
		"/shoal.v1.ShardService/Push":         {pki.Shard},
		"/shoal.v1.ShardService/Results":      {pki.Coordinator, pki.Shard},
		"/shoal.v1.ShardService/Beat":         {pki.Coordinator, pki.Shard},
		"/shoal.v1.ShardService/Measure":      {pki.Coordinator},
		"/shoal.v1.ShardService/MeasureLinks": {pki.Coordinator},
		"/shoal.v1.ShardService/Probe":        {pki.Shard},
		"/shoal.v1.WeightService/Have":        {pki.Shard},
		"/shoal.v1.WeightService/Segments":    {pki.Shard},
		"/shoal.v1.ShardService/See":          {pki.Coordinator},
		"/grpc.health.v1.Health/Check":        everyone,
		"/grpc.health.v1.Health/List":         everyone,
		"/grpc.health.v1.Health/Watch":        everyone,
	}, &pb.ShardService_ServiceDesc, &pb.WeightService_ServiceDesc, &healthpb.Health_ServiceDesc)
}
