package pki

import (
	"crypto/tls"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// outside writes a node's certificate files as somebody else would.
func outside(t *testing.T, a *Authority, node string, roles ...Role) Files {
	t.Helper()
	dir := t.TempDir()
	f := Files{Certificate: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key"), Authorities: filepath.Join(dir, "ca.crt")}
	writeOutside(t, f, a, node, roles...)
	return f
}

func writeOutside(t *testing.T, f Files, a *Authority, node string, roles ...Role) {
	t.Helper()
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	request := parsedRequest(t, key)
	der, err := a.Sign(request, Node{ID: node, Roles: roles})
	if err != nil {
		t.Fatal(err)
	}
	text, err := key.PEM()
	if err != nil {
		t.Fatal(err)
	}
	for path, content := range map[string][]byte{
		f.Key: text, f.Authorities: a.CertificatePEM(),
		f.Certificate: pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: der}),
	} {
		if err := WritePrivate(path, content); err != nil {
			t.Fatal(err)
		}
	}
}

func parsedRequest(t *testing.T, key Key, hosts ...string) Request {
	t.Helper()
	der, err := key.Request(hosts...)
	if err != nil {
		t.Fatal(err)
	}
	r, err := ParseRequest(der)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func newAuthorityT(t *testing.T) *Authority {
	t.Helper()
	a, err := NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// TestCertificatesFromOutside: nodes whose certificates are files talk to each other
// and to no stranger, and take new files without a restart.
func TestCertificatesFromOutside(t *testing.T) {
	a := newAuthorityT(t)
	files := outside(t, a, "a", Shard)
	one, err := FromFiles(files)
	if err != nil {
		t.Fatal(err)
	}
	two, err := FromFiles(outside(t, a, "b", Coordinator))
	if err != nil {
		t.Fatal(err)
	}
	if one.NodeID() != "a" || !one.Trust().pool.Equal(a.pool) || one.ClusterID() != a.ClusterID() {
		t.Errorf("it is %s of %s", one.NodeID(), one.ClusterID())
	}
	if s, c := handshake(t, one.ServerTLS(Coordinator), two.ClientTLS(Expect{NodeID: "a"})); s != nil || c != nil {
		t.Errorf("two nodes: %v, %v", s, c)
	}
	other, err := FromFiles(outside(t, newAuthorityT(t), "b", Coordinator))
	if err != nil {
		t.Fatal(err)
	}
	if _, c := handshake(t, one.ServerTLS(), other.ClientTLS(Expect{})); c == nil {
		t.Error("a stranger is taken")
	}
	old, _ := one.leaf()
	writeOutside(t, files, a, "a", Shard)
	look := func() { one.mu.Lock(); one.looked = time.Time{}; one.mu.Unlock() }
	look()
	fresh, err := one.leaf()
	if err != nil || fresh.Leaf.Equal(old.Leaf) {
		t.Errorf("the new files are not in use: %v", err)
	}
	if s, c := handshake(t, two.ServerTLS(Shard), one.ClientTLS(Expect{})); s != nil || c != nil {
		t.Errorf("with new files: %v, %v", s, c)
	}
	// Files that cannot be used leave the last ones in force, and Err says why.
	for want, change := range map[string]func(){
		"names node c now":  func() { writeOutside(t, files, a, "c", Shard) },
		"holds no certific": func() { os.WriteFile(files.Certificate, []byte("-"), 0o600) },
	} {
		change()
		look()
		if still, _ := one.leaf(); !still.Leaf.Equal(fresh.Leaf) {
			t.Errorf("%s: the files are in use", want)
		}
		if err := one.Err(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Err is %v, want %q", err, want)
		}
	}
	if _, err := one.GatewayTLS(); err == nil {
		t.Error("files of a node serve browsers")
	}
}

func TestBadCertificateFilesAreRefused(t *testing.T) {
	a := newAuthorityT(t)
	for want, spoil := range map[string]func(*Files){
		"no such file":          func(f *Files) { f.Key += "x" },
		"spiffe://CLUSTER/ROLE": func(f *Files) { f.Certificate, f.Key = web(t, a) },
		"unknown authority":     func(f *Files) { f.Authorities = outside(t, newAuthorityT(t), "x", Shard).Authorities },
		"does not match":        func(f *Files) { f.Key = outside(t, a, "a", Shard).Key },
		"chmod 600":             func(f *Files) { os.Chmod(f.Key, 0o644) },
		"holds a PRIVATE KEY":   func(f *Files) { f.Authorities = f.Key },
	} {
		f := outside(t, a, "a", Shard)
		spoil(&f)
		if _, err := FromFiles(f); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want an error that says %q", err, want)
		}
	}
}

// web writes a certificate that names no node.
func web(t *testing.T, a *Authority) (cert, key string) {
	t.Helper()
	k, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	der, err := a.SignWeb(parsedRequest(t, k, "localhost", "127.0.0.1"), WebLife, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	text, err := k.PEM()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "c"), filepath.Join(dir, "k")
	for path, content := range map[string][]byte{key: text, cert: pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: der})} {
		if err := WritePrivate(path, content); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

func TestWebFiles(t *testing.T) {
	a := newAuthorityT(t)
	cert, key := web(t, a)
	config, err := WebFiles(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	s, c := handshake(t, config, &tls.Config{RootCAs: a.pool, ServerName: "localhost"})
	if s != nil || c != nil {
		t.Errorf("a browser: %v, %v", s, c)
	}
	if _, err := WebFiles(cert, cert); err == nil {
		t.Error("a certificate is taken for a key")
	}
}

func TestAuthoritiesInFiles(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	if _, err := OpenAuthority(dir, false); err == nil || HasAuthority(dir) {
		t.Errorf("an authority that is not there: %v", err)
	}
	made, err := OpenAuthority(dir, true)
	if err != nil {
		t.Fatal(err)
	}
	again, err := OpenAuthority(dir, true)
	if err != nil || again.Pin() != made.Pin() || again.ClusterID() != made.ClusterID() || !HasAuthority(dir) {
		t.Errorf("another one after a restart: %v", err)
	}
	if made.Pin().ClusterID() != made.ClusterID() {
		t.Error("the pin does not name the cluster")
	}
	path := filepath.Join(dir, authorityFile)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, damaged := range [][]byte{nil, text[:len(text)/2], append(text, newAuthorityT(t).CertificatePEM()...), newAuthorityT(t).CertificatePEM()} {
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenAuthority(dir, true); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("a damaged authority: %v", err)
		}
	}
	trust, err := made.Pin().ParseTrust(made.CertificatePEM())
	if err != nil || trust.ClusterID() != made.ClusterID() {
		t.Errorf("its public half: %v", err)
	}
	if _, err := made.Pin().ParseTrust(newAuthorityT(t).CertificatePEM()); err == nil {
		t.Error("another authority is taken")
	}
}

func TestEnrollChecksItsCertificate(t *testing.T) {
	a, other := newAuthorityT(t), newAuthorityT(t)
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	sign := func(a *Authority, k Key, node Node) []byte {
		der, err := a.Sign(parsedRequest(t, k), node)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	node := Node{ID: "a", Roles: []Role{Shard}}
	strange, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	past := node
	past.Now = func() time.Time { return time.Now().Add(-48 * time.Hour) }
	for name, der := range map[string][]byte{
		"another authority's": sign(other, key, node), "another key's": sign(a, strange, node),
		"one that has run out": sign(a, key, past), "junk": {1, 2, 3},
	} {
		if _, err := Enroll(a.Trust, key, der, nil); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	e, err := Enroll(a.Trust, key, sign(a, key, node), nil)
	if err != nil {
		t.Fatal(err)
	}
	if e.Authority() != nil {
		t.Error("a node that joined holds the authority's key")
	}
	if err := e.Replace(sign(a, key, Node{ID: "b", Roles: []Role{Shard}})); err == nil {
		t.Error("it takes another's name")
	}
	if err := e.Replace(sign(a, key, Node{ID: "a", Roles: []Role{Coordinator}})); err == nil {
		t.Error("it takes another role")
	}
	if err := e.Replace(sign(a, key, node)); err != nil {
		t.Error(err)
	}
}
