package enrol

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/shoal-llm/shoal/internal/pki"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// recorder is a server that keeps every byte it is sent, as it is on the wire and,
// where the client lets it shake hands, without the encryption.
type recorder struct {
	addr string

	mu    sync.Mutex
	wire  bytes.Buffer
	plain bytes.Buffer
	shook int
}

// Read of a recorded connection keeps what it reads.
type recordedConn struct {
	net.Conn
	r *recorder
}

func (c recordedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.r.mu.Lock()
	defer c.r.mu.Unlock()
	c.r.wire.Write(p[:n])
	return n, err
}

// record serves TLS by config until the test ends.
func record(t *testing.T, config *tls.Config) *recorder {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	config = config.Clone()
	config.NextProtos = []string{"h2"}
	r := &recorder{addr: l.Addr().String()}
	var group sync.WaitGroup
	group.Go(func() {
		for {
			raw, err := l.Accept()
			if err != nil {
				return
			}
			group.Go(func() {
				defer raw.Close()
				_ = raw.SetDeadline(time.Now().Add(20 * time.Second))
				conn := tls.Server(recordedConn{raw, r}, config)
				if conn.Handshake() != nil {
					return
				}
				r.mu.Lock()
				r.shook++
				r.mu.Unlock()
				got, _ := io.ReadAll(conn)
				r.mu.Lock()
				r.plain.Write(got)
				r.mu.Unlock()
			})
		}
	})
	t.Cleanup(func() { l.Close(); group.Wait() })
	return r
}

// TestAWrongAuthorityNeverSeesTheSecret: a machine that is led to a stranger, or to
// somebody of the cluster who is no coordinator, ends the handshake. Whoever answers
// has the keys of that connection and so would see what was sent: it is nothing.
func TestAWrongAuthorityNeverSeesTheSecret(t *testing.T) {
	ours, theirs := authority(t), authority(t)
	token, err := pki.NewToken(ours.Pin(), pki.Shard)
	if err != nil {
		t.Fatal(err)
	}
	identity := func(a *pki.Authority, role pki.Role) *pki.Identity {
		id, err := a.Identity(pki.Node{ID: "head", Roles: []pki.Role{role}})
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	withOurs := identity(theirs, pki.Coordinator).OpenTLS() // shows our authority's certificate beside its own
	get := withOurs.GetCertificate
	withOurs.GetCertificate = func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
		c, err := get(h)
		if err != nil {
			return nil, err
		}
		extra, err := identity(ours, pki.Coordinator).OpenTLS().GetCertificate(h)
		c.Certificate = append(c.Certificate, extra.Certificate[1])
		return c, err
	}
	web, err := identity(ours, pki.Gateway).GatewayTLS()
	if err != nil {
		t.Fatal(err)
	}
	for name, config := range map[string]*tls.Config{
		"another authority":              identity(theirs, pki.Coordinator).OpenTLS(),
		"with our authority in its bag":  withOurs,
		"a shard of ours":                identity(ours, pki.Shard).OpenTLS(),
		"our gateway's web certificate":  web,
		"without the authority's own":    identity(ours, pki.Coordinator).ServerTLS(),
		"an old version of the protocol": oldTLS(identity(ours, pki.Coordinator).OpenTLS()),
	} {
		config.ClientAuth = tls.NoClientCert
		config.VerifyConnection = nil
		r := record(t, config)
		_, err := Join(t.Context(), Joining{Token: token, Address: r.addr, Dir: t.TempDir(), Node: "a"})
		if err == nil || !strings.Contains(err.Error(), "is not the coordinator that the token names") {
			t.Errorf("%s: %v", name, err)
		}
		r.mu.Lock()
		for what, b := range map[string][]byte{"on the wire": r.wire.Bytes(), "as it reads it": r.plain.Bytes()} {
			if bytes.Contains(b, token.Secret[:]) || bytes.Contains(b, []byte(token.ID)) {
				t.Errorf("%s: the token is seen %s", name, what)
			}
		}
		if r.plain.Len() > 0 {
			t.Errorf("%s: it was sent %d bytes after the handshake", name, r.plain.Len())
		}
		if r.wire.Len() == 0 {
			t.Errorf("%s: nothing was recorded: the test proves nothing", name)
		}
		r.mu.Unlock()
	}
	// The right one does see it: the recorder works.
	r := record(t, identity(ours, pki.Coordinator).OpenTLS())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	joined := make(chan error, 1)
	go func() {
		_, err := Join(ctx, Joining{Token: token, Address: r.addr, Dir: t.TempDir(), Node: "a"})
		joined <- err
	}()
	deadline := time.After(10 * time.Second)
	for shook := 0; shook == 0; {
		select {
		case <-deadline:
			t.Fatal("the right coordinator's handshake does not end")
		case <-time.After(5 * time.Millisecond):
			r.mu.Lock()
			shook = r.shook
			r.mu.Unlock()
		}
	}
	cancel()
	if err := <-joined; err == nil {
		t.Error("a server that answers nothing let the machine in")
	}
}

func oldTLS(c *tls.Config) *tls.Config {
	c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	return c
}

func authority(t *testing.T) *pki.Authority {
	t.Helper()
	a, err := pki.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestSplitAddress(t *testing.T) {
	token, err := pki.NewToken(authority(t).Pin(), pki.Shard)
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		token.Text():                              "",
		token.Text() + "@192.168.1.20":            "192.168.1.20:7701",
		token.Text() + "@head.local:9000":         "head.local:9000",
		token.Text() + "@[fe80::1]:9000":          "[fe80::1]:9000",
		token.Text() + "@[fd00::1]":               "[fd00::1]:7701",
		strings.ToLower(token.Text()) + "@head:1": "head:1",
	} {
		got, addr, err := SplitAddress(text)
		if err != nil || addr != want || got != token {
			t.Errorf("%s: %q, %v", text[len(token.Text()):], addr, err)
		}
	}
	for _, bad := range []string{"", "@head", "SHOAL1-x@head", token.Text()[1:] + "@head", token.Text() + "@:7701", token.Text() + "@head:"} {
		if _, addr, err := SplitAddress(bad); err == nil {
			t.Errorf("%q is read as %q", bad, addr)
		} else if strings.Contains(err.Error(), token.Text()[70:]) {
			t.Errorf("the error repeats the token: %v", err)
		}
	}
}

// TestFollowWithoutACoordinator: it asks on, quietly, and ends with its context.
func TestFollowWithoutACoordinator(t *testing.T) {
	a := authority(t)
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := key.Request()
	if err != nil {
		t.Fatal(err)
	}
	request, err := pki.ParseRequest(csr)
	if err != nil {
		t.Fatal(err)
	}
	der, err := a.Sign(request, pki.Node{ID: "a", Roles: []pki.Role{pki.Shard}})
	if err != nil {
		t.Fatal(err)
	}
	enrolled, err := pki.Enroll(a.Trust, key, der, nil)
	if err != nil {
		t.Fatal(err)
	}
	m := &Membership{Enrolled: enrolled, now: time.Now}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := m.Follow(ctx, Following{Log: slog.New(slog.DiscardHandler)}); err != nil {
		t.Error(err)
	}
}
