package pki

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// The vectors come from an independent HKDF and P-256 in Python, over the
// secret 00 01 … 1f.
func TestDeriveMatchesReference(t *testing.T) {
	a, err := Derive(counting())
	if err != nil {
		t.Fatal(err)
	}
	gossip := a.GossipKey()
	if got, want := hex.EncodeToString(gossip[:]), "e02673ea01f57e27b54dee3f34aee3a2e895305d4aa1e7c2ae3bbd11c8f9425f"; got != want {
		t.Errorf("gossip key %s, want %s", got, want)
	}
	if got, want := a.ClusterID(), "655d8e784ce0cf92"; got != want {
		t.Errorf("cluster id %s, want %s", got, want)
	}
}

func TestDeriveIsAPureFunction(t *testing.T) {
	s := NewSecret()
	a, errA := Derive(s)
	b, errB := Derive(s)
	if errA != nil || errB != nil {
		t.Fatal(errA, errB)
	}
	if !bytes.Equal(a.CertificatePEM(), b.CertificatePEM()) || a.GossipKey() != b.GossipKey() {
		t.Error("two derivations of one secret differ")
	}
	c, err := Derive(NewSecret())
	if err != nil {
		t.Fatal(err)
	}
	if a.ClusterID() == c.ClusterID() || a.GossipKey() == c.GossipKey() {
		t.Error("two secrets give one cluster")
	}
	if err := a.cert.CheckSignatureFrom(b.cert); err != nil {
		t.Errorf("the certificate is not self-signed: %v", err)
	}
	if !a.cert.NotBefore.Equal(caNotBefore) || !a.cert.NotAfter.Equal(caNotAfter) || !a.cert.IsCA {
		t.Errorf("certificate valid %v to %v, CA %v", a.cert.NotBefore, a.cert.NotAfter, a.cert.IsCA)
	}
}

func TestNewRefusesBadNodes(t *testing.T) {
	s := NewSecret()
	for _, c := range []struct {
		node Node
		want string
	}{
		{Node{ID: "", Roles: []Role{Shard}}, "node id"},
		{Node{ID: "a/b", Roles: []Role{Shard}}, "node id"},
		{Node{ID: "..", Roles: []Role{Shard}}, "node id"},
		{Node{ID: strings.Repeat("a", 64), Roles: []Role{Shard}}, "node id"},
		{Node{ID: "a"}, "role"},
		{Node{ID: "a", Roles: []Role{"root"}}, `unknown role "root"`},
		{Node{ID: "a", Roles: []Role{Shard}, Life: time.Hour}, "life"},
		{Node{ID: "a", Roles: []Role{Shard}, Life: 2 * MaxLife}, "life"},
	} {
		if _, err := New(s, c.node); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("New(%+v): %v, want an error about %q", c.node, err, c.want)
		}
	}
}

func TestLeafSaysWhoItIs(t *testing.T) {
	start := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	id, err := New(counting(), Node{
		ID: "nas", Roles: []Role{Shard, Coordinator, Shard}, Hosts: []string{"nas.local", "10.0.0.7"},
		Now: func() time.Time { return start },
	})
	if err != nil {
		t.Fatal(err)
	}
	cert, err := id.leaf()
	if err != nil {
		t.Fatal(err)
	}
	peer, err := peerFromCertificate(cert.Leaf)
	if err != nil {
		t.Fatal(err)
	}
	if peer.Cluster != "655d8e784ce0cf92" || peer.NodeID != "nas" || !slices.Equal(peer.Roles, []Role{Coordinator, Shard}) {
		t.Errorf("peer = %+v", peer)
	}
	if peer.Fingerprint != id.Fingerprint() || hex.EncodeToString(id.FingerprintBytes()) != id.Fingerprint() {
		t.Errorf("fingerprint %s, want %s", peer.Fingerprint, id.Fingerprint())
	}
	if got := cert.Leaf.URIs[1].String(); got != "spiffe://655d8e784ce0cf92/shard/nas" {
		t.Errorf("URI %s", got)
	}
	if !cert.Leaf.NotBefore.Equal(start.Add(-time.Hour)) || !cert.Leaf.NotAfter.Equal(start.Add(DefaultLife)) {
		t.Errorf("valid %v to %v", cert.Leaf.NotBefore, cert.Leaf.NotAfter)
	}
	if len(cert.Leaf.DNSNames) != 1 || len(cert.Leaf.IPAddresses) != 1 || cert.Leaf.IsCA {
		t.Errorf("names %v, addresses %v, CA %v", cert.Leaf.DNSNames, cert.Leaf.IPAddresses, cert.Leaf.IsCA)
	}
}

