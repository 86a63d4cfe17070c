package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"slices"
	"time"
)

// WebLife is the life of the gateway's certificate for browsers. Some refuse
// more than 398 days.
const WebLife = 90 * 24 * time.Hour

// Expect narrows whom a connection accepts beyond membership in the cluster.
// The zero value accepts every node of the cluster.
type Expect struct {
	NodeID string // the one node that may answer; empty: any
	Roles  []Role // the peer holds one of these; empty: any
}

// ServerTLS is the configuration of a listener for other nodes: TLS 1.3, and a
// client certificate of this cluster that holds one of the allowed roles (all
// roles when none is given).
func (id *Identity) ServerTLS(allowed ...Role) *tls.Config {
	config := id.commonTLS(Expect{Roles: allowed}, x509.ExtKeyUsageClientAuth)
	config.ClientAuth = tls.RequireAnyClientCert // verified in VerifyConnection
	config.SessionTicketsDisabled = true
	config.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		return id.leaf()
	}
	return config
}

// ClientTLS is the configuration of a connection to another node: TLS 1.3, this
// node's certificate, and a server certificate of this cluster that meets
// expect. The server's host name is not compared with anything.
func (id *Identity) ClientTLS(expect Expect) *tls.Config {
	config := id.commonTLS(expect, x509.ExtKeyUsageServerAuth)
	// Turns off the comparison of host names, and with it the verification
	// of the chain, which VerifyConnection does instead.
	config.InsecureSkipVerify = true // #nosec G402
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return id.leaf()
	}
	return config
}

func (id *Identity) commonTLS(expect Expect, usage x509.ExtKeyUsage) *tls.Config {
	expect.Roles = slices.Clone(expect.Roles)
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		Time:       id.now,
		VerifyConnection: func(state tls.ConnectionState) error {
			return id.verify(state, expect, usage)
		},
	}
}

// verify accepts a peer whose certificate this cluster's authority signed for
// usage, which names a node of this cluster and meets expect.
func (id *Identity) verify(state tls.ConnectionState, expect Expect, usage x509.ExtKeyUsage) error {
	peer, err := PeerFromTLS(state)
	if err != nil {
		return err
	}
	trust := id.trust()
	err = trust.verify(state.PeerCertificates, usage, id.now())
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", ErrPeer, err)
	case peer.Cluster != trust.clusterID:
		return fmt.Errorf("%w: node %s is of cluster %s, not %s", ErrPeer, peer.NodeID, peer.Cluster, trust.clusterID)
	case id.Denied(peer.Fingerprint):
		return fmt.Errorf("%w: node %s was shut out of the cluster (revoked)", ErrPeer, peer.NodeID)
	case expect.NodeID != "" && peer.NodeID != expect.NodeID:
		return fmt.Errorf("%w: node %s answers where %s was expected", ErrPeer, peer.NodeID, expect.NodeID)
	case len(expect.Roles) > 0 && !peer.Has(expect.Roles...):
		return fmt.Errorf("%w: node %s has roles %v, want one of %v", ErrPeer, peer.NodeID, peer.Roles, expect.Roles)
	}
	return nil
}

// verify accepts a chain that ends at one of the authority's certificates.
func (t *Trust) verify(chain []*x509.Certificate, usage x509.ExtKeyUsage, now time.Time) error {
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots: t.pool, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage},
	})
	return err
}

// OpenTLS is the configuration of a listener for machines that are not of the
// cluster yet: TLS 1.3 and no client certificate. The authority's certificate goes
// along, so that a client who knows its Pin can tell this node from any other.
func (id *Identity) OpenTLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Time: id.now, SessionTicketsDisabled: true,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			leaf, err := id.leaf()
			if err != nil {
				return nil, err
			}
			chain := *leaf
			chain.Certificate = slices.Clone(leaf.Certificate)
			for _, c := range id.trust().certs {
				chain.Certificate = append(chain.Certificate, c.Raw)
			}
			return &chain, nil
		},
	}
}

