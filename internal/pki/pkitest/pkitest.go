// Package pkitest holds servers to their table of who may call what.
package pkitest

import (
	"context"
	"crypto/tls"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/shoal-llm/shoal/internal/pki"
)

// patience bounds one call: far more than any takes.
const patience = 30 * time.Second

// Matrix calls every method of the services, at the server at addr, as every role
// alone, and wants it refused unless the role is in the method's row of want. It
// also calls each without a certificate, with an expired one and with one of
// another cluster, which must end in the handshake. want needs a row for each
// method. Accepted calls get one empty message and the end of the stream; how
// they are answered then is not judged.
func Matrix(t *testing.T, secret pki.Secret, addr string, want map[string][]pki.Role, services ...*grpc.ServiceDesc) {
	t.Helper()
	methods := methodsOf(services)
	for m := range want {
		if !slices.Contains(methods, m) {
			t.Errorf("%s has a row and is no method", m)
		}
	}
	for _, role := range pki.AnyRole() {
		conn := dial(t, addr, identity(t, secret, pki.Node{ID: "caller", Roles: []pki.Role{role}}).ClientTLS(pki.Expect{}))
		for _, m := range methods {
			row, ok := want[m]
			if !ok {
				t.Errorf("%s has no row", m)
			}
			err := call(t, conn, m)
			refused := status.Code(err) == codes.PermissionDenied && strings.Contains(err.Error(), "may not call "+m)
			if allowed := slices.Contains(row, role); refused == allowed || status.Code(err) == codes.Unauthenticated {
				t.Errorf("%s calls %s: %v, allowed is %v", role, m, err, allowed)
			}
		}
		for _, m := range []string{"/shoal.v1.None/None", strings.TrimSuffix(methods[0], methods[0][strings.LastIndex(methods[0], "/")+1:]) + "None"} {
			if err := call(t, conn, m); status.Code(err) != codes.Unimplemented {
				t.Errorf("%s calls %s, which is not there: %v", role, m, err)
			}
		}
	}
	for name, config := range strangers(t, secret) {
		conn := dial(t, addr, config)
		for _, m := range methods {
			if err := call(t, conn, m); status.Code(err) != codes.Unavailable {
				t.Errorf("%s: %s: %v, want the handshake refused", name, m, err)
			}
		}
	}
}

// methodsOf returns the full names of all methods and streams.
func methodsOf(services []*grpc.ServiceDesc) []string {
	var names []string
	for _, s := range services {
		for _, m := range s.Methods {
			names = append(names, "/"+s.ServiceName+"/"+m.MethodName)
		}
		for _, m := range s.Streams {
			names = append(names, "/"+s.ServiceName+"/"+m.StreamName)
		}
	}
	return names
}

// strangers are clients with all roles that are not of the cluster, or no longer.
// They accept any server, so that the refusal is the server's.
func strangers(t *testing.T, secret pki.Secret) map[string]*tls.Config {
	t.Helper()
	all := pki.Node{ID: "caller", Roles: pki.AnyRole()}
	none := identity(t, secret, all).ClientTLS(pki.Expect{})
	none.GetClientCertificate = nil
	other := identity(t, pki.NewSecret(), all).ClientTLS(pki.Expect{})
	all.Now = func() time.Time { return time.Now().Add(-2 * pki.DefaultLife) }
	expired := identity(t, secret, all).ClientTLS(pki.Expect{})
	clients := map[string]*tls.Config{"no certificate": none, "another cluster's": other, "an expired certificate": expired}
	for _, c := range clients {
		c.VerifyConnection = nil
	}
	return clients
}

func identity(t *testing.T, secret pki.Secret, node pki.Node) *pki.Identity {
	t.Helper()
	id, err := pki.New(secret, node)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func dial(t *testing.T, addr string, config *tls.Config) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// call sends an empty message and the end of the stream, and returns how the call
// ended, or nil once it has answered. Any method can be called as a stream.
func call(t *testing.T, conn *grpc.ClientConn, method string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
	if err != nil {
		return err
	}
	if err := s.SendMsg(&emptypb.Empty{}); err == nil {
		_ = s.CloseSend() // its error is RecvMsg's
	}
	return s.RecvMsg(&emptypb.Empty{})
}
