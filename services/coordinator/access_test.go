package coordinator

import (
	"log/slog"
	"testing"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/shoal-llm/shoal/internal/pki"
	"github.com/shoal-llm/shoal/internal/pki/pkitest"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/coordinator/registry"
)

// TestP01RolesByMethods: who may call what, method by method, whatever the rules
// of the server say.
func TestP01RolesByMethods(t *testing.T) {
	secret := pki.NewSecret()
	authority, err := pki.Derive(secret)
	if err != nil {
		t.Fatal(err)
	}
	self, err := authority.Identity(pki.Node{ID: "book", Roles: []pki.Role{pki.Coordinator}})
	if err != nil {
		t.Fatal(err)
	}
	book, err := registry.Open(registry.Options{Dir: t.TempDir(), Authority: authority, Identity: self, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	r := newRigOf(t, toyModel(), secret, book, nil)
	everyone, nodes := pki.AnyRole(), []pki.Role{pki.Coordinator, pki.Shard, pki.Gateway}
	pkitest.Matrix(t, r.secret, r.addr, map[string][]pki.Role{
		"/shoal.v1.CoordinatorService/Relay":   {pki.Gateway},
		"/shoal.v1.CoordinatorService/Cluster": everyone,
		"/shoal.v1.CoordinatorService/Drain":   {pki.Operator},
		"/shoal.v1.WeightService/Have":         {pki.Shard},
		"/shoal.v1.WeightService/Segments":     {pki.Shard},
		"/grpc.health.v1.Health/Check":         everyone,
		"/grpc.health.v1.Health/List":          everyone,
		"/grpc.health.v1.Health/Watch":         everyone,
		"/shoal.v1.TrustService/Follow":        nodes,
		"/shoal.v1.TrustService/Renew":         everyone,
		"/shoal.v1.TrustService/Vouch":         {pki.Shard},
		"/shoal.v1.TrustService/CreateToken":   {pki.Operator},
		"/shoal.v1.TrustService/Revoke":        {pki.Operator},
		"/shoal.v1.TrustService/RotateGossip":  {pki.Operator},
		"/shoal.v1.TrustService/Identities":    {pki.Operator},
	}, &pb.CoordinatorService_ServiceDesc, &pb.TrustService_ServiceDesc, &pb.WeightService_ServiceDesc, &healthpb.Health_ServiceDesc)
}
