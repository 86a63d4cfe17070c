package cluster

import (
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/shoal-llm/shoal/internal/pki"
)

// Preset is a set of gossip intervals for a situation.
type Preset int

const (
	// LAN suits machines of one network: a dead node is noticed within some
	// ten seconds.
	LAN Preset = iota
	// Local suits nodes of one machine: a dead node is noticed within some
	// three seconds.
	Local
)

// Transport and Packet carry gossip. The default is UDP and TCP; simulations
// bring their own.
type (
	Transport = memberlist.Transport
	Packet    = memberlist.Packet
)

// Config says how a node takes part in gossip.
type Config struct {
	NodeID    string     // the node's name, as in its certificate
	Bind      string     // host:port for TCP and UDP; port 0 takes a free one
	Advertise string     // ip or ip:port that others reach it by; empty: from Bind
	Seeds     []string   // host:port of nodes to join by; a seed may be this node
	ClusterID string     // gossip of other clusters is ignored
	GossipKey [32]byte   // AES-256; nodes with another key are not understood
	MoreKeys  [][32]byte // understood too, while a key replaces another
	Meta      Meta       // what others are told of this node
	Preset    Preset

	Transport Transport // nil: UDP and TCP on Bind
}

// How long a name stays bound to the address of a dead node, and how long a
// leaving node waits for its good-bye to go out.
const (
	reclaimAfter = 10 * time.Second
	leaveTimeout = 2 * time.Second
)

// The version of what this package puts into gossip (NodeMeta). Nodes refuse to
// merge with nodes that do not share one.
const delegateProtocol = 1

// check reports the first setting that cannot work.
func (c Config) check() error {
	if err := pki.CheckNodeID(c.NodeID); err != nil {
		return err
	}
	if c.ClusterID == "" || len(c.ClusterID) > memberlist.LabelMaxSize {
		return fmt.Errorf("cluster id %q: want 1 to %d bytes", c.ClusterID, memberlist.LabelMaxSize)
	}
	if c.GossipKey == ([32]byte{}) {
		return errors.New("the gossip key is missing: gossip is always encrypted")
	}
	for _, seed := range c.Seeds {
		if _, port, err := net.SplitHostPort(seed); err != nil || port == "" {
			return fmt.Errorf("seed %q: want host:port", seed)
		}
	}
	return nil
}

// memberlist translates the configuration for the gossip library.
func (c Config) memberlist(log *slog.Logger) (*memberlist.Config, error) {
	keys, err := newKeyring(c.GossipKey, c.MoreKeys)
	if err != nil {
		return nil, err
	}
	m := memberlist.DefaultLANConfig()
	if c.Preset == Local {
		m = memberlist.DefaultLocalConfig()
		m.ProbeInterval = 500 * time.Millisecond
		m.ProbeTimeout = 300 * time.Millisecond
		m.SuspicionMult = 4
	} else {
		m.TCPTimeout = 3 * time.Second // bounds how long a stop waits for a join
	}
	m.Name = c.NodeID
	m.Label = c.ClusterID
	m.Keyring = keys
	m.GossipVerifyIncoming = true
	m.GossipVerifyOutgoing = true
	m.DeadNodeReclaimTime = reclaimAfter
	m.DelegateProtocolMin = delegateProtocol
	m.DelegateProtocolMax = delegateProtocol
	m.DelegateProtocolVersion = delegateProtocol
	m.Transport = c.Transport
	m.Logger = newGossipLog(log)
	if c.Transport != nil {
		return m, nil
	}
	return m, c.addresses(m)
}

// addresses fills in where to listen and what to advertise.
func (c Config) addresses(m *memberlist.Config) error {
	bind, err := net.ResolveTCPAddr("tcp", c.Bind)
	if err != nil {
		return fmt.Errorf("gossip address %q: %w", c.Bind, err)
	}
	m.BindPort, m.BindAddr = bind.Port, "0.0.0.0"
	if bind.IP != nil {
		m.BindAddr = bind.IP.String()
	}
	m.AdvertisePort = bind.Port
	if c.Advertise == "" {
		if bind.IP != nil && bind.IP.To4() == nil && bind.IP.IsUnspecified() {
			return fmt.Errorf("gossip address %q is every IPv6 address: say by which one others reach this node (advertise)", c.Bind)
		}
		return nil
	}
	addr, err := netip.ParseAddrPort(c.Advertise)
	if err != nil {
		ip, ipErr := netip.ParseAddr(c.Advertise)
		if ipErr != nil {
			return fmt.Errorf("advertised gossip address %q: want an IP address, with or without a port", c.Advertise)
		}
		addr = netip.AddrPortFrom(ip, uint16(bind.Port))
	}
	if addr.Addr().IsUnspecified() {
		return fmt.Errorf("advertised gossip address %q reaches nobody", c.Advertise)
	}
	m.AdvertiseAddr = addr.Addr().Unmap().String()
	if bind.Port == 0 && addr.Port() != 0 {
		return fmt.Errorf("advertised gossip address %q has a port, but %q takes any free one", c.Advertise, c.Bind)
	}
	if addr.Port() != 0 {
		m.AdvertisePort = int(addr.Port())
	}
	return nil
}

// newGossipLog sends the library's lines to log at debug level: gossip is a
// hint, and so is its log.
func newGossipLog(l *slog.Logger) *log.Logger {
	return slog.NewLogLogger(l.With("from", "gossip").Handler(), slog.LevelDebug)
}
