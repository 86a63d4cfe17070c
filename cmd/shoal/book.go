package main

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/spf13/cobra"

	"github.com/shoal-llm/shoal/internal/cluster"
	"github.com/shoal-llm/shoal/internal/pki"
	"github.com/shoal-llm/shoal/services/coordinator/registry"
)

// book is a coordinator's book of identities, if it holds the authority.
type book struct {
	registry *registry.Registry // nil: it does not
	listener net.Listener       // where machines join; nil: nobody does
	addr     string             // of listener, as machines reach it
}

// openBook opens the book of a coordinator that holds the authority, and the
// listener where machines join.
func (n *node) openBook(c *cobra.Command, o coordinatorOptions, opts nodeOptions) (*book, error) {
	b := &book{}
	if n.identity.Authority() == nil || n.belongs.secret != nil {
		if onCommandLine(c.Flags().Lookup("join-addr")) && o.join != "" {
			return nil, errors.New("--join-addr has no effect: this coordinator holds no authority, so it takes no machines in by tokens")
		}
		return b, nil
	}
	if o.join != "" {
		l, err := net.Listen("tcp", o.join)
		if err != nil {
			return nil, portError("--join-addr", o.join, err)
		}
		_, port, err := net.SplitHostPort(l.Addr().String())
		if err != nil {
			return nil, err
		}
		b.listener, b.addr = l, net.JoinHostPort(n.ip, port)
	}
	var err error
	b.registry, err = registry.Open(registry.Options{
		Dir: opts.identity.dir, Authority: n.identity.Authority(), Identity: n.identity,
		Address: n.grpcAddr(), Join: b.addr, Log: n.log,
	})
	if err != nil {
		return nil, err
	}
	n.belongs.keys = b.registry.GossipKeys()
	n.log.Info("this coordinator holds the cluster's authority", "cluster", n.identity.ClusterID(), "in", opts.identity.dir, "join", b.addr)
	return b, nil
}

// attach has the coordinator's own gossip follow the book.
func (b *book) attach(members *cluster.Cluster) error {
	if b.registry == nil {
		return nil
	}
	return b.registry.Attach(members)
}

// run takes machines in until ctx ends.
func (b *book) run(ctx context.Context) error {
	if b.registry == nil {
		return nil
	}
	return b.registry.Run(ctx, b.listener)
}

// roleNames lists the roles for help texts.
func roleNames() (out string) {
	for i, r := range pki.AnyRole() {
		if i > 0 {
			out += ", "
		}
		out += string(r)
	}
	return out
}

// parseRole reads a role.
func parseRole(name string) (pki.Role, error) {
	for _, r := range pki.AnyRole() {
		if name == string(r) {
			return r, nil
		}
	}
	return "", fmt.Errorf("--role %q: want one of %s", name, roleNames())
}