func TestLeafRenewsItselfAndKeepsItsKey(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	id, err := New(NewSecret(), Node{ID: "a", Roles: []Role{Shard}, Life: MinLife, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	serial := func() string {
		t.Helper()
		cert, err := id.leaf()
		if err != nil {
			t.Fatal(err)
		}
		if now.After(cert.Leaf.NotAfter) || now.Before(cert.Leaf.NotBefore) {
			t.Fatalf("at %v a certificate for %v to %v", now, cert.Leaf.NotBefore, cert.Leaf.NotAfter)
		}
		if got := fingerprint(cert.Leaf); got != id.Fingerprint() {
			t.Fatalf("fingerprint changed from %s to %s", id.Fingerprint(), got)
		}
		return cert.Leaf.SerialNumber.String()
	}
	first := serial()
	now = now.Add(15 * time.Hour)
	if serial() != first {
		t.Error("renewed before the last third of its life")
	}
	now = now.Add(2 * time.Hour)
	second := serial()
	if second == first {
		t.Error("not renewed in the last third of its life")
	}
	now = now.Add(1000 * time.Hour)
	if serial() == second {
		t.Error("an expired certificate was kept")
	}
	now = now.Add(-2000 * time.Hour) // the clock was wrong
	serial()
}

func TestPeerRefusesStrangeNames(t *testing.T) {
	for _, uris := range [][]string{
		{},
		{"https://c1/shard/a"},
		{"spiffe://c1/shard"},
		{"spiffe://c1/shard/a/b"},
		{"spiffe://c1/shard/a?x=1"},
		{"spiffe://user@c1/shard/a"},
		{"spiffe://c1/shard/%2e%2e"},
		{"spiffe://c1/shard/a", "spiffe://c1/shard/b"},
		{"spiffe://c1/shard/a", "spiffe://c2/gateway/a"},
		{"spiffe://c1/shard/a", "https://c1/gateway/a"},
	} {
		cert := &x509.Certificate{}
		for _, text := range uris {
			u, err := url.Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			cert.URIs = append(cert.URIs, u)
		}
		if p, err := peerFromCertificate(cert); err == nil {
			t.Errorf("%v accepted as %+v", uris, p)
		}
	}
}

func TestGatewayTLSServesBrowsers(t *testing.T) {
	id, err := New(NewSecret(), Node{ID: "gw", Roles: []Role{Gateway}})
	if err != nil {
		t.Fatal(err)
	}
	config, err := id.GatewayTLS("chat.home.arpa")
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go acceptAll(l)
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(id.Authority().CertificatePEM()) {
		t.Fatal("the authority's PEM holds no certificate")
	}
	for _, name := range []string{"localhost", "127.0.0.1", "chat.home.arpa"} {
		conn, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{RootCAs: pool, ServerName: name})
		if err != nil {
			t.Errorf("as %s: %v", name, err)
			continue
		}
		if _, err := PeerFromTLS(conn.ConnectionState()); err == nil {
			t.Error("the gateway's public certificate names a node")
		}
		conn.Close()
	}
	if conn, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{RootCAs: pool, ServerName: "evil.example"}); err == nil {
		conn.Close()
		t.Error("the certificate is good for another name")
	}
	if conn, err := tls.Dial("tcp", l.Addr().String(), id.ClientTLS(Expect{})); err == nil {
		conn.Close()
		t.Error("a node took the public listener for a node")
	}
}

// acceptAll finishes the handshake of each connection and closes it.
func acceptAll(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		conn.(*tls.Conn).Handshake()
		conn.Close()
	}
}

// handshake runs both ends of a TLS connection and returns each end's verdict.
func handshake(t *testing.T, server, client *tls.Config) (serverErr, clientErr error) {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	done := make(chan error, 1)
	go func() {
		conn := tls.Server(a, server)
		err := conn.Handshake()
		if err == nil {
			_, err = conn.Write([]byte("ok"))
		}
		a.Close()
		done <- err
	}()
	conn := tls.Client(b, client)
	clientErr = conn.Handshake()
	if clientErr == nil {
		_, clientErr = conn.Read(make([]byte, 2))
	}
	b.Close()
	return <-done, clientErr
}
