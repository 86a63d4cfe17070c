package systemtest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shoal-llm/shoal/internal/cluster"
	"github.com/shoal-llm/shoal/internal/pki"
)

// TestNoPortTakesStrangers tries every listening port of every node, except
// those for clients and operators, as somebody who is not of the cluster.
func TestNoPortTakesStrangers(t *testing.T) {
	ctx := within(t, time.Minute)
	c := startCluster(ctx, t)
	secret, err := pki.LoadSecret(c.secretFile)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := identity(t, secret, "another-shard"), identity(t, pki.NewSecret(), "another-shard")
	strangers := map[string]func(net.Conn) net.Conn{
		"without TLS":                    func(c net.Conn) net.Conn { return c },
		"without a certificate":          over(&tls.Config{}),
		"as a node of another cluster":   over(theirs.ClientTLS(pki.Expect{})),
		"as a public listener of ours":   over(publicCertificate(t, ours)),
		"as a public listener of theirs": over(publicCertificate(t, theirs)),
	}
	var tries sync.WaitGroup
	for _, n := range c.nodes {
		checkListeners(t, n)
		for what, say := range strangers {
			tries.Go(func() {
				if answer, ok := speakHTTP2(ctx, t, n.grpc, say); ok {
					t.Errorf("%s takes a peer %s: it answers %q", n.name, what, answer)
				}
			})
		}
	}
	tries.Wait()
	for _, name := range append([]string{"coordinator"}, shards...) {
		if _, ok := speakHTTP2(ctx, t, c.nodes[name].grpc, over(ours.ClientTLS(pki.Expect{}))); !ok {
			t.Errorf("%s does not take a node of the cluster: the refusals prove nothing", name)
		}
	}
	t.Run("gossip", func(t *testing.T) { checkGossip(ctx, t, c, ours, theirs) })
}

func identity(t *testing.T, s pki.Secret, name string) *pki.Identity {
	t.Helper()
	id, err := pki.New(s, pki.Node{ID: name, Roles: []pki.Role{pki.Shard}})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// publicCertificate is a client that shows the certificate of a public listener,
// which the cluster's authority signed for no node.
func publicCertificate(t *testing.T, id *pki.Identity) *tls.Config {
	t.Helper()
	web, err := id.GatewayTLS("localhost")
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return web.GetCertificate(&tls.ClientHelloInfo{ServerName: "localhost"})
	}}
}

// over speaks TLS by c, and with any server: whom the port takes is looked at,
// not whom the client takes.
func over(c *tls.Config) func(net.Conn) net.Conn {
	c = c.Clone()
	c.InsecureSkipVerify, c.VerifyConnection, c.VerifyPeerCertificate = true, nil, nil
	c.NextProtos = []string{"h2"}
	return func(conn net.Conn) net.Conn { return tls.Client(conn, c) }
}

// speakHTTP2 says hello as a gRPC client does, and reports whether the port
// answers so: it takes whoever gets an HTTP/2 frame. A port that takes nobody
// closes the connection.
func speakHTTP2(ctx context.Context, t *testing.T, addr string, say func(net.Conn) net.Conn) (answer []byte, ok bool) {
	t.Helper()
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, false // nobody listens
	}
	defer raw.Close()
	// A port that neither answers nor closes takes nobody either.
	const patience = time.Second
	if err := raw.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	conn := say(raw)
	const emptySettings = "\x00\x00\x00\x04\x00\x00\x00\x00\x00"
	if _, err := io.WriteString(conn, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"+emptySettings); err != nil {
		return nil, false
	}
	answer = make([]byte, 9)
	n, err := io.ReadFull(conn, answer)
	const typeAt, settings = 3, 4
	return answer[:n], err == nil && answer[typeAt] == settings
}

// checkListeners holds the ports on which a process really listens to those that
// its flags say, so that none is forgotten here.
func checkListeners(t *testing.T, n *node) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Logf("%s: the ports of a process are known on Linux only; those of its flags are tried", n.name)
		return
	}
	known := append([]string{n.grpc, n.gossip, n.admin}, n.public...)
	for _, addr := range listeners(t, n.cmd.Process.Pid) {
		if !slices.Contains(known, addr) {
			t.Errorf("%s listens on %s, which no flag says", n.name, addr)
		}
	}
}

// listeners are the TCP addresses on which a process of this machine listens.
func listeners(t *testing.T, pid int) []string {
	t.Helper()
	var out []string
	for _, s := range sockets(t, pid) {
		if s.listening {
			out = append(out, s.local)
		}
	}
	if len(out) == 0 {
		t.Fatalf("process %d listens on no port", pid)
	}
	slices.Sort(out)
	return out
}

// tcpSocket is one socket of a process.
type tcpSocket struct {
	local, remote string
	listening     bool
}