// JoinTLS is the configuration of a connection to an OpenTLS listener: TLS 1.3, no
// client certificate, and a coordinator whose authority has this pin. Any other
// ends the handshake, before a byte of the client's is sent. A nil now is time.Now.
func (p Pin) JoinTLS(now func() time.Time) *tls.Config {
	if now == nil {
		now = time.Now
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Time: now,
		InsecureSkipVerify: true, // #nosec G402 -- VerifyConnection does it, by the pin
		VerifyConnection:   func(state tls.ConnectionState) error { return p.verify(state, now()) },
	}
}

func (p Pin) verify(state tls.ConnectionState, now time.Time) error {
	peer, err := PeerFromTLS(state)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(state.PeerCertificates, func(c *x509.Certificate) bool { return pinOf(c) == p })
	if i < 1 { // the node's own certificate is no authority's
		return fmt.Errorf("%w: it is not of the cluster that the token names; nothing secret was sent", ErrPeer)
	}
	trust := newTrust(p.ClusterID(), state.PeerCertificates[i])
	switch err := trust.verify(state.PeerCertificates[:1], x509.ExtKeyUsageServerAuth, now); {
	case err != nil:
		return fmt.Errorf("%w: %w", ErrPeer, err)
	case peer.Cluster != trust.clusterID || !peer.Has(Coordinator):
		return fmt.Errorf("%w: node %s is no coordinator of the cluster that the token names", ErrPeer, peer.NodeID)
	}
	return nil
}

// GatewayTLS is the configuration of a public listener: TLS 1.3, no client
// certificate, and a certificate for hosts (and loopback) that the cluster's
// authority signed with a key of its own. It names no node, so it opens no door
// inside the cluster. The error is ErrNoWeb where the authority signs none for
// this node.
func (id *Identity) GatewayTLS(hosts ...string) (*tls.Config, error) {
	leaf, err := id.web(WebHosts(hosts...))
	if err != nil {
		return nil, err
	}
	if _, err := leaf(); err != nil {
		return nil, fmt.Errorf("certificate of gateway: %w", err)
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		Time:       id.now,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return leaf()
		},
	}, nil
}

// ErrNoWeb says that the cluster's authority signs no certificate of a public
// listener for a node.
var ErrNoWeb = errors.New("the cluster's authority signs no certificate for public listeners here")

// WebHosts are the names of a gateway: hosts and loopback, each once.
func WebHosts(hosts ...string) []string {
	all := append([]string{"localhost", "127.0.0.1", "::1"}, hosts...)
	slices.Sort(all)
	return slices.Compact(all)
}

// webLeaf makes a key and keeps a certificate for it.
func (a *Authority) webLeaf(hosts []string, now func() time.Time) (func() (*tls.Certificate, error), error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key of gateway: %w", err)
	}
	leaf := &renewing{now: now, issue: func(now time.Time) (*tls.Certificate, error) {
		cert, err := a.signWeb(&key.PublicKey, hosts, WebLife, now)
		if err == nil {
			cert.PrivateKey = key
		}
		return cert, err
	}}
	return leaf.current, nil
}

func (a *Authority) signWeb(public *ecdsa.PublicKey, hosts []string, life time.Duration, now time.Time) (*tls.Certificate, error) {
	template := &x509.Certificate{
		Subject:     pkix.Name{Organization: []string{"Shoal"}, CommonName: "Shoal gateway"},
		NotBefore:   now.Add(-backdate),
		NotAfter:    now.Add(life),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	template.DNSNames, template.IPAddresses = splitHosts(hosts)
	cert, err := a.sign(template, public)
	if err != nil {
		return nil, err
	}
	// The authority's certificate goes along, so that a browser can show it.
	cert.Certificate = append(cert.Certificate, a.cert.Raw)
	return cert, nil
}
