package pki

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
)

// Trust is what a node needs to know the nodes of its cluster by: the public
// half of an authority. It is immutable and safe for concurrent use.
type Trust struct {
	clusterID string
	certs     []*x509.Certificate // of the authority; several while one replaces another
	pool      *x509.CertPool
}

func newTrust(clusterID string, certs ...*x509.Certificate) *Trust {
	t := &Trust{clusterID: clusterID, certs: certs, pool: x509.NewCertPool()}
	for _, c := range certs {
		t.pool.AddCert(c)
	}
	return t
}

// ClusterID names the cluster in public: 16 hexadecimal digits of a hash of the
// authority's public key, or the trust domain of certificates from outside.
func (t *Trust) ClusterID() string { return t.clusterID }

// CertificatePEM is the authority's certificate, for other nodes and for
// programs outside the cluster that want to verify its gateway (curl --cacert).
func (t *Trust) CertificatePEM() []byte {
	var out []byte
	for _, c := range t.certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: c.Raw})...)
	}
	return out
}

// Pin is the SHA-256 of an authority's public key (SubjectPublicKeyInfo). Who
// knows it can tell the authority from any other.
type Pin [sha256.Size]byte

func pinOf(cert *x509.Certificate) Pin { return sha256.Sum256(cert.RawSubjectPublicKeyInfo) }

// ClusterID is the id of the cluster whose authority was made with this key.
func (p Pin) ClusterID() string { return hex.EncodeToString(p[:8]) }

// ParseTrust reads the certificate of the authority that p names, in PEM. Any
// other is refused.
func (p Pin) ParseTrust(text []byte) (*Trust, error) {
	certs, err := parseCertificates(text)
	if err != nil {
		return nil, err
	}
	if len(certs) != 1 || pinOf(certs[0]) != p {
		return nil, errors.New("the certificate is not that of the authority that was named")
	}
	return newTrust(p.ClusterID(), certs[0]), nil
}

const (
	pemCertificate = "CERTIFICATE"
	pemKey         = "PRIVATE KEY"
)

// parseCertificates reads one certificate or more in PEM, and nothing else.
func parseCertificates(text []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			break
		}
		if text = rest; block.Type != pemCertificate {
			return nil, fmt.Errorf("it holds a %s where a %s was expected", block.Type, pemCertificate)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, errors.New("it holds no certificate in PEM")
	}
	return out, nil
}