// sockets reads the TCP sockets of a process (proc(5)).
func sockets(t *testing.T, pid int) []tcpSocket {
	t.Helper()
	own := map[string]bool{} // inodes
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if target, err := os.Readlink(fd); err == nil { // else it was closed meanwhile
			if inode, ok := strings.CutPrefix(target, "socket:["); ok {
				own[strings.TrimSuffix(inode, "]")] = true
			}
		}
	}
	var out []tcpSocket
	for _, table := range []string{"tcp", "tcp6"} {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, table))
		if errors.Is(err, os.ErrNotExist) {
			continue // no IPv6 here
		}
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			const local, remote, state, inode, listen = 1, 2, 3, 9, "0A"
			if f := strings.Fields(line); len(f) > inode && own[f[inode]] {
				out = append(out, tcpSocket{kernelAddr(t, f[local]), kernelAddr(t, f[remote]), f[state] == listen})
			}
		}
	}
	return out
}

// kernelAddr reads an address as the kernel writes it: words of four bytes in
// the machine's order, then the port.
func kernelAddr(t *testing.T, s string) string {
	t.Helper()
	var ip []byte
	hex, port, _ := strings.Cut(s, ":")
	for ; len(hex) >= 8; hex = hex[8:] {
		var w [4]byte
		if _, err := fmt.Sscanf(hex[:8], "%02x%02x%02x%02x", &w[3], &w[2], &w[1], &w[0]); err != nil {
			t.Fatalf("address %q: %v", s, err)
		}
		ip = append(ip, w[:]...)
	}
	var n int
	if _, err := fmt.Sscanf(port, "%x", &n); err != nil {
		t.Fatalf("address %q: %v", s, err)
	}
	return net.JoinHostPort(net.IP(ip).String(), fmt.Sprint(n))
}

// checkGossip has strangers knock at every node, and then a node of the cluster
// join: it hears of all nodes and of no stranger, and strangers hear of nobody.
func checkGossip(ctx context.Context, t *testing.T, c *system, ours, theirs *pki.Identity) {
	t.Helper()
	var seeds []string
	for _, n := range c.nodes {
		seeds = append(seeds, n.gossip)
	}
	base := cluster.Config{Bind: "127.0.0.1:0", Seeds: seeds, Preset: cluster.Local, Meta: cluster.Meta{
		Roles: []pki.Role{pki.Gateway}, GRPCAddr: "127.0.0.1:1", Fingerprint: ours.Fingerprint(), Version: "test",
	}}
	stranger, spy := base, base
	stranger.NodeID, stranger.ClusterID, stranger.GossipKey = "stranger", theirs.ClusterID(), theirs.Authority().GossipKey()
	spy.NodeID, spy.ClusterID, spy.GossipKey = "spy", ours.ClusterID(), theirs.Authority().GossipKey()
	var outside []*cluster.Cluster
	for _, config := range []cluster.Config{stranger, spy} {
		refused := make(knocking, 1)
		outside = append(outside, runGossip(t, config, slog.New(refused)))
		select {
		case <-refused: // it has asked every node
		case <-ctx.Done():
			t.Fatalf("%s has not been refused", config.NodeID)
		}
	}
	friend := base
	friend.NodeID, friend.ClusterID, friend.GossipKey = "friend", ours.ClusterID(), ours.Authority().GossipKey()
	inside := runGossip(t, friend, slog.New(slog.DiscardHandler))
	want := append(slices.Clone(services), "friend")
	slices.Sort(want)
	eventually(ctx, t, "a node of the cluster cannot join", func() error {
		if got := names(inside); !slices.Equal(got, want) {
			return fmt.Errorf("it hears of %v, want %v", got, want)
		}
		return nil
	})
	for i, name := range []string{"stranger", "spy"} {
		if got := names(outside[i]); !slices.Equal(got, []string{name}) {
			t.Errorf("%s hears of %v", name, got)
		}
	}
}

// runGossip takes part in gossip until the test ends.
func runGossip(t *testing.T, config cluster.Config, log *slog.Logger) *cluster.Cluster {
	t.Helper()
	g, err := cluster.New(config, log)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("gossip of %s: %v", config.NodeID, err)
		}
	})
	return g
}

func names(g *cluster.Cluster) []string {
	var out []string
	for _, m := range g.Members() {
		out = append(out, m.NodeID)
	}
	return out
}

// knocking is a log that receives when no seed has let a node in.
type knocking chan struct{}

func (k knocking) Enabled(context.Context, slog.Level) bool { return true }
func (k knocking) WithAttrs([]slog.Attr) slog.Handler       { return k }
func (k knocking) WithGroup(string) slog.Handler            { return k }

// Handle implements slog.Handler.
func (k knocking) Handle(_ context.Context, r slog.Record) error {
	if strings.HasPrefix(r.Message, "no other node answers yet") {
		select {
		case k <- struct{}{}:
		default:
		}
	}
	return nil
}
