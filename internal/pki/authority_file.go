package pki

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// authorityFile holds an authority's key and certificate, in PEM.
const authorityFile = "authority.pem"

// maxPEMFile bounds what is read of a file of keys and certificates.
const maxPEMFile = 256 << 10

// HasAuthority reports whether dir holds an authority.
func HasAuthority(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, authorityFile))
	return err == nil
}

// OpenAuthority reads the authority in dir. Where there is none, create has it made
// first: its file is readable by its owner alone (0600). Who reads the file can
// take any role in the cluster, so one that others can read is refused.
func OpenAuthority(dir string, create bool) (*Authority, error) {
	path := filepath.Join(dir, authorityFile)
	text, err := ReadPrivate(path)
	if errors.Is(err, fs.ErrNotExist) && create {
		return createAuthority(path)
	}
	if err != nil {
		return nil, fmt.Errorf("read the cluster's authority %s: %w", path, err)
	}
	a, err := parseAuthority(text)
	if err != nil {
		return nil, fmt.Errorf("read the cluster's authority %s: %w", path, err)
	}
	return a, nil
}

func parseAuthority(text []byte) (*Authority, error) {
	key, err := ParseKey(text)
	if err != nil {
		return nil, err
	}
	_, rest := pem.Decode(text) // the key
	certs, err := parseCertificates(rest)
	if err != nil {
		return nil, err
	}
	if len(certs) != 1 || !key.private.PublicKey.Equal(certs[0].PublicKey) {
		return nil, errors.New("key and certificate do not belong together")
	}
	return newAuthority(key.private, certs[0]), nil
}

func newAuthority(key *ecdsa.PrivateKey, cert *x509.Certificate) *Authority {
	return &Authority{Trust: newTrust(pinOf(cert).ClusterID(), cert), key: key, cert: cert}
}

// NewAuthority makes an authority that is kept nowhere.
func NewAuthority() (*Authority, error) {
	key, err := NewKey()
	if err != nil {
		return nil, fmt.Errorf("make the cluster's authority: %w", err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.private.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("make the cluster's authority: %w", err)
	}
	pin := pinOf(&x509.Certificate{RawSubjectPublicKeyInfo: der})
	cert, err := selfSign(key.private, pin.ClusterID(), pin[:20])
	if err != nil {
		return nil, fmt.Errorf("make the cluster's authority: %w", err)
	}
	return newAuthority(key.private, cert), nil
}

func createAuthority(path string) (*Authority, error) {
	a, err := NewAuthority()
	if err != nil {
		return nil, err
	}
	text, err := Key{a.key}.PEM()
	if err != nil {
		return nil, fmt.Errorf("make the cluster's authority: %w", err)
	}
	if err := WritePrivate(path, append(text, a.CertificatePEM()...)); err != nil {
		return nil, fmt.Errorf("make the cluster's authority: %w", err)
	}
	return a, nil
}

// WritePrivate puts content into the file at path, which only its owner may read
// (0600): all of it or, whatever happens, what was there before. The folder is made
// (0700) where there is none.
func WritePrivate(path string, content []byte) (err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+"-") // of mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

// ReadPrivate reads a file of secrets, under the rules of LoadSecret. Errors do not
// repeat the path.
func ReadPrivate(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, withoutPath(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, withoutPath(err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("it is not a regular file (%v)", info.Mode().Type())
	}
	if err := checkMode(path, info.Mode(), ownedByRoot(info), onReadOnlyMount(f)); err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(f, maxPEMFile+1))
	if err != nil {
		return nil, withoutPath(err)
	}
	if len(text) > maxPEMFile {
		return nil, fmt.Errorf("it is longer than %d bytes", maxPEMFile)
	}
	return text, nil
}
