package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
	"go.uber.org/goleak"

	"github.com/shoal-llm/shoal/internal/pki"
)

func TestMain(m *testing.M) {
	// A shutdown of the library does not wait for a probe in flight, which
	// ends by its own timeout.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/hashicorp/memberlist.(*Memberlist).probeNode"))
}

var key = [32]byte{1, 2, 3}

func facts() Meta {
	return Meta{
		Roles:       []pki.Role{pki.Shard},
		GRPCAddr:    "127.0.0.1:7700",
		Fingerprint: strings.Repeat("ab", 32),
		Version:     "0.1.0",
		Devices:     []Device{{Backend: "cpu", Name: "Ryzen", UsableBytes: 8 << 30}},
	}
}

func loopback(id string, seeds ...string) Config {
	return Config{
		NodeID: id, Bind: "127.0.0.1:0", Seeds: seeds, ClusterID: "c1", GossipKey: key,
		Meta: facts(), Preset: Local,
	}
}

// start runs a node until the test ends; the returned function stops it.
func start(t *testing.T, config Config) (*Cluster, context.CancelFunc) {
	t.Helper()
	c, err := New(config, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := c.Run(ctx); err != nil {
			t.Errorf("node %s: %v", config.NodeID, err)
		}
	})
	stop := func() { cancel(); running.Wait() }
	t.Cleanup(stop)
	return c, stop
}

// await reads the members of c whenever they change until ok holds.
func await(t *testing.T, c *Cluster, what string, ok func([]Member) bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for !ok(c.Members()) {
		select {
		case <-c.Changed():
		case <-deadline:
			t.Fatalf("%s never saw %s; it sees %v", c.config.NodeID, what, names(c.Members()))
		}
	}
}

func awaitRefusal(t *testing.T, c *Cluster, want Refusal) {
	t.Helper()
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for deadline := time.After(30 * time.Second); !slices.Contains(c.Refused(), want); {
		select {
		case <-poll.C:
		case <-deadline:
			t.Fatalf("%s refused %v, want %v", c.config.NodeID, c.Refused(), want)
		}
	}
}

func names(members []Member) []string {
	var ids []string
	for _, m := range members {
		ids = append(ids, m.NodeID)
	}
	return ids
}

func sees(ids ...string) func([]Member) bool {
	return func(m []Member) bool { return slices.Equal(names(m), ids) }
}

func TestNodesFindEachOther(t *testing.T) {
	t.Parallel()
	a, _ := start(t, loopback("a"))
	b, leaveB := start(t, loopback("b", a.Addr()))
	c, _ := start(t, loopback("c", "127.0.0.1:1", a.Addr())) // the first seed does not answer
	for _, n := range []*Cluster{a, b, c} {
		await(t, n, "all three", sees("a", "b", "c"))
	}
	got := b.Members()[2]
	if got.Addr != c.Addr() || got.Meta.GRPCAddr != "127.0.0.1:7700" || got.Meta.Fingerprint != facts().Fingerprint ||
		!slices.Equal(got.Meta.Roles, []pki.Role{pki.Shard}) || got.Meta.Devices[0] != facts().Devices[0] {
		t.Errorf("b sees c as %+v", got)
	}

	news := facts()
	news.Version = "0.2.0"
	if err := c.SetMeta(news); err != nil {
		t.Fatal(err)
	}
	for _, n := range []*Cluster{a, b, c} {
		await(t, n, "the new facts of c", func(m []Member) bool { return m[2].Meta.Version == "0.2.0" })
	}

	leaveB()
	await(t, a, "b leave", sees("a", "c"))
	await(t, c, "b leave", sees("a", "c"))
}

func TestDeathIsNoticedAndTheNameFreed(t *testing.T) {
	t.Parallel()
	a, _ := start(t, loopback("a"))
	b, _ := start(t, loopback("b", a.Addr()))
	c, _ := start(t, loopback("c", a.Addr()))
	await(t, a, "all three", sees("a", "b", "c"))
	await(t, b, "all three", sees("a", "b", "c"))
	c.Close()
	await(t, a, "the death of c", sees("a", "b"))
	await(t, b, "the death of c", sees("a", "b"))
}

