package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"sync"
	"time"
)

// LeafLife is the life of a certificate that a node gets by joining. It is short,
// so that one that got lost is soon worth nothing.
const LeafLife = 24 * time.Hour

// Key is the private key of a node that others sign for. It never leaves the node.
type Key struct{ private *ecdsa.PrivateKey }

// NewKey makes a key.
func NewKey() (Key, error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	return Key{k}, err
}

// PEM is the key as ParseKey reads it (PKCS #8).
func (k Key) PEM() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(k.private)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: der}), nil
}

// ParseKey reads a key of P-256 in PEM: PKCS #8 or SEC 1.
func ParseKey(text []byte) (Key, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return Key{}, errors.New("it holds no key in PEM")
	}
	if k, err := x509.ParseECPrivateKey(block.Bytes); err == nil && k.Curve == elliptic.P256() {
		return Key{k}, nil
	}
	any, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return Key{}, errors.New("it holds no private key that can be read")
	}
	k, ok := any.(*ecdsa.PrivateKey)
	if !ok || k.Curve != elliptic.P256() {
		return Key{}, errors.New("it holds a key of another kind: want ECDSA P-256")
	}
	return Key{k}, nil
}

// Fingerprint is that of an Identity with this key.
func (k Key) Fingerprint() (string, error) {
	der, err := x509.MarshalPKIXPublicKey(&k.private.PublicKey)
	if err != nil {
		return "", err
	}
	return fingerprint(&x509.Certificate{RawSubjectPublicKeyInfo: der}), nil
}

// Request asks an authority to sign for the key: a PKCS #10 request (RFC 2986) in
// DER, which proves that the key is here. Hosts are the names of a gateway.
func (k Key) Request(hosts ...string) ([]byte, error) {
	template := &x509.CertificateRequest{Subject: pkix.Name{Organization: []string{"Shoal"}}}
	template.DNSNames, template.IPAddresses = splitHosts(hosts)
	return x509.CreateCertificateRequest(rand.Reader, template, k.private)
}

// TLS is a listener's configuration that proves nothing but that it holds the key,
// by a certificate of its own making: what ProveKey asks for.
func (k Key) TLS() (*tls.Config, error) {
	now := time.Now()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: now.Add(-backdate), NotAfter: now.Add(backdate)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &k.private.PublicKey, k.private)
	if err != nil {
		return nil, err
	}
	cert := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: k.private}
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}}, nil
}

// ProveKey is a client's configuration that accepts who holds a key and nobody
// else.
func ProveKey(want string) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true, // #nosec G402 -- the key is all that counts
		VerifyConnection: func(state tls.ConnectionState) error {
			if got := fingerprint(state.PeerCertificates[0]); got != want {
				return errors.New("another program answers there")
			}
			return nil
		},
	}
}

// Request is a request for a certificate whose signature was checked.
type Request struct {
	public      *ecdsa.PublicKey
	Fingerprint string   // of its key
	Hosts       []string // names and addresses it asks for
}

// maxRequestHosts bounds the names of one certificate.
const maxRequestHosts = 64

// ParseRequest reads and checks what Key.Request made.
func ParseRequest(der []byte) (Request, error) {
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return Request{}, fmt.Errorf("certificate request: %w", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return Request{}, fmt.Errorf("certificate request: %w", err)
	}
	public, ok := csr.PublicKey.(*ecdsa.PublicKey)
	if !ok || public.Curve != elliptic.P256() {
		return Request{}, errors.New("certificate request: want a key of P-256")
	}
	hosts := slices.Clone(csr.DNSNames)
	for _, ip := range csr.IPAddresses {
		hosts = append(hosts, ip.String())
	}
	if len(hosts) > maxRequestHosts {
		return Request{}, fmt.Errorf("certificate request: %d names, want at most %d", len(hosts), maxRequestHosts)
	}
	return Request{public, fingerprint(&x509.Certificate{RawSubjectPublicKeyInfo: csr.RawSubjectPublicKeyInfo}), hosts}, nil
}

// Sign gives the key of a request a certificate, in DER. Only node says who it is
// for: names in the request are not looked at. Life is node.Life, or LeafLife.
func (a *Authority) Sign(r Request, node Node) ([]byte, error) {
	if err := errors.Join(CheckNodeID(node.ID), checkRoles(node.Roles)); err != nil {
		return nil, err
	}
	if node.Life == 0 {
		node.Life = LeafLife
	}
	if node.Now == nil {
		node.Now = time.Now
	}
	cert, err := a.issue(node, r.public, nil, node.Now())
	if err != nil {
		return nil, err
	}
	return cert.Certificate[0], nil
}

