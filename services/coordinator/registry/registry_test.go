package registry_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/shoal-llm/shoal/internal/enrol"
	"github.com/shoal-llm/shoal/internal/pki"
	"github.com/shoal-llm/shoal/internal/wire"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/coordinator/registry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock is a time that tests move.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// head is a coordinator's identity services without the coordinator.
type head struct {
	*registry.Registry
	dir        string
	authority  *pki.Authority
	identity   *pki.Identity
	clock      *clock
	grpc, join string
}

// fakeGossip keeps what it is told.
type fakeGossip struct {
	mu    sync.Mutex
	keys  [][32]byte
	seeds []string
	sets  int
}

func (g *fakeGossip) SetKeys(keys [][32]byte) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.keys, g.sets = slices.Clone(keys), g.sets+1
	return nil
}

func (g *fakeGossip) Seek(addrs []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.seeds = addrs
}

func (g *fakeGossip) Seeds() []string { return []string{"127.0.0.1:7946"} }

func (g *fakeGossip) now() [][32]byte {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.keys)
}

func listen(t *testing.T) *net.TCPListener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.(*net.TCPListener)
}

var quick = registry.Times{Every: 24 * time.Hour, Settle: time.Second, Patience: 15 * time.Second, Overlap: time.Minute}

// start runs the services until the test ends.
func start(t *testing.T) *head {
	t.Helper()
	h := &head{dir: filepath.Join(t.TempDir(), "state"), clock: &clock{now: time.Now()}}
	var err error
	if h.authority, err = pki.OpenAuthority(h.dir, true); err != nil {
		t.Fatal(err)
	}
	if h.identity, err = h.authority.Identity(pki.Node{ID: "head", Roles: []pki.Role{pki.Coordinator}, Now: h.clock.Now}); err != nil {
		t.Fatal(err)
	}
	main, joins := listen(t), listen(t)
	h.grpc, h.join = main.Addr().String(), joins.Addr().String()
	h.Registry = h.open(t)
	if err := h.Attach(&fakeGossip{}); err != nil {
		t.Fatal(err)
	}
	rules := registry.Rules()
	for _, m := range []string{healthpb.Health_Check_FullMethodName, healthpb.Health_Watch_FullMethodName, healthpb.Health_List_FullMethodName} {
		rules[m] = pki.AnyRole()
	}
	unary, stream := pki.Authorize(rules)
	s := grpc.NewServer(append(wire.ServerOptions(), grpc.Creds(h.identity.ServerCredentials()),
		grpc.UnaryInterceptor(unary), grpc.StreamInterceptor(stream))...)
	h.Register(s)
	healthpb.RegisterHealthServer(s, health.NewServer())
	if err := rules.Check(s.GetServiceInfo()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() { s.Serve(main) })
	group.Go(func() {
		if err := h.Run(ctx, joins); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); s.Stop(); group.Wait() })
	return h
}

