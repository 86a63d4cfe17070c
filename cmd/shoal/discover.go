package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/shoal-llm/shoal/internal/cluster"
	"github.com/shoal-llm/shoal/internal/enrol"
	"github.com/shoal-llm/shoal/internal/lan"
)

// discoverAuto is the usual value of --discover.
const discoverAuto = "auto"

// Times of looking around.
const (
	lookFor   = time.Second      // one question
	lookEvery = 2 * time.Second  // while alone
	lookMost  = 60 * time.Second // of `shoal join` without an address
	lookTries = 64               // of addresses that it finds
)

// discovers reports whether a node speaks multicast DNS: never on loopback, and
// never where it was told addresses.
func (n *node) discovers(o nodeOptions) bool {
	ip := net.ParseIP(n.ip)
	return o.discover == discoverAuto && len(o.join) == 0 && ip != nil && ip.To4() != nil && !ip.IsLoopback()
}

// lookAround looks for the node's own cluster while it is alone.
func (n *node) lookAround(ctx context.Context, members *cluster.Cluster) error {
	told := false
	for {
		if len(members.Members()) == 1 {
			places, err := lan.Find(ctx, n.ip, n.identity.ClusterID(), lookFor, n.log)
			if err != nil && ctx.Err() == nil && !told {
				n.log.Warn("the local network cannot be searched for the cluster: give --join HOST:PORT", "err", err)
				told = true
			}
			var seeds []string
			for _, p := range places {
				if p.Gossip != members.Addr() {
					seeds = append(seeds, p.Gossip)
				}
			}
			members.Seek(seeds)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(lookEvery):
		}
	}
}

// announce tells the local network where the cluster is, until ctx ends.
func (n *node) announce(ctx context.Context, members *cluster.Cluster, join string) error {
	err := lan.Announce(ctx, n.ip, lan.Place{Cluster: n.identity.ClusterID(), Gossip: members.Addr(), Join: join}, n.log)
	if err != nil {
		n.log.Warn("the local network is not told of this cluster: others need its address", "err", err)
	}
	<-ctx.Done()
	return nil
}

// tryAround looks on the local network for coordinators that take machines into a
// cluster, and tries them until one is. Whoever answers may lie: what try finds to
// be elsewhere is passed over.
func tryAround(ctx context.Context, clusterID string, log *slog.Logger, try func(addr string) error) error {
	ips := ownIPs()
	if len(ips) == 0 {
		return errors.New("this machine is on no network: give the coordinator's address, TOKEN@HOST")
	}
	ctx, cancel := context.WithTimeout(ctx, lookMost)
	defer cancel()
	last := fmt.Errorf("nobody on the local network speaks for cluster %s", clusterID)
	tried := map[string]bool{}
	for ctx.Err() == nil {
		for _, ip := range ips {
			places, err := lan.Find(ctx, ip, clusterID, lookFor, log)
			if err != nil {
				last = err
			}
			for _, p := range places {
				if p.Join == "" || tried[p.Join] || len(tried) >= lookTries {
					continue
				}
				tried[p.Join] = true
				if last = try(p.Join); !errors.Is(last, enrol.ErrElsewhere) {
					return last
				}
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(lookFor / 4):
		}
	}
	return fmt.Errorf("%w: give the coordinator's address, TOKEN@HOST", last)
}

// ownIPs are the IPv4 addresses of this machine's networks.
func ownIPs() (out []string) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && !n.IP.IsLoopback() && !n.IP.IsLinkLocalUnicast() {
			out = append(out, n.IP.String())
		}
	}
	return out
}
