package pki

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

const (
	checkMethod = "/grpc.health.v1.Health/Check"
	watchMethod = "/grpc.health.v1.Health/Watch"
	listMethod  = "/grpc.health.v1.Health/List"
)

func node(t *testing.T, s Secret, id string, roles ...Role) *Identity {
	t.Helper()
	n, err := New(s, Node{ID: id, Roles: roles})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// serve runs a health service that lets shards call Check and Watch.
func serve(t *testing.T, id *Identity, allowed ...Role) (addr string) {
	t.Helper()
	rules := Rules{checkMethod: {Shard}, watchMethod: {Shard}, listMethod: nil}
	unary, stream := Authorize(rules)
	s := grpc.NewServer(grpc.Creds(id.ServerCredentials(allowed...)),
		grpc.UnaryInterceptor(unary), grpc.StreamInterceptor(stream))
	healthpb.RegisterHealthServer(s, health.NewServer())
	if err := rules.Check(s.GetServiceInfo()); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go s.Serve(l)
	t.Cleanup(s.Stop)
	return l.Addr().String()
}

// call asks Check once and then the first message of Watch, and returns both
// verdicts.
func call(t *testing.T, addr string, creds credentials.TransportCredentials) (check, watch error) {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	client := healthpb.NewHealthClient(conn)
	_, check = client.Check(ctx, &healthpb.HealthCheckRequest{})
	stream, watch := client.Watch(ctx, &healthpb.HealthCheckRequest{})
	if watch == nil {
		_, watch = stream.Recv()
	}
	return check, watch
}

func TestTwoNodesOfOneSecretTalk(t *testing.T) {
	s := NewSecret()
	addr := serve(t, node(t, s, "head", Coordinator))
	for name, creds := range map[string]credentials.TransportCredentials{
		"any node":       node(t, s, "a", Shard).ClientCredentials(""),
		"the node":       node(t, s, "a", Shard).ClientCredentials("head"),
		"node and role":  node(t, s, "a", Shard).ClientCredentials("head", Coordinator),
		"several roles":  node(t, s, "a", Gateway, Shard).ClientCredentials(""),
		"another's name": node(t, s, "head", Shard).ClientCredentials("head"),
	} {
		if check, watch := call(t, addr, creds); check != nil || watch != nil {
			t.Errorf("%s: check %v, watch %v", name, check, watch)
		}
	}
}

func TestStrangersAreRefused(t *testing.T) {
	s := NewSecret()
	head := node(t, s, "head", Coordinator)
	addr := serve(t, head)
	shard := node(t, s, "a", Shard)
	other := node(t, NewSecret(), "a", Shard)
	noCert := shard.ClientTLS(Expect{})
	noCert.GetClientCertificate = nil
	webCert, err := shard.GatewayTLS()
	if err != nil {
		t.Fatal(err)
	}
	public := shard.ClientTLS(Expect{})
	public.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return webCert.GetCertificate(nil)
	}
	trusting := other.ClientTLS(Expect{})
	trusting.VerifyConnection = nil // so that the refusal is the server's
	expired, err := New(s, Node{ID: "old", Roles: []Role{Shard}, Now: func() time.Time {
		return time.Now().Add(-2 * DefaultLife)
	}})
	if err != nil {
		t.Fatal(err)
	}
	old := expired.ClientTLS(Expect{})
	old.VerifyConnection = nil
	for name, creds := range map[string]credentials.TransportCredentials{
		"plain text":                 insecure.NewCredentials(),
		"wrong secret":               other.ClientCredentials(""),
		"wrong secret, trusting":     credentials.NewTLS(trusting),
		"no certificate":             credentials.NewTLS(noCert),
		"gateway's web certificate":  credentials.NewTLS(public),
		"expired certificate":        credentials.NewTLS(old),
		"another node expected":      shard.ClientCredentials("tail"),
		"another role expected":      shard.ClientCredentials("", Gateway),
		"public roots, no node cert": credentials.NewTLS(&tls.Config{}),
	} {
		check, watch := call(t, addr, creds)
		if status.Code(check) != codes.Unavailable || status.Code(watch) != codes.Unavailable {
			t.Errorf("%s: check %v, watch %v; want Unavailable", name, check, watch)
		}
	}
}

