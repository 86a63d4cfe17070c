package pki

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// ServerCredentials are ServerTLS for a gRPC server.
func (id *Identity) ServerCredentials(allowed ...Role) credentials.TransportCredentials {
	return guarded{credentials.NewTLS(id.ServerTLS(allowed...)), id.guard}
}

// ClientCredentials are ClientTLS for a gRPC connection. An empty expectNodeID
// accepts any node of the cluster; without roles any role will do.
func (id *Identity) ClientCredentials(expectNodeID string, roles ...Role) credentials.TransportCredentials {
	return guarded{credentials.NewTLS(id.ClientTLS(Expect{NodeID: expectNodeID, Roles: roles})), id.guard}
}

// PeerFromContext returns who called the gRPC method that runs under ctx. It
// fails when the call did not come through credentials of this package.
func PeerFromContext(ctx context.Context) (Peer, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return Peer{}, fmt.Errorf("%w: no connection in the context", ErrPeer)
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return Peer{}, fmt.Errorf("%w: its connection is not TLS", ErrPeer)
	}
	return PeerFromTLS(info.State)
}

// Rules say which roles may call a gRPC method, by full method name
// ("/shoal.v1.Stage/Run"). A method without a row, or a row without roles, is
// closed to all.
type Rules map[string][]Role

// Check compares the rules with the methods that a server registered
// (grpc.Server.GetServiceInfo): each method needs a row and each row a method,
// so that a new method cannot be forgotten.
func (r Rules) Check(services map[string]grpc.ServiceInfo) error {
	known := map[string]bool{}
	for service, info := range services {
		for _, m := range info.Methods {
			known["/"+service+"/"+m.Name] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(known)) {
		if _, ok := r[name]; !ok {
			return fmt.Errorf("no rule says who may call %s", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r)) {
		if !known[name] {
			return fmt.Errorf("a rule names %s, which is not served", name)
		}
	}
	return nil
}

func (r Rules) allow(ctx context.Context, method string) error {
	p, err := PeerFromContext(ctx)
	if err != nil {
		return status.Error(codes.Unauthenticated, err.Error())
	}
	if !p.Has(r[method]...) {
		return status.Errorf(codes.PermissionDenied, "node %s (roles %v) may not call %s", p.NodeID, p.Roles, method)
	}
	return nil
}

// Authorize returns the interceptors that enforce the rules on a server whose
// credentials are ServerCredentials. A refused call ends with PermissionDenied
// before the handler runs. The rules must not be changed afterwards.
func Authorize(r Rules) (grpc.UnaryServerInterceptor, grpc.StreamServerInterceptor) {
	unary := func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		if err := r.allow(ctx, info.FullMethod); err != nil {
			return nil, err
		}
		return next(ctx, req)
	}
	stream := func(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
		if err := r.allow(s.Context(), info.FullMethod); err != nil {
			return err
		}
		return next(srv, s)
	}
	return unary, stream
}