func TestOtherKeysAndLabelsStayApart(t *testing.T) {
	t.Parallel()
	a, _ := start(t, loopback("a"))
	other := loopback("b")
	other.GossipKey[0]++
	label := loopback("c")
	label.ClusterID = "c2"
	for _, config := range []Config{other, label} {
		config.Seeds = []string{a.Addr()}
		b, err := New(config, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		if err := b.join(t.Context()); err == nil {
			t.Errorf("%s joined", config.NodeID)
		}
		if !sees("a")(a.Members()) || !sees(config.NodeID)(b.Members()) {
			t.Errorf("a sees %v, %s sees %v", names(a.Members()), config.NodeID, names(b.Members()))
		}
	}
}

func TestNodeJoinsWhenItsSeedArrives(t *testing.T) {
	t.Parallel()
	late := loopback("late")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	late.Bind = l.Addr().String()
	early, _ := start(t, loopback("early", late.Bind))
	l.Close()
	start(t, late)
	await(t, early, "its seed", sees("early", "late"))
}

func TestANameIsNotTakenOver(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ print, reason string }{
		"another machine":  {strings.Repeat("cd", 32), "its name belongs to the node at %s"},
		"a copied machine": {facts().Fingerprint, "it has the identity of the node at %s: was its state directory copied? Have it join with a token of its own"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, _ := start(t, loopback("a"))
			b, _ := start(t, loopback("b", a.Addr()))
			await(t, a, "b", sees("a", "b"))
			config := loopback("b", a.Addr())
			config.Meta.Fingerprint = c.print
			impostor, err := New(config, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			defer impostor.Close()
			if err := impostor.join(t.Context()); err != nil {
				t.Fatal(err)
			}
			want := Refusal{NodeID: "b", Addr: impostor.Addr(), Reason: fmt.Sprintf(c.reason, b.Addr())}
			awaitRefusal(t, a, want) // a learns of the impostor after it has answered it
			if m := a.Members(); !sees("a", "b")(m) || m[1].Addr != b.Addr() {
				t.Errorf("a sees %v", m)
			}
		})
	}
}

