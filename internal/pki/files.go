package pki

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// Files are certificate files that somebody else keeps fresh, like cert-manager
// or SPIRE: a chain with the node's certificate first, its private key, and the
// certificates of the authorities that the cluster trusts. The node's certificate
// names it as spiffe://CLUSTER/ROLE/NODE.
type Files struct {
	Certificate string
	Key         string
	Authorities string

	Now func() time.Time // the clock; nil means time.Now
}

// lookEvery is how often the files are looked at for a change.
const lookEvery = time.Second

// FromFiles returns the identity in files. They are read again when they change;
// ones that cannot be used leave the last good ones in force, and Err says why.
func FromFiles(f Files) (*FileIdentity, error) {
	if f.Now == nil {
		f.Now = time.Now
	}
	w := &FileIdentity{files: f}
	loaded, peer, err := f.load()
	if err != nil {
		return nil, err
	}
	w.last, w.stamp, w.looked = loaded, f.stamp(), time.Now()
	w.Identity = &Identity{
		guard: newGuard(), nodeID: peer.NodeID, roles: peer.Roles, print: peer.Fingerprint, now: f.Now,
		trust: func() *Trust { return w.current().trust },
		leaf:  func() (*tls.Certificate, error) { return w.current().leaf, nil },
		web:   func([]string) (func() (*tls.Certificate, error), error) { return nil, ErrNoWeb },
	}
	return w, nil
}

// FileIdentity is an identity whose certificates are files. The files may change
// while it is used, the key in them too; the name may not. Its Fingerprint is that
// of the first key.
type FileIdentity struct {
	*Identity
	files Files

	mu     sync.Mutex // guards following
	last   *fileState
	stamp  string
	looked time.Time
	err    error
}

// fileState is what files held when they were read.
type fileState struct {
	leaf  *tls.Certificate
	trust *Trust
}

// Err says why the newest files are not in use, or is nil.
func (w *FileIdentity) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// current returns the last good state of the files, after a look at them.
func (w *FileIdentity) current() *fileState {
	w.mu.Lock()
	defer w.mu.Unlock()
	if time.Since(w.looked) < lookEvery {
		return w.last
	}
	w.looked = time.Now()
	stamp := w.files.stamp()
	if stamp == w.stamp && w.err == nil {
		return w.last
	}
	loaded, peer, err := w.files.load()
	switch {
	case err != nil:
	case peer.NodeID != w.nodeID:
		err = fmt.Errorf("%s names node %s now; this one is %s until it is started again", w.files.Certificate, peer.NodeID, w.nodeID)
	}
	if w.err = err; err == nil {
		w.last, w.stamp = loaded, stamp
	}
	return w.last
}

// stamp changes with the files.
func (f Files) stamp() string {
	var out bytes.Buffer
	for _, path := range []string{f.Certificate, f.Key, f.Authorities} {
		if info, err := os.Stat(path); err == nil {
			fmt.Fprintln(&out, info.ModTime().UnixNano(), info.Size())
		}
	}
	return out.String()
}

func (f Files) load() (*fileState, Peer, error) {
	var out *fileState
	var peer Peer
	chain, err := readCertificates(f.Certificate)
	if err != nil {
		return out, peer, err
	}
	keyText, err := ReadPrivate(f.Key)
	if err != nil {
		return out, peer, fmt.Errorf("read key %s: %w", f.Key, err)
	}
	authorities, err := readCertificates(f.Authorities)
	if err != nil {
		return out, peer, err
	}
	if peer, err = peerFromCertificate(chain[0]); err != nil {
		return out, peer, fmt.Errorf("certificate %s: %w; want a URI spiffe://CLUSTER/ROLE/NODE", f.Certificate, err)
	}
	if err := checkRoles(peer.Roles); err != nil {
		return out, peer, fmt.Errorf("certificate %s: %w", f.Certificate, err)
	}
	var raw []byte
	for _, c := range chain {
		raw = append(raw, pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: c.Raw})...)
	}
	leaf, err := tls.X509KeyPair(raw, keyText)
	if err != nil {
		return out, peer, fmt.Errorf("certificate %s with key %s: %w", f.Certificate, f.Key, err)
	}
	trust := newTrust(peer.Cluster, authorities...)
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		if err := trust.verify(chain, usage, f.Now()); err != nil {
			return out, peer, fmt.Errorf("certificate %s: %w", f.Certificate, err)
		}
	}
	return &fileState{&leaf, trust}, peer, nil
}

func readCertificates(path string) ([]*x509.Certificate, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	certs, err := parseCertificates(text)
	if err != nil {
		return nil, fmt.Errorf("read certificate %s: %w", path, err)
	}
	return certs, nil
}

// WebFiles is the configuration of a public listener whose certificate chain and
// key are files. They are read again when they change.
func WebFiles(certificate, key string) (*tls.Config, error) {
	w := &webFiles{files: Files{Certificate: certificate, Key: key}}
	if _, err := w.current(); err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:     tls.VersionTLS13,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return w.current() },
	}, nil
}

type webFiles struct {
	files Files

	mu     sync.Mutex // guards following
	last   *tls.Certificate
	stamp  string
	looked time.Time
}

// current returns the newest files that can be used.
func (w *webFiles) current() (*tls.Certificate, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.last != nil && time.Since(w.looked) < lookEvery {
		return w.last, nil
	}
	w.looked = time.Now()
	stamp := w.files.stamp()
	if w.last != nil && stamp == w.stamp {
		return w.last, nil
	}
	chain, err := os.ReadFile(w.files.Certificate)
	key, keyErr := ReadPrivate(w.files.Key)
	if keyErr != nil {
		keyErr = fmt.Errorf("read key %s: %w", w.files.Key, keyErr)
	}
	var cert tls.Certificate
	if err = errors.Join(err, keyErr); err == nil {
		cert, err = tls.X509KeyPair(chain, key)
	}
	switch {
	case err == nil:
		w.last, w.stamp = &cert, stamp
	case w.last == nil:
		return nil, err
	}
	return w.last, nil
}
