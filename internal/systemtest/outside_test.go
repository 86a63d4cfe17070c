package systemtest

import (
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shoal-llm/shoal/internal/pki"
)

// outsideFiles writes a node's certificate files as cert-manager or SPIRE would, and
// returns the flags that name them.
func outsideFiles(t *testing.T, a *pki.Authority, node string, role pki.Role, gossip string) []string {
	t.Helper()
	dir := t.TempDir()
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	der, err := key.Request()
	if err != nil {
		t.Fatal(err)
	}
	request, err := pki.ParseRequest(der)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := a.Sign(request, pki.Node{ID: node, Roles: []pki.Role{role}})
	if err != nil {
		t.Fatal(err)
	}
	text, err := key.PEM()
	if err != nil {
		t.Fatal(err)
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	for name, content := range map[string][]byte{
		"tls.key": text, "ca.crt": a.CertificatePEM(), "tls.crt": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}),
	} {
		if err := os.WriteFile(at(name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return []string{"--cert-file=" + at("tls.crt"), "--key-file=" + at("tls.key"), "--ca-file=" + at("ca.crt"), "--gossip-key-file=" + gossip}
}

// TestCertificatesFromOutside: a cluster whose certificates somebody else signs.
func TestCertificatesFromOutside(t *testing.T) {
	ctx := within(t, time.Minute)
	authority, err := pki.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	gossip, web := filepath.Join(t.TempDir(), "gossip.key"), freeAddr(t)
	if _, stderr, code := shoal(ctx, t, nil, "secret", gossip); code != 0 {
		t.Fatal(stderr)
	}
	seed := freeAddr(t)
	run := func(node string, role pki.Role, gossipAddr string, more ...string) *process {
		args := append([]string{string(role), "--grpc-addr=" + freeAddr(t), "--gossip-addr=" + gossipAddr, "--admin-addr=" + freeAddr(t)},
			outsideFiles(t, authority, node, role, gossip)...)
		p := start(t, nil, append(args, more...)...)
		p.report(t)
		return p
	}
	run("head", pki.Coordinator, seed, "--min-shards=1")
	run("worker", pki.Shard, freeAddr(t), "--join="+seed)
	run("door", pki.Gateway, freeAddr(t), "--join="+seed, "--listen="+web, "--grpc-listen="+freeAddr(t))
	c := client{url: "http://" + web}
	eventually(ctx, t, "no answer", func() error {
		_, err := c.complete(ctx, chat("Hello!", object{"max_tokens": 4}))
		return err
	})
	// The certificate says who a node is.
	args := outsideFiles(t, authority, "worker", pki.Shard, gossip)
	_, stderr, code := shoal(ctx, t, nil, append([]string{"gateway"}, args...)...)
	if code != 1 {
		t.Errorf("a shard's certificate for a gateway: code %d", code)
	}
	checkSentence(t, stderr, "roles [shard]", "gateway")
	_, stderr, code = shoal(ctx, t, nil, append([]string{"shard", "--node-id=other"}, args...)...)
	if code != 1 {
		t.Errorf("another name: code %d", code)
	}
	checkSentence(t, stderr, "--node-id other", "names node worker")
}

// TestKeysOfTheCommandLine: a key that was just made is let in by a gateway that
// runs, within its limits, and no more once it is revoked.
func TestKeysOfTheCommandLine(t *testing.T) {
	ctx := within(t, time.Minute)
	file := "--keys=" + filepath.Join(t.TempDir(), "keys.json")
	make := func(args ...string) string {
		t.Helper()
		out, stderr, code := shoal(ctx, t, nil, append([]string{"key", "create", file}, args...)...)
		if code != 0 || !strings.Contains(stderr, "shown this once") {
			t.Fatalf("create: %d: %s", code, stderr)
		}
		return strings.TrimSpace(out)
	}
	first := make("first")
	u := startUp(ctx, t, nil, "--listen=127.0.0.1:0", file)
	ask := func(key string) error {
		_, err := client{url: u.url, key: key}.complete(ctx, chat("Hello!", object{"max_tokens": 2}))
		return err
	}
	eventually(ctx, t, "the first key", func() error { return ask(first) })
	if err := ask(""); err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("no key: %v", err)
	}
	second := make("second", "--rpm=1", "--models=tiny", "--expires=1h")
	eventually(ctx, t, "the second key", func() error { return ask(second) })
	if err := ask(second); err == nil || !strings.Contains(err.Error(), "429") {
		t.Errorf("beyond its limit: %v", err)
	}
	out, _, _ := shoal(ctx, t, nil, "key", "ls", file)
	if line := lineOf(out, "second"); !strings.Contains(line, " 1 ") || !strings.Contains(line, "tiny") || strings.Contains(out, second) {
		t.Errorf("ls:\n%s", out)
	}
	if _, stderr, code := shoal(ctx, t, nil, "key", "create", "second", file); code != 1 {
		t.Errorf("a name twice: %d", code)
	} else {
		checkSentence(t, stderr, "second", "revoke it first")
	}
	if out, stderr, code := shoal(ctx, t, nil, "key", "revoke", "first", file); code != 0 || out != "first is revoked\n" {
		t.Errorf("revoke: %d: %s%s", code, out, stderr)
	}
	eventually(ctx, t, "the revoked key is let in", func() error {
		if err := ask(first); err == nil || !strings.Contains(err.Error(), "401") {
			return fmt.Errorf("it gets %v", err)
		}
		return nil
	})
}