// TestKeysAreReplacedWhileNodesTalk: at no point of a rotation that adds, uses and
// drops is there a pair of nodes that do not understand each other; a node that
// was not told is out once the old key is dropped, and one with the new key alone
// is in.
func TestKeysAreReplacedWhileNodesTalk(t *testing.T) {
	t.Parallel()
	old, fresh := key, [32]byte{9}
	a, _ := start(t, loopback("a"))
	b, _ := start(t, loopback("b", a.Addr()))
	await(t, a, "b", sees("a", "b"))
	await(t, b, "a", sees("a", "b"))
	talk := func(when string) { // each way, through the encryption of the moment
		t.Helper()
		for _, pair := range [][2]*Cluster{{a, b}, {b, a}} {
			if _, err := pair[0].list.Join([]string{pair[1].Addr()}); err != nil {
				t.Errorf("%s: %s does not understand %s: %v", when, pair[0].config.NodeID, pair[1].config.NodeID, err)
			}
		}
	}
	set := func(c *Cluster, keys ...[32]byte) {
		t.Helper()
		if err := c.SetKeys(keys); err != nil {
			t.Fatal(err)
		}
	}
	talk("before")
	for _, step := range []struct {
		what string
		keys [][32]byte
	}{{"adding", [][32]byte{old, fresh}}, {"using", [][32]byte{fresh, old}}, {"dropping", [][32]byte{fresh}}} {
		for _, c := range []*Cluster{a, b} {
			set(c, step.keys...)
			talk(step.what + " at " + c.config.NodeID)
		}
	}
	if a.Keys() != 1 || b.Keys() != 1 {
		t.Errorf("%d and %d keys are left", a.Keys(), b.Keys())
	}
	late := loopback("late", a.Addr())
	untold, err := New(late, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer untold.Close()
	if err := untold.join(t.Context()); err == nil {
		t.Error("a node with the old key alone is understood")
	}
	for _, bad := range [][][32]byte{nil, {{}}} {
		if a.SetKeys(bad) == nil {
			t.Errorf("keys %v are taken", bad)
		}
	}
}

func TestSeedsMayBecomeKnownLater(t *testing.T) {
	t.Parallel()
	a, _ := start(t, loopback("a"))
	b, _ := start(t, loopback("b"))
	b.Seek([]string{"127.0.0.1:1", a.Addr()})
	await(t, b, "a", sees("a", "b"))
	if got := b.Seeds(); !slices.Contains(got, a.Addr()) || got[0] != b.Addr() {
		t.Errorf("b offers %v to others", got)
	}
}

// rawNode joins with facts of its own making.
func rawNode(t *testing.T, name string, meta []byte) *memberlist.Memberlist {
	t.Helper()
	config := loopback(name)
	options, err := config.memberlist(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	options.Delegate = newMembership(name, meta)
	list, err := memberlist.Create(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { list.Shutdown() })
	return list
}

func TestJunkIsNotAdmitted(t *testing.T) {
	t.Parallel()
	log := make(lines, 64)
	c, err := New(loopback("a"), slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	other, err := facts().encode("other")
	if err != nil {
		t.Fatal(err)
	}
	for name, meta := range map[string][]byte{
		"junk":  slices.Repeat([]byte{0xff}, MaxMetaBytes),
		"empty": nil,
		"liar":  other,
		"x/y":   other,
	} {
		if _, err := rawNode(t, name, meta).Join([]string{c.Addr()}); err != nil {
			t.Fatal(err)
		}
		log.await(t, "peer="+name)
	}
	good, _ := start(t, loopback("good", c.Addr()))
	await(t, good, "a", sees("a", "good"))
	await(t, c, "good", sees("a", "good"))
	refused := map[string]bool{}
	for _, r := range c.Refused() {
		refused[r.NodeID] = true
	}
	for _, name := range []string{"junk", "empty", "liar", "x/y"} {
		if !refused[name] {
			t.Errorf("%s is not among the refused: %v", name, c.Refused())
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestRefusalsAreReportedOnce(t *testing.T) {
	m := newMembership("self", nil)
	junk := &memberlist.Node{Name: "junk", Addr: net.IPv4(127, 0, 0, 1), Port: 7}
	for _, c := range []struct {
		reason string
		fresh  int
	}{{"junk", 1}, {"junk", 0}, {"other junk", 1}, {"junk", 0}} {
		m.refuse(junk, c.reason)
		if got := m.unreported(); len(got) != c.fresh {
			t.Errorf("reports %v, want %d", got, c.fresh)
		}
	}
	raw, err := facts().encode("junk")
	if err != nil {
		t.Fatal(err)
	}
	m.NotifyJoin(&memberlist.Node{Name: "junk", Addr: junk.Addr, Port: junk.Port, Meta: raw})
	if len(m.refusals()) != 0 || len(m.list()) != 1 {
		t.Errorf("after it is admitted: refused %v, members %v", m.refusals(), m.list())
	}
}

func TestNewRefusesByName(t *testing.T) {
	t.Parallel()
	taken, err := New(loopback("a"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for want, change := range map[string]func(*Config){
		"node id":            func(c *Config) { c.NodeID = "a b" },
		"cluster id":         func(c *Config) { c.ClusterID = "" },
		"gossip key":         func(c *Config) { c.GossipKey = [32]byte{} },
		`seed "x"`:           func(c *Config) { c.Seeds = []string{"x"} },
		"no role":            func(c *Config) { c.Meta.Roles = nil },
		"reaches nobody":     func(c *Config) { c.Meta.GRPCAddr = "0.0.0.0:7700" },
		"has no port":        func(c *Config) { c.Meta.GRPCAddr = "h:0" },
		"want 64":            func(c *Config) { c.Meta.Fingerprint = "ab" },
		"is in use":          func(c *Config) { c.Bind = taken.Addr() },
		"gossip address":     func(c *Config) { c.Bind = "nonsense" },
		"want an IP address": func(c *Config) { c.Advertise = "nas.local" },
		"do not fit":         func(c *Config) { c.Meta.Version = strings.Repeat("v", 500) },
		"has a port, but":    func(c *Config) { c.Advertise = "10.1.2.3:7946" },
		"this machine":       func(c *Config) { c.Advertise = "10.1.2.3" },
	} {
		config := loopback("b")
		change(&config)
		c, err := New(config, slog.New(slog.DiscardHandler))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one that says %q", err, want)
		}
		if err == nil {
			c.Close()
		}
	}
}

func TestAdvertisedAddress(t *testing.T) {
	t.Parallel()
	config := loopback("a")
	config.Meta.GRPCAddr = "10.1.2.3:7700"
	config.Advertise = "10.1.2.3"
	c, err := New(config, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	host, port, err := net.SplitHostPort(c.Addr())
	if err != nil || host != "10.1.2.3" || port == "0" {
		t.Errorf("Addr = %s, want 10.1.2.3 and the port that was taken", c.Addr())
	}
}

// lines is a log that a test waits for. It loses lines when it is full.
type lines chan string

func (l lines) Write(p []byte) (int, error) {
	select {
	case l <- string(p):
	default:
	}
	return len(p), nil
}

func (l lines) await(t *testing.T, part string) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		select {
		case line := <-l:
			if strings.Contains(line, part) {
				return
			}
		case <-deadline:
			t.Fatalf("the log never says %q", part)
		}
	}
}

func TestMembersAreBounded(t *testing.T) {
	m := newMembership("self", nil)
	node := func(i int) *memberlist.Node {
		name := fmt.Sprintf("n%d", i)
		raw, err := facts().encode(name)
		if err != nil {
			t.Fatal(err)
		}
		return &memberlist.Node{Name: name, Addr: net.IPv4(127, 0, 0, 1), Port: 1, Meta: raw}
	}
	for i := range maxMembers + maxRefusals + 10 {
		if n := node(i); m.NotifyAlive(n) == nil {
			m.NotifyJoin(n)
		}
	}
	if len(m.list()) != maxMembers || len(m.refusals()) != maxRefusals {
		t.Errorf("%d members, %d refusals", len(m.list()), len(m.refusals()))
	}
	if err := m.NotifyAlive(node(0)); err != nil {
		t.Errorf("a known member is refused in a full cluster: %v", err)
	}
}