func (h *head) open(t *testing.T) *registry.Registry {
	t.Helper()
	r, err := registry.Open(registry.Options{
		Dir: h.dir, Authority: h.authority, Identity: h.identity, Address: h.grpc, Join: h.join,
		Log: slog.New(slog.DiscardHandler), Now: h.clock.Now, Times: quick,
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (h *head) token(t *testing.T, role pki.Role) pki.Token {
	t.Helper()
	token, _, err := h.CreateToken(role, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// joining is a machine called node that can be reached.
func (h *head) joining(t *testing.T, token pki.Token, node string) enrol.Joining {
	t.Helper()
	l := listen(t)
	return enrol.Joining{
		Token: token, Address: h.join, Dir: t.TempDir(), Node: node, Version: "test",
		Listener: l, Advertise: l.Addr().String(), Now: h.clock.Now,
	}
}

func (h *head) admit(t *testing.T, role pki.Role, node string) (*enrol.Membership, enrol.Joining) {
	t.Helper()
	j := h.joining(t, h.token(t, role), node)
	m, err := enrol.Join(t.Context(), j)
	if err != nil {
		t.Fatal(err)
	}
	return m, j
}

// follow follows until the test ends or the node may not go on.
func follow(t *testing.T, m *enrol.Membership, g enrol.Gossip) <-chan error {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended, done := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(done)
		ended <- m.Follow(ctx, enrol.Following{Gossip: g, Log: slog.New(slog.DiscardHandler)})
	}()
	t.Cleanup(func() { cancel(); <-done })
	return ended
}

// eventually waits for a state that other goroutines bring about.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for deadline := time.After(30 * time.Second); !ok(); {
		select {
		case <-poll.C:
		case <-deadline:
			t.Fatalf("never: %s", what)
		}
	}
}

func dial(t *testing.T, addr string, creds credentials.TransportCredentials) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+addr, append(wire.DialOptions(), grpc.WithTransportCredentials(creds))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// TestAMachineJoins: with a token a machine gets an identity in the token's role,
// keeps it for its owner alone, and has it again after a restart.
func TestAMachineJoins(t *testing.T) {
	h := start(t)
	for _, role := range []pki.Role{pki.Shard, pki.Gateway, pki.Coordinator} {
		m, j := h.admit(t, role, "a-"+string(role))
		if m.NodeID() != j.Node || !slices.Equal(m.Roles(), []pki.Role{role}) || m.ClusterID() != h.authority.ClusterID() {
			t.Errorf("joined as %s %v of %s", m.NodeID(), m.Roles(), m.ClusterID())
		}
		if !slices.Equal(m.GossipKeys(), h.GossipKeys()) || !slices.Equal(m.Coordinators(), []string{h.grpc}) || len(m.Seeds()) == 0 {
			t.Errorf("%s knows keys %d, coordinators %v, seeds %v", role, len(m.GossipKeys()), m.Coordinators(), m.Seeds())
		}
		again, err := enrol.Load(j.Dir, role, h.clock.Now)
		if err != nil {
			t.Fatal(err)
		}
		if again.Fingerprint() != m.Fingerprint() || !slices.Equal(again.GossipKeys(), m.GossipKeys()) {
			t.Error("another identity after a restart")
		}
		if _, err := healthpb.NewHealthClient(dial(t, h.grpc, again.ClientCredentials("", pki.Coordinator))).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
			t.Errorf("%s calls the coordinator: %v", role, err)
		}
		if !slices.Equal(enrol.Roles(j.Dir), []pki.Role{role}) {
			t.Errorf("the folder holds %v", enrol.Roles(j.Dir))
		}
	}
}

// TestSecretsAreKeptPrivately: files of keys are for their owner alone, and the
// secret of a token is in none of them.
func TestSecretsAreKeptPrivately(t *testing.T) {
	h := start(t)
	token := h.token(t, pki.Shard)
	_, j := h.admit(t, pki.Shard, "a")
	for _, dir := range []string{h.dir, j.Dir} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			if info.Mode().Perm() != 0o600 {
				t.Errorf("%s has mode %04o", path, info.Mode().Perm())
			}
			text, err := os.ReadFile(path)
			if bytes.Contains(text, token.Secret[:]) || bytes.Contains(text, []byte(token.Text()[strings.LastIndex(token.Text(), "-"):])) || bytes.Contains(text, []byte(hex.EncodeToString(token.Secret[:]))) {
				t.Errorf("%s holds the secret of a token", path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	book, err := os.ReadFile(filepath.Join(h.dir, "registry.json"))
	sum := sha256.Sum256(token.Secret[:])
	if err != nil || !bytes.Contains(book, []byte(hex.EncodeToString(sum[:]))) {
		t.Errorf("the token's hash is not kept: %v", err)
	}
	if err := os.Chmod(filepath.Join(h.dir, "authority.pem"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := pki.OpenAuthority(h.dir, true); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("an authority that others can read: %v", err)
	}
}

// TestTokensLetOneMachineInOnce, and say why not.
func TestTokensLetOneMachineInOnce(t *testing.T) {
	h := start(t)
	used := h.token(t, pki.Shard)
	if _, err := enrol.Join(t.Context(), h.joining(t, used, "first")); err != nil {
		t.Fatal(err)
	}
	old := h.token(t, pki.Shard)
	wrong := h.token(t, pki.Shard)
	wrong.Secret[0] ^= 1
	strange, err := pki.NewToken(h.authority.Pin(), pki.Shard)
	if err != nil {
		t.Fatal(err)
	}
	mixed := h.token(t, pki.Shard)
	mixed.ID = old.ID // one token's secret with another's id
	stolenRole := h.token(t, pki.Shard)
	stolenRole.ID = "O" + stolenRole.ID[1:]
	for _, c := range []struct {
		what  string
		token pki.Token
		node  string
		want  string
	}{
		{"again", used, "second", "the token has been used, by node first"},
		{"a wrong secret", wrong, "x", "does not know this token"},
		{"never made", strange, "x", "does not know this token"},
		{"another's id", mixed, "x", "does not know this token"},
		{"another role's letter", stolenRole, "x", "does not know this token"},
		{"a name that is taken", h.token(t, pki.Shard), "first", "another machine is called first"},
		{"the coordinator's name", h.token(t, pki.Shard), "head", "the coordinator itself is called head"},
		{"a name that is none", h.token(t, pki.Shard), "a/b", "--node-id"},
	} {
		if _, err := enrol.Join(t.Context(), h.joining(t, c.token, c.node)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want an error that says %q", c.what, err, c.want)
		}
	}
	h.clock.move(61 * time.Minute)
	_, err = enrol.Join(t.Context(), h.joining(t, old, "x"))
	if err == nil || !strings.Contains(err.Error(), "the token has expired, at ") {
		t.Errorf("an old token: %v", err)
	}
	for _, life := range []time.Duration{0, time.Second, registry.MaxTokenLife + 1} {
		if _, _, err := h.CreateToken(pki.Shard, life); err == nil {
			t.Errorf("a token of %v was made", life)
		}
	}
	if _, _, err := h.CreateToken("root", time.Hour); err == nil {
		t.Error("a token for a role that is none was made")
	}
	// What was redeemed stays so whatever happens to the process.
	again := h.open(t)
	if _, _, err := again.Revoke("first"); err != nil {
		t.Errorf("the book was not kept: %v", err)
	}
}

// TestTheWayBackIsTried: a machine that the coordinator does not reach is told which
// way is shut, and keeps its token.
func TestTheWayBackIsTried(t *testing.T) {
	h := start(t)
	j := h.joining(t, h.token(t, pki.Shard), "a")
	shut := listen(t)
	shut.Close()
	impostor := listen(t)
	good := j.Advertise
	for what, addr := range map[string]string{"nobody there": shut.Addr().String(), "somebody else there": impostor.Addr().String()} {
		if what == "somebody else there" {
			go func() {
				for {
					c, err := impostor.Accept()
					if err != nil {
						return
					}
					c.Close()
				}
			}()
		}
		j.Advertise = addr
		_, err := enrol.Join(t.Context(), j)
		for _, want := range []string{"the way back is not: node head does not reach this machine at " + addr, "--advertise", "token is still good"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want an error that says %q", what, err, want)
			}
		}
	}
	for _, addr := range []string{"", "a-name:7700", "127.0.0.1", "127.0.0.1:0"} {
		j.Advertise = addr
		if _, err := enrol.Join(t.Context(), j); err == nil || !strings.Contains(err.Error(), "want IP:PORT") {
			t.Errorf("address %q: %v", addr, err)
		}
	}
	j.Advertise = good
	if _, err := enrol.Join(t.Context(), j); err != nil {
		t.Errorf("the token was lost: %v", err)
	}
	j.Address = shut.Addr().String()
	if _, err := enrol.Join(t.Context(), j); err == nil || !strings.Contains(err.Error(), "this machine does not reach "+j.Address) {
		t.Errorf("the way there: %v", err)
	}
}

// TestRevokedNodesAreCutOff: streams of a node that was shut out end within five
// seconds, at the coordinator and between other nodes, it is refused from then on,
// it is told so, and the gossip key is replaced.
func TestRevokedNodesAreCutOff(t *testing.T) {
	h := start(t)
	good, _ := h.admit(t, pki.Shard, "good")
	bad, badJoin := h.admit(t, pki.Shard, "bad")
	gossip := &fakeGossip{}
	follow(t, good, gossip)
	badEnded := follow(t, bad, &fakeGossip{})
	eventually(t, "both follow", func() bool { return following(t, h) == 2 })

	// A server of the good node, and a stream of the bad one to each.
	peer := listen(t)
	s := grpc.NewServer(append(wire.ServerOptions(), grpc.Creds(good.ServerCredentials()))...)
	healthpb.RegisterHealthServer(s, health.NewServer())
	go s.Serve(peer)
	t.Cleanup(s.Stop)
	var streams []healthpb.Health_WatchClient
	for _, addr := range []string{h.grpc, peer.Addr().String()} {
		w, err := healthpb.NewHealthClient(dial(t, addr, bad.ClientCredentials(""))).Watch(t.Context(), &healthpb.HealthCheckRequest{})
		if err == nil {
			_, err = w.Recv()
		}
		if err != nil {
			t.Fatal(err)
		}
		streams = append(streams, w)
	}
	began := time.Now()
	role, told, err := h.Revoke("bad")
	if err != nil || role != pki.Shard || told != 1 {
		t.Fatalf("revoke: %s, %d, %v", role, told, err)
	}
	for i, w := range streams {
		if _, err := w.Recv(); status.Code(err) != codes.Unavailable {
			t.Errorf("stream %d: %v", i, err)
		}
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	select {
	case err := <-badEnded:
		if !errors.Is(err, enrol.ErrShutOut) {
			t.Errorf("the node is told %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the node was not told")
	}
	for _, addr := range []string{h.grpc, peer.Addr().String()} {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		if _, err := healthpb.NewHealthClient(dial(t, addr, bad.ClientCredentials(""))).Check(ctx, &healthpb.HealthCheckRequest{}); status.Code(err) != codes.Unavailable {
			t.Errorf("%s takes it again: %v", addr, err)
		}
		cancel()
	}
	if _, err := enrol.Load(badJoin.Dir, pki.Shard, h.clock.Now); err != nil {
		t.Errorf("its file: %v", err)
	}
	// Neither the name nor the way in is lost: a new token lets it in with a new key.
	if m, _ := h.admit(t, pki.Shard, "bad"); m.Fingerprint() == bad.Fingerprint() {
		t.Error("the same key came back")
	}
	before := gossip.now()[0]
	h.clock.move(2 * time.Second)
	eventually(t, "the gossip key is replaced", func() bool { return gossip.now()[0] != before })
	if _, _, err := h.Revoke("nobody"); err == nil {
		t.Error("nobody was shut out")
	}
}

func following(t *testing.T, h *head) (n int) {
	t.Helper()
	for _, i := range h.identities(t).GetNodes() {
		if i.GetFollowing() {
			n++
		}
	}
	return n
}

// identities asks as an operator that has the authority.
func (h *head) identities(t *testing.T) *pb.IdentitiesResponse {
	t.Helper()
	op, err := h.authority.Identity(pki.Node{ID: "op", Roles: []pki.Role{pki.Operator}, Now: h.clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	conn := dial(t, h.grpc, op.ClientCredentials("", pki.Coordinator))
	defer conn.Close()
	r, err := pb.NewTrustServiceClient(conn).Identities(t.Context(), &pb.IdentitiesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestACopiedStateDirectoryIsNamed: two processes with one identity.
func TestACopiedStateDirectoryIsNamed(t *testing.T) {
	h := start(t)
	m, j := h.admit(t, pki.Shard, "a")
	follow(t, m, &fakeGossip{})
	eventually(t, "it follows", func() bool { return following(t, h) == 1 })
	copied, err := enrol.Load(j.Dir, pki.Shard, h.clock.Now)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := pb.NewTrustServiceClient(dial(t, h.grpc, copied.ClientCredentials(""))).Follow(t.Context())
	if err == nil {
		err = stream.Send(&pb.FollowRequest{Process: make([]byte, 16)})
	}
	if err != nil {
		t.Fatal(err)
	}
	_, err = stream.Recv()
	if status.Code(err) != codes.AlreadyExists || !strings.Contains(err.Error(), "was its state directory copied?") || !strings.Contains(err.Error(), "node a") {
		t.Errorf("a copied state directory: %v", err)
	}
	if following(t, h) != 1 {
		t.Error("the node that was there has lost its place")
	}
	// The copy gives up, with that reason.
	err = copied.Follow(t.Context(), enrol.Following{Gossip: &fakeGossip{}, Log: slog.New(slog.DiscardHandler), Patience: time.Nanosecond})
	if err == nil || !strings.Contains(err.Error(), "was its state directory copied?") {
		t.Errorf("the copy goes on: %v", err)
	}
}

// TestCertificatesAreRenewed at two thirds of their life, with the same key.
func TestCertificatesAreRenewed(t *testing.T) {
	h := start(t)
	m, j := h.admit(t, pki.Gateway, "gw")
	first, key := m.Certificate(), m.Fingerprint()
	expires, err := m.Expires()
	if err != nil || !expires.Equal(h.clock.Now().Add(pki.LeafLife).Truncate(time.Second)) {
		t.Errorf("the first ends at %v: %v", expires, err)
	}
	h.clock.move(17 * time.Hour)
	follow(t, m, &fakeGossip{})
	eventually(t, "it is renewed", func() bool { return !bytes.Equal(m.Certificate(), first) })
	if m.Fingerprint() != key {
		t.Error("another key")
	}
	if next, _ := m.Expires(); !next.After(expires) {
		t.Errorf("the second ends at %v", next)
	}
	eventually(t, "it is kept", func() bool {
		again, err := enrol.Load(j.Dir, pki.Gateway, h.clock.Now)
		return err == nil && bytes.Equal(again.Certificate(), m.Certificate())
	})
	h.clock.move(25 * time.Hour)
	if _, err := enrol.Load(j.Dir, pki.Gateway, h.clock.Now); err == nil || !strings.Contains(err.Error(), "joins again with a new token") {
		t.Errorf("an identity that has run out: %v", err)
	}
}

// TestAGatewayGetsACertificateForBrowsers, and no other role does.
func TestAGatewayGetsACertificateForBrowsers(t *testing.T) {
	h := start(t)
	j := h.joining(t, h.token(t, pki.Gateway), "gw")
	j.WebHosts = pki.WebHosts("chat.home.arpa", "10.0.0.7")
	m, err := enrol.Join(t.Context(), j)
	if err != nil {
		t.Fatal(err)
	}
	config, err := m.GatewayTLS()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := config.GetCertificate(nil)
	if err != nil || cert.Leaf.VerifyHostname("chat.home.arpa") != nil || cert.Leaf.VerifyHostname("10.0.0.7") != nil || len(cert.Leaf.URIs) != 0 {
		t.Errorf("certificate %v: %v", cert.Leaf.DNSNames, err)
	}
	j = h.joining(t, h.token(t, pki.Shard), "s")
	j.WebHosts = []string{"bank.example"}
	if _, err := enrol.Join(t.Context(), j); err == nil || !strings.Contains(err.Error(), "a shard has no public listener") {
		t.Errorf("a shard asks for one: %v", err)
	}
	plain, _ := h.admit(t, pki.Shard, "s2")
	if _, err := plain.GatewayTLS(); !errors.Is(err, pki.ErrNoWeb) {
		t.Errorf("a shard's public listener: %v", err)
	}
}

// TestTheJoinListenerServesOneMethod: without a certificate, and with any role's,
// every method but Join does not exist there; and Join needs a token.
func TestTheJoinListenerServesOneMethod(t *testing.T) {
	h := start(t)
	clients := map[string]credentials.TransportCredentials{"no certificate": credentials.NewTLS(h.authority.Pin().JoinTLS(h.clock.Now))}
	for _, role := range pki.AnyRole() {
		id, err := h.authority.Identity(pki.Node{ID: "x", Roles: []pki.Role{role}, Now: h.clock.Now})
		if err != nil {
			t.Fatal(err)
		}
		clients[string(role)] = id.ClientCredentials("head", pki.Coordinator)
	}
	services := []*grpc.ServiceDesc{&pb.TrustService_ServiceDesc, &pb.CoordinatorService_ServiceDesc, &pb.ShardService_ServiceDesc, &healthpb.Health_ServiceDesc}
	for who, creds := range clients {
		conn := dial(t, h.join, creds)
		for _, s := range services {
			var names []string
			for _, m := range s.Methods {
				names = append(names, m.MethodName)
			}
			for _, m := range s.Streams {
				names = append(names, m.StreamName)
			}
			for _, name := range names {
				method := "/" + s.ServiceName + "/" + name
				stream, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
				if err == nil {
					err = stream.RecvMsg(&pb.JoinResponse{})
				}
				if status.Code(err) != codes.Unimplemented {
					t.Errorf("%s calls %s: %v", who, method, err)
				}
			}
		}
		if _, err := pb.NewJoinServiceClient(conn).Join(t.Context(), &pb.JoinRequest{}); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s joins with nothing: %v", who, err)
		}
	}
	// And on the listener of nodes there is no Join.
	id, err := h.authority.Identity(pki.Node{ID: "x", Roles: pki.AnyRole(), Now: h.clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pb.NewJoinServiceClient(dial(t, h.grpc, id.ClientCredentials(""))).Join(t.Context(), &pb.JoinRequest{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("a node joins where nodes talk: %v", err)
	}
}

// TestHostileJoinRequests: what is wrong is named, and no token is lost.
func TestHostileJoinRequests(t *testing.T) {
	h := start(t)
	token := h.token(t, pki.Shard)
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	good, err := key.Request()
	if err != nil {
		t.Fatal(err)
	}
	forged := slices.Clone(good)
	forged[len(forged)-1] ^= 1 // the signature
	many := make([]string, 65)
	for i := range many {
		many[i] = strings.Repeat("a", i+1) + ".example"
	}
	crowded, err := key.Request(many...)
	if err != nil {
		t.Fatal(err)
	}
	client := pb.NewJoinServiceClient(dial(t, h.join, credentials.NewTLS(h.authority.Pin().JoinTLS(h.clock.Now))))
	for name, c := range map[string]struct {
		req  *pb.JoinRequest
		code codes.Code
	}{
		"no request":        {&pb.JoinRequest{Token: token.ID, Secret: token.Secret[:], Node: "a"}, codes.InvalidArgument},
		"a forged request":  {&pb.JoinRequest{Token: token.ID, Secret: token.Secret[:], Node: "a", Request: forged}, codes.InvalidArgument},
		"a crowded request": {&pb.JoinRequest{Token: token.ID, Secret: token.Secret[:], Node: "a", Request: crowded}, codes.InvalidArgument},
		"no secret":         {&pb.JoinRequest{Token: token.ID, Node: "a", Request: good}, codes.Unauthenticated},
		"a long secret":     {&pb.JoinRequest{Token: token.ID, Secret: make([]byte, 1000), Node: "a", Request: good}, codes.Unauthenticated},
		"a large message":   {&pb.JoinRequest{Token: strings.Repeat("x", 1<<20), Request: good}, codes.ResourceExhausted},
		"a path as a name":  {&pb.JoinRequest{Token: token.ID, Secret: token.Secret[:], Node: "../a", Request: good}, codes.InvalidArgument},
	} {
		if _, err := client.Join(t.Context(), c.req); status.Code(err) != c.code {
			t.Errorf("%s: %v, want %v", name, err, c.code)
		}
	}
	if _, err := enrol.Join(t.Context(), h.joining(t, token, "a")); err != nil {
		t.Errorf("the token was lost: %v", err)
	}
}

// TestRenewalIsForTheOwnKey: nobody gets a certificate for another key or name, or
// once shut out.
func TestRenewalIsForTheOwnKey(t *testing.T) {
	h := start(t)
	m, _ := h.admit(t, pki.Shard, "a")
	strange, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	request, err := strange.Request()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pb.NewTrustServiceClient(dial(t, h.grpc, m.ClientCredentials(""))).Renew(t.Context(), &pb.RenewRequest{Request: request}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("for another key: %v", err)
	}
	self, err := h.authority.Identity(pki.Node{ID: "ghost", Roles: []pki.Role{pki.Shard}, Now: h.clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pb.NewTrustServiceClient(dial(t, h.grpc, self.ClientCredentials(""))).Renew(t.Context(), &pb.RenewRequest{Request: request}); err == nil {
		t.Error("a node that never joined got a certificate")
	}
}

// TestGossipKeysReachAllNodes: a rotation adds, uses and drops the key at every node
// that follows, and ends; one that comes later has the new key.
func TestGossipKeysReachAllNodes(t *testing.T) {
	h := start(t)
	var all []*fakeGossip
	for _, name := range []string{"a", "b"} {
		m, _ := h.admit(t, pki.Shard, name)
		g := &fakeGossip{}
		all = append(all, g)
		follow(t, m, g)
	}
	old := h.GossipKeys()
	eventually(t, "all have the key", func() bool { return slices.Equal(all[0].now(), old) && slices.Equal(all[1].now(), old) })
	if _, err := h.Rotate(); err != nil {
		t.Fatal(err)
	}
	agree := func(n int) bool {
		keys := h.GossipKeys()
		return len(keys) == n && slices.Equal(all[0].now(), keys) && slices.Equal(all[1].now(), keys)
	}
	eventually(t, "the new key is added", func() bool { return agree(2) && all[0].now()[0] == old[0] })
	h.clock.move(2 * time.Second)
	eventually(t, "the new key is used", func() bool { return agree(2) && all[0].now()[1] == old[0] })
	h.clock.move(61 * time.Second)
	eventually(t, "the old key is dropped", func() bool { return agree(1) && all[0].now()[0] != old[0] })
	if late, _ := h.admit(t, pki.Shard, "late"); !slices.Equal(late.GossipKeys(), h.GossipKeys()) {
		t.Error("a later node has other keys")
	}
	if !slices.Equal(h.open(t).GossipKeys(), h.GossipKeys()) {
		t.Error("the key is not kept")
	}
}

// TestAShardVouchesForItsProcesses: each has a key and a certificate of its own
// under the shard's name, hears of who is shut out, and is shut out with its shard.
func TestAShardVouchesForItsProcesses(t *testing.T) {
	h := start(t)
	parent, _ := h.admit(t, pki.Shard, "nas")
	bad, _ := h.admit(t, pki.Shard, "bad")
	follow(t, parent, &fakeGossip{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	news := make(chan enrol.ChildNews, 8)
	told, err := parent.Vouch(ctx, "nas.gpu0", func(n enrol.ChildNews) { news <- n })
	if err != nil {
		t.Fatal(err)
	}
	child, err := told.Enroll(h.clock.Now)
	if err != nil {
		t.Fatal(err)
	}
	if child.NodeID() != "nas.gpu0" || !slices.Equal(child.Roles(), []pki.Role{pki.Shard}) || child.Fingerprint() == parent.Fingerprint() {
		t.Errorf("the process is %s, %v", child.NodeID(), child.Roles())
	}
	if _, err := healthpb.NewHealthClient(dial(t, h.grpc, child.ClientCredentials("", pki.Coordinator))).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
		t.Errorf("it calls the coordinator: %v", err)
	}
	for _, name := range []string{"bad", "bad.gpu0", "nas", "nas.gpu", "nas.gpu-1", "nas.gpu01", "nas.gpu64", "nas.gpu0.gpu0", "nasx.gpu0"} {
		if _, err := parent.Vouch(ctx, name, nil); err == nil || !strings.Contains(err.Error(), "does not vouch for") {
			t.Errorf("nas vouches for %s: %v", name, err)
		}
	}
	if _, err := enrol.Join(t.Context(), h.joining(t, h.token(t, pki.Shard), "nas.gpu0")); err == nil || !strings.Contains(err.Error(), "a process of node nas is called nas.gpu0") {
		t.Errorf("a machine takes the process's name: %v", err)
	}
	if gw, _ := h.admit(t, pki.Gateway, "gw"); gw != nil {
		if _, err := gw.Vouch(ctx, "gw.gpu0", nil); err == nil {
			t.Error("a gateway vouches for a process")
		}
	}
	if _, _, err := h.Revoke("bad"); err != nil {
		t.Fatal(err)
	}
	n := <-news
	if err := n.Apply(child); err != nil || !child.Denied(bad.Fingerprint()) || child.Denied(parent.Fingerprint()) {
		t.Errorf("it hears of who is shut out: %v, %v", n, err)
	}
	h.clock.move(17 * time.Hour)
	for n = <-news; len(n.Certificate) == 0; n = <-news {
	}
	if err := n.Apply(child); err != nil || !bytes.Equal(child.Certificate(), n.Certificate) {
		t.Errorf("a newer certificate: %v", err)
	}
	if _, _, err := h.Revoke("nas"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "its process is shut out", func() bool { return h.identity.Denied(child.Fingerprint()) })
}
