// Package lan finds clusters on the local network by multicast DNS (RFC 6762), as
// hashicorp/mdns implements it, which is imported only here.
//
// What is announced is the id of a cluster and where its coordinator is reached,
// and nothing else: no name, no secret. Whoever answers may lie, so what is found
// is a hint: a join verifies the authority's hash of its token, and gossip needs
// its key. Only IPv4 is spoken.
package lan

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"time"

	"github.com/hashicorp/mdns"
)

// service names clusters among what is on a network.
const service = "_shoal._tcp"

// Place is where a cluster is reached.
type Place struct {
	Cluster string // its id
	Gossip  string // IP:port
	Join    string // IP:port of the JoinService; empty: it takes nobody in
}

// Keys of the text record.
const (
	keyCluster = "cluster="
	keyGossip  = "gossip="
	keyJoin    = "join="
)

// clusterIDs are what cluster ids may be made of: also trust domains.
var clusterIDs = regexp.MustCompile(`^[a-z0-9._-]{1,200}$`)

// check refuses a place that nobody could use.
func (p Place) check() error {
	if !clusterIDs.MatchString(p.Cluster) {
		return fmt.Errorf("cluster id %q", p.Cluster)
	}
	addrs := []string{p.Gossip}
	if p.Join != "" {
		addrs = append(addrs, p.Join)
	}
	for _, addr := range addrs {
		a, err := netip.ParseAddrPort(addr)
		if err != nil || a.Port() == 0 || a.Addr().IsUnspecified() || a.Addr().IsMulticast() {
			return fmt.Errorf("address %q", addr)
		}
	}
	return nil
}

func (p Place) text() []string {
	out := []string{keyCluster + p.Cluster, keyGossip + p.Gossip}
	if p.Join != "" {
		out = append(out, keyJoin+p.Join)
	}
	return out
}

// parse reads what somebody announces.
func parse(fields []string) (Place, error) {
	var p Place
	for _, f := range fields {
		for key, to := range map[string]*string{keyCluster: &p.Cluster, keyGossip: &p.Gossip, keyJoin: &p.Join} {
			if v, ok := strings.CutPrefix(f, key); ok {
				*to = v
			}
		}
	}
	return p, p.check()
}

// Announce answers who asks for clusters, on the network of the address ip, until
// ctx ends. It is an error if that cannot be done.
func Announce(ctx context.Context, ip string, p Place, log *slog.Logger) error {
	if err := p.check(); err != nil {
		return fmt.Errorf("announce the cluster on the network: %w", err)
	}
	device, err := interfaceOf(ip)
	if err != nil {
		return err
	}
	at := netip.MustParseAddrPort(p.Gossip) // checked
	sum := sha256.Sum256([]byte(p.Cluster + " " + p.Gossip))
	name := hex.EncodeToString(sum[:8]) // says nothing about the machine
	zone, err := mdns.NewMDNSService(name, service, "", name+".local.", int(at.Port()), []net.IP{at.Addr().AsSlice()}, p.text())
	if err != nil {
		return fmt.Errorf("announce the cluster on the network: %w", err)
	}
	s, err := mdns.NewServer(&mdns.Config{Zone: zone, Iface: device, Logger: slog.NewLogLogger(log.Handler(), slog.LevelDebug)})
	if err != nil {
		return fmt.Errorf("announce the cluster on the network: %w", err)
	}
	<-ctx.Done()
	return s.Shutdown()
}

// maxFound bounds what one question takes in.
const maxFound = 64

// Find asks the network of the address ip once, and returns the places that answer
// within patience. An empty cluster finds all.
func Find(ctx context.Context, ip, cluster string, patience time.Duration, log *slog.Logger) ([]Place, error) {
	device, err := interfaceOf(ip)
	if err != nil {
		return nil, err
	}
	entries := make(chan *mdns.ServiceEntry, maxFound)
	err = mdns.QueryContext(ctx, &mdns.QueryParam{
		Service: service, Timeout: patience, Interface: device, Entries: entries, DisableIPv6: true, WantUnicastResponse: true,
		Logger: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	})
	if err != nil {
		return nil, fmt.Errorf("look for clusters on the network: %w", err)
	}
	var out []Place
	for {
		select {
		case e := <-entries:
			p, err := parse(e.InfoFields)
			if err == nil && strings.Contains(e.Name, service) && (cluster == "" || p.Cluster == cluster) {
				out = append(out, p)
			}
		default:
			return out, nil
		}
	}
}

// interfaceOf finds the network interface that has an address.
func interfaceOf(ip string) (*net.Interface, error) {
	want := net.ParseIP(ip)
	all, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("look at the network: %w", err)
	}
	for i := range all {
		addrs, err := all[i].Addrs()
		if err != nil {
			continue
		}
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok && n.IP.Equal(want) {
				return &all[i], nil
			}
		}
	}
	return nil, fmt.Errorf("no network interface of this machine has the address %s", ip)
}