func TestRefusalsSayWhy(t *testing.T) {
	s := NewSecret()
	head, shard, other := node(t, s, "head", Coordinator), node(t, s, "a", Shard), node(t, NewSecret(), "a", Shard)
	noCert := shard.ClientTLS(Expect{})
	noCert.GetClientCertificate = nil
	trusting := other.ClientTLS(Expect{})
	trusting.VerifyConnection = nil
	tls12 := shard.ClientTLS(Expect{})
	tls12.MinVersion, tls12.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	for _, c := range []struct {
		name           string
		server, client *tls.Config
		atServer       bool // where the refusal shows
		want           string
	}{
		{"wrong secret", head.ServerTLS(), trusting, true, "unknown authority"},
		{"wrong secret", head.ServerTLS(), other.ClientTLS(Expect{}), false, "unknown authority"},
		{"no certificate", head.ServerTLS(), noCert, true, "didn't provide a certificate"},
		{"wrong role", head.ServerTLS(Gateway), shard.ClientTLS(Expect{}), true, "node a has roles [shard], want one of [gateway]"},
		{"other node", head.ServerTLS(), shard.ClientTLS(Expect{NodeID: "tail"}), false, "node head answers where tail was expected"},
		{"TLS 1.2", head.ServerTLS(), tls12, true, "unsupported versions"},
	} {
		atServer, atClient := handshake(t, c.server, c.client)
		err := atClient
		if c.atServer {
			err = atServer
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want an error that says %q", c.name, err, c.want)
		}
	}
	if _, err := PeerFromContext(t.Context()); !errors.Is(err, ErrPeer) {
		t.Errorf("PeerFromContext without a connection: %v", err)
	}
}

func TestExpiredServerIsRefused(t *testing.T) {
	s := NewSecret()
	old, err := New(s, Node{ID: "old", Roles: []Role{Shard}, Now: func() time.Time {
		return time.Now().Add(-2 * DefaultLife)
	}})
	if err != nil {
		t.Fatal(err)
	}
	config := old.ServerTLS()
	config.VerifyConnection = nil
	_, err = handshake(t, config, node(t, s, "a", Shard).ClientTLS(Expect{}))
	if err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("expired server: %v", err)
	}
}

func TestRolesOpenMethods(t *testing.T) {
	s := NewSecret()
	addr := serve(t, node(t, s, "head", Coordinator))
	check, watch := call(t, addr, node(t, s, "gw", Gateway).ClientCredentials(""))
	if status.Code(check) != codes.PermissionDenied || status.Code(watch) != codes.PermissionDenied {
		t.Errorf("wrong role: check %v, watch %v; want PermissionDenied", check, watch)
	}
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(node(t, s, "a", Shard).ClientCredentials("")))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = healthpb.NewHealthClient(conn).List(t.Context(), &healthpb.HealthListRequest{})
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("a method that is open to no role: %v", err)
	}
	onlyGateways := serve(t, node(t, s, "head", Coordinator), Gateway)
	if check, _ := call(t, onlyGateways, node(t, s, "a", Shard).ClientCredentials("")); status.Code(check) != codes.Unavailable {
		t.Errorf("a role that the listener does not accept: %v", check)
	}
}

func TestAuthorizeNeedsACertificate(t *testing.T) {
	unary, _ := Authorize(Rules{checkMethod: AnyRole()})
	s := grpc.NewServer(grpc.UnaryInterceptor(unary)) // plain text: a mistake of the caller
	healthpb.RegisterHealthServer(s, health.NewServer())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go s.Serve(l)
	defer s.Stop()
	check, _ := call(t, l.Addr().String(), insecure.NewCredentials())
	if status.Code(check) != codes.Unauthenticated {
		t.Errorf("plain-text call: %v, want Unauthenticated", check)
	}
}

func TestRulesCoverEveryMethod(t *testing.T) {
	s := grpc.NewServer()
	healthpb.RegisterHealthServer(s, health.NewServer())
	full := Rules{checkMethod: AnyRole(), watchMethod: AnyRole(), listMethod: nil}
	if err := full.Check(s.GetServiceInfo()); err != nil {
		t.Error(err)
	}
	if err := (Rules{checkMethod: AnyRole(), listMethod: nil}).Check(s.GetServiceInfo()); err == nil || !strings.Contains(err.Error(), watchMethod) {
		t.Errorf("a method without a rule: %v", err)
	}
	full["/x.Y/Z"] = nil
	if err := full.Check(s.GetServiceInfo()); err == nil || !strings.Contains(err.Error(), "/x.Y/Z") {
		t.Errorf("a rule without a method: %v", err)
	}
}
