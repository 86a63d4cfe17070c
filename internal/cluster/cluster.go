// Package cluster finds the nodes of a cluster by gossip (SWIM, as
// hashicorp/memberlist implements it, which is imported only here).
//
// Gossip is a hint. A member is a node that somebody who holds the gossip key
// has heard of lately; whether it is there, and is who it says, the mutual TLS
// handshake of a connection decides. That a member disappears is a hint too,
// and never a reason to break a connection that works.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// How often the seeds are asked: quickly while the node is alone, then at
// leisure, which heals a cluster that fell apart.
const (
	firstRetry = 250 * time.Millisecond
	maxRetry   = 5 * time.Second
	rejoin     = 5 * time.Second
)

// Cluster is this node's part in the gossip. Its methods may be called from any
// goroutine.
type Cluster struct {
	config  Config
	log     *slog.Logger
	list    *memberlist.Memberlist
	members *membership
	keys    *memberlist.Keyring
	addr    string
	sought  seeds
	updated chan struct{} // capacity 1: our meta changed
	closed  chan struct{}

	stop    sync.Mutex // held while leaving or shutting down
	stopped bool       // guarded by stop
}

// New binds the gossip port and answers others; Run joins the seeds. Either Run
// or Close must be called, to free the port.
func New(config Config, log *slog.Logger) (*Cluster, error) {
	if err := config.check(); err != nil {
		return nil, fmt.Errorf("gossip: %w", err)
	}
	meta, err := config.Meta.encode(config.NodeID)
	if err != nil {
		return nil, fmt.Errorf("gossip: describe node %s: %w", config.NodeID, err)
	}
	options, err := config.memberlist(log)
	if err != nil {
		return nil, err
	}
	members := newMembership(config.NodeID, meta)
	options.Delegate, options.Events = members, members
	options.Alive, options.Conflict = members, members
	list, err := memberlist.Create(options)
	if err != nil {
		return nil, bindError(config.Bind, err)
	}
	c := &Cluster{
		config: config, log: log, list: list, members: members, keys: options.Keyring,
		addr:    list.LocalNode().Address(),
		updated: make(chan struct{}, 1),
		closed:  make(chan struct{}),
		sought:  seeds{first: make(chan struct{})},
	}
	// Our own facts go through the same checks as those of others.
	if refusals := members.refusals(); len(refusals) > 0 {
		c.Close()
		return nil, fmt.Errorf("gossip: describe node %s: %s", config.NodeID, refusals[0].Reason)
	}
	return c, nil
}

// bindError says in one sentence what a person can do about a port.
func bindError(bind string, err error) error {
	text := err.Error()
	if strings.Contains(text, "address already in use") {
		return fmt.Errorf("gossip address %s is in use: stop the other program or choose another port", bind)
	}
	if strings.Contains(text, "no private IP address") {
		return fmt.Errorf("gossip address %s: this machine has no private address: say by which one others reach it (advertise)", bind)
	}
	return fmt.Errorf("gossip address %s: %w", bind, err)
}

// Addr is the address that this node advertises, with the real port when Bind
// asked for port 0.
func (c *Cluster) Addr() string { return c.addr }

// Members returns a snapshot of the nodes that gossip believes to be there,
// this node among them, sorted by node id.
func (c *Cluster) Members() []Member { return c.members.list() }

// Refused returns the nodes that were not admitted, and why; at most 256.
func (c *Cluster) Refused() []Refusal { return c.members.refusals() }

// Changed receives after the members have changed since the last receive. It
// has one reader, which then reads Members.
func (c *Cluster) Changed() <-chan struct{} { return c.members.changed }

// SetMeta changes what others are told of this node. Run spreads it; a call
// before the last one was spread replaces it.
func (c *Cluster) SetMeta(meta Meta) error {
	raw, err := meta.encode(c.config.NodeID)
	if err != nil {
		return fmt.Errorf("gossip: describe node %s: %w", c.config.NodeID, err)
	}
	c.members.setMeta(raw)
	set(c.updated)
	return nil
}

// Run takes part in the gossip until ctx ends: it joins the seeds, again and
// again while none answers, and reports who was refused. At the end it says
// good-bye (for at most two seconds) and frees the port. It also returns after
// Close.
func (c *Cluster) Run(ctx context.Context) error {
	joinCtx, cancel := context.WithCancel(ctx)
	var joiner sync.WaitGroup
	joiner.Go(func() { c.keepJoined(joinCtx) })
	defer func() {
		cancel()
		joiner.Wait()
		c.Close()
	}()
	for {
		select {
		case <-ctx.Done():
			c.leave()
			return nil
		case <-c.closed:
			return nil
		case <-c.updated:
			c.spreadMeta()
		case <-c.members.news:
			for _, r := range c.members.unreported() {
				c.log.Warn("node not admitted", "peer", r.NodeID, "addr", r.Addr, "reason", r.Reason)
			}
		}
	}
}

// Close stops without a good-bye: the others notice it as a death.
func (c *Cluster) Close() {
	c.stop.Lock()
	defer c.stop.Unlock()
	if c.stopped {
		return
	}
	c.stopped = true
	close(c.closed)
	if err := c.list.Shutdown(); err != nil {
		c.log.Warn("gossip did not shut down", "err", err)
	}
}

func (c *Cluster) leave() {
	c.stop.Lock()
	defer c.stop.Unlock()
	if c.stopped { // the library does not allow leaving after a shutdown
		return
	}
	if err := c.list.Leave(leaveTimeout); err != nil {
		c.log.Debug("nobody heard the good-bye", "err", err)
	}
}

func (c *Cluster) spreadMeta() {
	// An error says that no packet has left yet; the update stays queued.
	if err := c.list.UpdateNode(time.Second); err != nil {
		c.log.Debug("node facts not spread yet", "err", err)
	}
}

// Seek has the node join by more seeds, host:port, as they become known. Few are
// kept: the last ones. The ones of the configuration stay.
func (c *Cluster) Seek(addrs []string) { c.sought.add(addrs) }

// keepJoined asks the seeds until ctx ends.
func (c *Cluster) keepJoined(ctx context.Context) {
	if len(c.config.Seeds) == 0 {
		select {
		case <-c.sought.first:
		case <-ctx.Done():
			return
		case <-c.closed:
			return
		}
	}
	wait := firstRetry
	told := -1 // the last state that was logged: 0 alone, 1 joined
	for ctx.Err() == nil {
		err := c.join(ctx)
		others := len(c.Members()) - 1
		switch {
		case ctx.Err() != nil:
			return
		case others > 0 && told != 1:
			c.log.Info("joined the cluster", "others", others)
			told, wait = 1, rejoin
		case others == 0 && told != 0:
			c.log.Info("no other node answers yet: asking on", "seeds", c.seeds(), "err", err)
			told, wait = 0, firstRetry
		case others == 0:
			wait = min(2*wait, maxRetry)
		}
		select {
		case <-ctx.Done():
		case <-c.closed:
			return
		case <-time.After(wait):
		}
	}
}

// join asks each seed once. The error tells of the seeds that did not answer.
func (c *Cluster) join(ctx context.Context) error {
	var errs []error
	for _, seed := range c.seeds() {
		if ctx.Err() != nil {
			break
		}
		if _, err := c.list.Join([]string{seed}); err != nil {
			errs = append(errs, fmt.Errorf("seed %s: %w", seed, err))
		}
	}
	return errors.Join(errs...)
}
