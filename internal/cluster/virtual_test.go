package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoal-llm/shoal/internal/pki"
)

// lossyNet is a network in memory. It delivers packets after a seeded delay or
// not at all, and carries streams by pipes. It never blocks a sender: a dead or
// busy receiver loses packets.
type lossyNet struct {
	loss float64 // share of packets that vanish

	mu  sync.Mutex
	rng *rand.Rand // guarded by mu
	end map[string]*lossyEnd
	cut map[string]bool // addresses that nothing reaches or leaves
}

func (n *lossyNet) listen(addr string) *lossyEnd {
	e := &lossyEnd{
		net: n, addr: net.TCPAddrFromAddrPort(netip.MustParseAddrPort(addr)),
		packets: make(chan *Packet, 256), streams: make(chan net.Conn, 16),
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.end[addr] = e
	return e
}

func (n *lossyNet) isolate(addr string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut[addr] = true
}

// route returns the far end and the delay, or nil when the packet is lost.
func (n *lossyNet) route(from, to string, loss float64) (*lossyEnd, time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cut[from] || n.cut[to] || n.rng.Float64() < loss {
		return nil, 0
	}
	return n.end[to], time.Duration(1+n.rng.IntN(20)) * time.Millisecond
}

// lossyEnd is one node's Transport.
type lossyEnd struct {
	net     *lossyNet
	addr    *net.TCPAddr
	packets chan *Packet
	streams chan net.Conn
	gone    bool // guarded by net.mu
}

func (e *lossyEnd) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return e.addr.IP, e.addr.Port, nil
}

func (e *lossyEnd) WriteTo(b []byte, to string) (time.Time, error) {
	now := time.Now()
	far, delay := e.net.route(e.addr.String(), to, e.net.loss)
	if far == nil {
		return now, nil
	}
	b = append([]byte(nil), b...)
	time.AfterFunc(delay, func() {
		select {
		case far.packets <- &Packet{Buf: b, From: e.addr, Timestamp: time.Now()}:
		default:
		}
	})
	return now, nil
}

func (e *lossyEnd) DialTimeout(to string, limit time.Duration) (net.Conn, error) {
	far, delay := e.net.route(e.addr.String(), to, 0)
	if far == nil {
		time.Sleep(limit)
		return nil, fmt.Errorf("dial %s: timeout", to)
	}
	time.Sleep(delay)
	near, other := net.Pipe()
	e.net.mu.Lock()
	defer e.net.mu.Unlock()
	if !far.gone {
		select {
		case far.streams <- other:
			return near, nil
		default:
		}
	}
	return nil, fmt.Errorf("dial %s: refused", to)
}

// Shutdown refuses further streams and ends those that nobody has accepted: a
// pipe has no buffer, so their senders would wait for ever.
func (e *lossyEnd) Shutdown() error {
	e.net.mu.Lock()
	defer e.net.mu.Unlock()
	e.gone = true
	for {
		select {
		case c := <-e.streams:
			c.Close()
		default:
			return nil
		}
	}
}

func (e *lossyEnd) PacketCh() <-chan *Packet  { return e.packets }
func (e *lossyEnd) StreamCh() <-chan net.Conn { return e.streams }

// Five nodes over a network that loses a fifth of its packets: all find each
// other; one is cut off, and the others see it go within the bounds that the
// LAN intervals allow, while none of them is taken for dead for good.
func TestLossyNetworkInVirtualTime(t *testing.T) {
	for seed := range uint64(5) {
		synctest.Test(t, func(t *testing.T) { lossyRun(t, seed) })
	}
}

func lossyRun(t *testing.T, seed uint64) {
	network := &lossyNet{
		loss: 0.2, rng: rand.New(rand.NewPCG(seed, 1)),
		end: map[string]*lossyEnd{}, cut: map[string]bool{},
	}
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	var nodes []*Cluster
	for i := range 5 {
		addr := fmt.Sprintf("10.0.0.%d:7946", i+1)
		c, err := New(Config{
			NodeID: fmt.Sprintf("n%d", i+1), Seeds: []string{"10.0.0.1:7946"}, ClusterID: "c1", GossipKey: key,
			Meta:      Meta{Roles: []pki.Role{pki.Shard}, GRPCAddr: addr, Fingerprint: facts().Fingerprint},
			Transport: network.listen(addr),
		}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		nodes = append(nodes, c)
		running.Go(func() { c.Run(ctx) })
	}
	all := func(nodes []*Cluster, ids ...string) func() bool {
		return func() bool {
			for _, c := range nodes {
				if !sees(ids...)(c.Members()) {
					return false
				}
			}
			return true
		}
	}
	if took := within(time.Minute, all(nodes, "n1", "n2", "n3", "n4", "n5")); took < 0 {
		t.Errorf("seed %d: five nodes do not find each other in a minute", seed)
	}
	network.isolate("10.0.0.3:7946")
	rest := []*Cluster{nodes[0], nodes[1], nodes[3], nodes[4]}
	if took := within(time.Minute, all(rest, "n1", "n2", "n4", "n5")); took < 0 {
		t.Errorf("seed %d: a cut node is not noticed in a minute", seed)
	} else if took < time.Second {
		t.Errorf("seed %d: a cut node is dead after %v, without being suspected first", seed, took)
	}
	stop()
	running.Wait()
	time.Sleep(time.Minute) // virtual: timeouts of what was in flight
}

// within asks ok every 100 ms of virtual time and returns how long it took, or
// -1 when the limit is over.
func within(limit time.Duration, ok func() bool) time.Duration {
	for start := time.Now(); time.Since(start) < limit; time.Sleep(100 * time.Millisecond) {
		if ok() {
			return time.Since(start)
		}
	}
	return -1
}
