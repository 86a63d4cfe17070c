package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"slices"
	"sync"
	"time"
)

// The life of a certificate. Connections outlive their certificates; a renewed
// one is shown from the next handshake on.
const (
	MinLife     = 24 * time.Hour
	MaxLife     = 365 * 24 * time.Hour
	DefaultLife = 30 * 24 * time.Hour

	// backdate allows for peers whose clocks are behind.
	backdate = time.Hour
)

// Node says whom an identity is for.
type Node struct {
	ID    string        // unique in the cluster: see CheckNodeID
	Roles []Role        // at least one
	Hosts []string      // names and addresses it is reached by: information only
	Life  time.Duration // of a certificate; zero means DefaultLife

	Now func() time.Time // the clock; nil means time.Now
}

// Identity is a node's key, the certificate that goes with it, and whom the node
// trusts and whom no more (Deny). It is safe for concurrent use.
//
// Where the node holds its authority's key, certificates renew themselves in the
// last third of their life; the key, and so the fingerprint, stays.
type Identity struct {
	*guard
	trust     func() *Trust
	authority *Authority // nil: others sign for this node
	nodeID    string
	roles     []Role
	print     string
	now       func() time.Time
	leaf      func() (*tls.Certificate, error)
	web       func(hosts []string) (func() (*tls.Certificate, error), error)
}

// New returns the identity of node in the cluster whose secret is s. Each call
// makes a new key.
func New(s Secret, node Node) (*Identity, error) {
	authority, err := Derive(s)
	if err != nil {
		return nil, err
	}
	return authority.Identity(node)
}

// Identity returns an identity of a node that holds the authority. Each call makes
// a new key.
func (a *Authority) Identity(node Node) (*Identity, error) {
	if node.Now == nil {
		node.Now = time.Now
	}
	if node.Life == 0 {
		node.Life = DefaultLife
	}
	if err := node.check(); err != nil {
		return nil, err
	}
	node.Roles = slices.Compact(slices.Sorted(slices.Values(node.Roles)))
	node.Hosts = slices.Clone(node.Hosts)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key of node %s: %w", node.ID, err)
	}
	leaf := &renewing{now: node.Now, issue: func(now time.Time) (*tls.Certificate, error) {
		return a.issue(node, &key.PublicKey, key, now)
	}}
	first, err := leaf.current()
	if err != nil {
		return nil, err
	}
	return &Identity{
		guard: newGuard(), trust: func() *Trust { return a.Trust }, authority: a,
		nodeID: node.ID, roles: node.Roles, print: fingerprint(first.Leaf), now: node.Now, leaf: leaf.current,
		web: func(hosts []string) (func() (*tls.Certificate, error), error) { return a.webLeaf(hosts, node.Now) },
	}, nil
}

func (n Node) check() error {
	if err := CheckNodeID(n.ID); err != nil {
		return err
	}
	if err := checkRoles(n.Roles); err != nil {
		return fmt.Errorf("node %s: %w", n.ID, err)
	}
	if n.Life < MinLife || n.Life > MaxLife {
		return fmt.Errorf("node %s: certificate life %v: want %v to %v", n.ID, n.Life, MinLife, MaxLife)
	}
	return nil
}

// NodeID is the node's name in the cluster.
func (id *Identity) NodeID() string { return id.nodeID }

// Roles returns the node's roles, sorted.
func (id *Identity) Roles() []Role { return slices.Clone(id.roles) }

// Authority is the cluster's certificate authority, or nil where this node does
// not hold its key.
func (id *Identity) Authority() *Authority { return id.authority }

// Trust is whom the node takes for its cluster.
func (id *Identity) Trust() *Trust { return id.trust() }

// ClusterID names the cluster: see Trust.ClusterID.
func (id *Identity) ClusterID() string { return id.trust().clusterID }

// Expires is the end of the certificate that the node shows now.
func (id *Identity) Expires() (time.Time, error) {
	cert, err := id.leaf()
	if err != nil {
		return time.Time{}, err
	}
	return cert.Leaf.NotAfter, nil
}

// Fingerprint is the SHA-256 of the node's public key (SubjectPublicKeyInfo) in
// hexadecimal digits. It is new with each key.
func (id *Identity) Fingerprint() string { return id.print }

// FingerprintBytes is Fingerprint as 32 bytes.
func (id *Identity) FingerprintBytes() []byte {
	raw, err := hex.DecodeString(id.print)
	if err != nil {
		panic("pki: fingerprint is not hexadecimal: " + id.print)
	}
	return raw
}

// issue signs a certificate that names a node. The private key, which goes along,
// may be nil where it is not here.
func (a *Authority) issue(node Node, public *ecdsa.PublicKey, key *ecdsa.PrivateKey, now time.Time) (*tls.Certificate, error) {
	uris := make([]*url.URL, len(node.Roles))
	for i, r := range node.Roles {
		uris[i] = spiffeID(a.clusterID, r, node.ID)
	}
	template := &x509.Certificate{
		Subject:     pkix.Name{Organization: []string{"Shoal"}, CommonName: node.ID},
		NotBefore:   now.Add(-backdate),
		NotAfter:    now.Add(node.Life),
		URIs:        uris,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	template.DNSNames, template.IPAddresses = splitHosts(node.Hosts)
	cert, err := a.sign(template, public)
	if err != nil {
		return nil, fmt.Errorf("sign certificate of node %s: %w", node.ID, err)
	}
	if key != nil {
		cert.PrivateKey = key
	}
	return cert, nil
}

// sign completes template and signs it for a key.
func (a *Authority) sign(template *x509.Certificate, public *ecdsa.PublicKey) (*tls.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial.Add(serial, big.NewInt(1))
	template.BasicConstraintsValid = true
	template.KeyUsage = x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, public, a.key)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, Leaf: leaf}, nil
}

func splitHosts(hosts []string) (names []string, addrs []net.IP) {
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			addrs = append(addrs, ip)
		} else if h != "" {
			names = append(names, h)
		}
	}
	return names, addrs
}

// renewing holds a certificate and replaces it in the last third of its life.
type renewing struct {
	now   func() time.Time
	issue func(now time.Time) (*tls.Certificate, error)

	mu   sync.Mutex
	cert *tls.Certificate // guarded by mu
}

func (r *renewing) current() (*tls.Certificate, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	if r.cert != nil {
		life := r.cert.Leaf.NotAfter.Sub(r.cert.Leaf.NotBefore)
		if now.Before(r.cert.Leaf.NotAfter.Add(-life/3)) && !now.Before(r.cert.Leaf.NotBefore) {
			return r.cert, nil
		}
	}
	cert, err := r.issue(now)
	if err != nil {
		return nil, err
	}
	r.cert = cert
	return cert, nil
}