// SignWeb gives the key of a request a certificate for the hosts it asks for, in
// DER: that of a public listener, which names no node.
func (a *Authority) SignWeb(r Request, life time.Duration, now time.Time) ([]byte, error) {
	cert, err := a.signWeb(r.public, r.Hosts, life, now)
	if err != nil {
		return nil, err
	}
	return cert.Certificate[0], nil
}

// Pin names the authority in tokens.
func (a *Authority) Pin() Pin { return pinOf(a.cert) }

// Enrolled is the identity of a node that others sign for.
type Enrolled struct {
	*Identity
	key   Key
	trust *Trust
	now   func() time.Time

	mu   sync.Mutex
	leaf *tls.Certificate // guarded by mu
	web  *tls.Certificate // guarded by mu; nil: none was signed
}

// Enroll makes an identity of a key and the certificate, in DER, that the
// authority of trust signed for it. A nil now is time.Now.
func Enroll(trust *Trust, key Key, certificate []byte, now func() time.Time) (*Enrolled, error) {
	if now == nil {
		now = time.Now
	}
	e := &Enrolled{key: key, trust: trust, now: now}
	cert, peer, err := e.check(certificate)
	if err != nil {
		return nil, err
	}
	e.leaf = cert
	e.Identity = &Identity{
		guard: newGuard(), trust: func() *Trust { return trust }, nodeID: peer.NodeID, roles: peer.Roles,
		print: peer.Fingerprint, now: now, leaf: e.current, web: e.currentWeb,
	}
	return e, nil
}

// check holds a certificate against trust and key.
func (e *Enrolled) check(der []byte) (*tls.Certificate, Peer, error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, Peer{}, fmt.Errorf("certificate of this node: %w", err)
	}
	peer, err := peerFromCertificate(cert)
	if err != nil {
		return nil, Peer{}, err
	}
	own, err := e.key.Fingerprint()
	switch {
	case err != nil:
		return nil, Peer{}, err
	case own != peer.Fingerprint:
		return nil, Peer{}, errors.New("certificate of this node: it is for another key")
	case peer.Cluster != e.trust.clusterID:
		return nil, Peer{}, fmt.Errorf("certificate of this node: it is of cluster %s, not %s", peer.Cluster, e.trust.clusterID)
	}
	for _, usage := range cert.ExtKeyUsage {
		if err := e.trust.verify([]*x509.Certificate{cert}, usage, e.now()); err != nil {
			return nil, Peer{}, fmt.Errorf("certificate of this node: %w", err)
		}
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: e.key.private, Leaf: cert}, peer, nil
}

// Replace takes a newer certificate, in DER, for the same node and key.
func (e *Enrolled) Replace(certificate []byte) error {
	cert, peer, err := e.check(certificate)
	if err != nil {
		return err
	}
	if peer.NodeID != e.nodeID || !slices.Equal(peer.Roles, e.roles) {
		return fmt.Errorf("certificate of this node: it names node %s with roles %v", peer.NodeID, peer.Roles)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.leaf = cert
	return nil
}

// ReplaceWeb takes a certificate, in DER, for public listeners, and its key.
func (e *Enrolled) ReplaceWeb(key Key, certificate []byte) error {
	cert, err := x509.ParseCertificate(certificate)
	if err != nil {
		return fmt.Errorf("certificate of the gateway: %w", err)
	}
	if !key.private.PublicKey.Equal(cert.PublicKey) {
		return errors.New("certificate of the gateway: it is for another key")
	}
	chain := [][]byte{certificate}
	for _, c := range e.trust.certs {
		chain = append(chain, c.Raw)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.web = &tls.Certificate{Certificate: chain, PrivateKey: key.private, Leaf: cert}
	return nil
}

// RenewAt is when a newer certificate is due: at two thirds of its life.
func (e *Enrolled) RenewAt() time.Time {
	e.mu.Lock()
	defer e.mu.Unlock()
	return renewAt(e.leaf.Leaf)
}

func renewAt(cert *x509.Certificate) time.Time {
	return cert.NotAfter.Add(-cert.NotAfter.Sub(cert.NotBefore) / 3)
}

func (e *Enrolled) current() (*tls.Certificate, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.leaf, nil
}

func (e *Enrolled) currentWeb([]string) (func() (*tls.Certificate, error), error) {
	get := func() (*tls.Certificate, error) {
		e.mu.Lock()
		defer e.mu.Unlock()
		return e.web, nil
	}
	if cert, _ := get(); cert == nil {
		return nil, ErrNoWeb
	}
	return get, nil
}

// Certificate is what the node shows now, in DER.
func (e *Enrolled) Certificate() []byte {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.leaf.Certificate[0]
}

// ParseFingerprint reads a fingerprint's 32 bytes.
func ParseFingerprint(raw []byte) (string, error) {
	if len(raw) != 32 {
		return "", fmt.Errorf("a fingerprint of %d bytes, want 32", len(raw))
	}
	return hex.EncodeToString(raw), nil
}
