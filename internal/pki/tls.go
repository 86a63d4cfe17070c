package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"slices"
	"time"
)

// webLife is the life of the gateway's certificate for browsers. Some refuse
// more than 398 days.
const webLife = 90 * 24 * time.Hour

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
		return id.leaf.current()
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
	config.InsecureSkipVerify = true
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return id.leaf.current()
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
	_, err = state.PeerCertificates[0].Verify(x509.VerifyOptions{
		Roots:       id.authority.pool,
		CurrentTime: id.now(),
		KeyUsages:   []x509.ExtKeyUsage{usage},
	})
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", ErrPeer, err)
	case peer.Cluster != id.authority.clusterID:
		return fmt.Errorf("%w: node %s is of cluster %s, not %s", ErrPeer, peer.NodeID, peer.Cluster, id.authority.clusterID)
	case expect.NodeID != "" && peer.NodeID != expect.NodeID:
		return fmt.Errorf("%w: node %s answers where %s was expected", ErrPeer, peer.NodeID, expect.NodeID)
	case len(expect.Roles) > 0 && !peer.Has(expect.Roles...):
		return fmt.Errorf("%w: node %s has roles %v, want one of %v", ErrPeer, peer.NodeID, peer.Roles, expect.Roles)
	}
	return nil
}

// GatewayTLS is the configuration of a public listener: TLS 1.3, no client
// certificate, and a certificate for hosts (and loopback) that the cluster's
// authority signed with a key of its own. It names no node, so it opens no door
// inside the cluster.
func (id *Identity) GatewayTLS(hosts ...string) (*tls.Config, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key of gateway: %w", err)
	}
	hosts = append([]string{"localhost", "127.0.0.1", "::1"}, hosts...)
	leaf := &renewing{now: id.now, issue: func(now time.Time) (*tls.Certificate, error) {
		return id.authority.signWeb(key, hosts, now)
	}}
	if _, err := leaf.current(); err != nil {
		return nil, fmt.Errorf("sign certificate of gateway: %w", err)
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		Time:       id.now,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return leaf.current()
		},
	}, nil
}

func (a *Authority) signWeb(key *ecdsa.PrivateKey, hosts []string, now time.Time) (*tls.Certificate, error) {
	template := &x509.Certificate{
		Subject:     pkix.Name{Organization: []string{"Shoal"}, CommonName: "Shoal gateway"},
		NotBefore:   now.Add(-backdate),
		NotAfter:    now.Add(webLife),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	template.DNSNames, template.IPAddresses = splitHosts(hosts)
	cert, err := a.sign(template, key)
	if err != nil {
		return nil, err
	}
	// The authority's certificate goes along, so that a browser can show it.
	cert.Certificate = append(cert.Certificate, a.cert.Raw)
	return cert, nil
}
