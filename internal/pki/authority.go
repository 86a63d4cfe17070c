// Package pki gives the nodes of a cluster their identity.
//
// A cluster has a certificate authority, which comes to be in one of three ways.
//
// The first coordinator makes it (OpenAuthority) and keeps its key. Machines
// join with a Token, get a certificate of a day for a key that never leaves them
// (Enroll), and can be shut out again one by one (Identity.Deny).
//
// Or everything follows from one 32-byte cluster secret. HKDF-SHA256 (RFC 5869)
// derives from it the key of the authority and the key of the gossip (Derive).
// Every holder of the secret builds the same authority, bit for bit, and signs
// its own certificates with it (New); so there is no file to copy but the secret,
// and every holder is trusted fully.
//
// Or certificates come from outside, as files (FromFiles).
//
// A node's certificate names it by SPIFFE ids, spiffe://CLUSTER/ROLE/NODE, one
// for each role. Both sides of every connection between nodes must show one
// (TLS 1.3, mutual). Host names and addresses take no part in trust.
//
// Keys are ECDSA P-256 with deterministic signatures (RFC 6979): browsers, which
// meet the same authority at the gateway, do not accept Ed25519.
package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"time"
)

// The derivation's domain separation. A change makes another cluster of every
// secret.
const (
	hkdfSalt   = "shoal/identity/v1"
	infoCA     = "ca key"
	infoGossip = "gossip key"
	infoID     = "cluster id"
)

// The authority's certificate is valid for a fixed century, because every node
// must build the same bytes.
var (
	caNotBefore = time.Date(2020, time.January, 1, 0, 0, 0, 0, time.UTC)
	caNotAfter  = time.Date(2120, time.January, 1, 0, 0, 0, 0, time.UTC)
)

// Authority is the certificate authority of a cluster, with its key. It is
// immutable and safe for concurrent use.
type Authority struct {
	*Trust
	key       *ecdsa.PrivateKey
	cert      *x509.Certificate
	gossipKey [32]byte // of a derived authority
}

// Derive returns the authority of the cluster whose secret is s. It is a pure
// function: equal secrets give equal keys and an equal certificate.
func Derive(s Secret) (*Authority, error) {
	key, err := deriveKey(s)
	if err != nil {
		return nil, fmt.Errorf("derive cluster key: %w", err)
	}
	gossip, err := hkdf.Key(sha256.New, s[:], []byte(hkdfSalt), infoGossip, 32)
	if err != nil {
		return nil, fmt.Errorf("derive gossip key: %w", err)
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		return nil, fmt.Errorf("encode cluster key: %w", err)
	}
	sum := sha256.Sum256(append([]byte(infoID), point...))
	clusterID := hex.EncodeToString(sum[:8])
	cert, err := selfSign(key, clusterID, sum[:20])
	if err != nil {
		return nil, fmt.Errorf("sign cluster certificate: %w", err)
	}
	return &Authority{Trust: newTrust(clusterID, cert), key: key, cert: cert, gossipKey: [32]byte(gossip)}, nil
}

// deriveKey expands s until the bytes are a private key of P-256, which the
// first 32 bytes are but once in 2^32 secrets.
func deriveKey(s Secret) (*ecdsa.PrivateKey, error) {
	for try := range 8 {
		raw, err := hkdf.Key(sha256.New, s[:], []byte(hkdfSalt), fmt.Sprint(infoCA, " ", try), 32)
		if err != nil {
			return nil, err
		}
		if key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), raw); err == nil {
			return key, nil
		}
	}
	return nil, errors.New("no private key in eight tries")
}

func selfSign(key *ecdsa.PrivateKey, clusterID string, keyID []byte) (*x509.Certificate, error) {
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{Organization: []string{"Shoal"}, CommonName: "Shoal cluster " + clusterID},
		NotBefore:             caNotBefore,
		NotAfter:              caNotAfter,
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		SubjectKeyId:          keyID,
		SignatureAlgorithm:    x509.ECDSAWithSHA256,
	}
	// No source of randomness: the signature is deterministic.
	der, err := x509.CreateCertificate(nil, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// GossipKey is the AES-256 key that encrypts the gossip of a cluster with a
// secret. One that was made has keys that change, and a GossipKey of zeros.
func (a *Authority) GossipKey() [32]byte { return a.gossipKey }
