package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/shoal-llm/shoal/internal/enrol"
	"github.com/shoal-llm/shoal/internal/pki"
)

// joinOptions are the flags of `shoal join`.
type joinOptions struct {
	node    nodeOptions
	shard   shardOptions
	gateway gatewayOptions

	ofShard, ofGateway *pflag.FlagSet // the flags of one role alone
}

func newJoin() *cobra.Command {
	var o joinOptions
	c := &cobra.Command{
		Use:   "join TOKEN[@COORDINATOR]",
		Short: "Join a cluster with a token, and start as the node that it makes of this machine",
		Long: `Join a cluster with a token that ` + "`shoal token`" + ` has printed, and start in the token's
role. COORDINATOR is the coordinator's host, or HOST:PORT of its --join-addr (port
` + enrol.DefaultJoinPort + ` unless given); without it the cluster is looked for on the local network.

First the coordinator proves that it belongs to the authority that the token names;
only then the token's secret is sent. The coordinator dials back, so that a firewall
in the way is told now and not later. This machine's key never leaves it. It and the
certificate are kept in --identity-dir, so after a restart ` + "`shoal shard`" + ` or
` + "`shoal gateway`" + ` will do; this command with the same token does it as well.

A coordinator or operator that joins is not started: the command says what to run.`,
		Example: `  shoal join SHOAL1-…@192.168.1.20
  shoal join SHOAL1-…                          # the cluster is on this network
  shoal join SHOAL1-…@head.example --advertise 203.0.113.7`,
		Args: exactArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return o.run(c, args[0]) },
	}
	f := c.Flags()
	f.StringVar(&o.node.id, "node-id", "", "name of this node in the cluster (default HOSTNAME-ROLE)")
	o.node.identity.dirFlag(f)
	o.node.addressFlags(f)
	o.ofShard, o.ofGateway = pflag.NewFlagSet("shard", pflag.ContinueOnError), pflag.NewFlagSet("gateway", pflag.ContinueOnError)
	o.ofShard.StringVar(&o.shard.models, "models", "", "folder of GGUF files")
	o.shard.flags(o.ofShard)
	o.gateway.flags(o.ofGateway)
	for _, own := range []*pflag.FlagSet{o.ofShard, o.ofGateway} {
		own.VisitAll(func(flag *pflag.Flag) { flag.Usage = "(" + own.Name() + ") " + flag.Usage })
		f.AddFlagSet(own)
	}
	return c
}

// run joins, and starts the node.
func (o *joinOptions) run(c *cobra.Command, text string) error {
	fail := func(err error) error { return usageError{c.CommandPath(), err} }
	token, addr, err := enrol.SplitAddress(text)
	if err != nil {
		return fail(err)
	}
	role := token.Role()
	if err := o.refuseOthers(c.Flags(), role); err != nil {
		return fail(err)
	}
	if err := o.gateway.complete(); err != nil {
		return fail(err)
	}
	if o.node.identity.dir == "" {
		return fail(errors.New("--identity-dir is needed: this system names no place for it"))
	}
	if err := o.enter(c, token, addr); err != nil {
		return err
	}
	switch role {
	case pki.Shard:
		return runShard(c, o.shard, o.node)
	case pki.Gateway:
		return runGateway(c, o.gateway, o.node)
	case pki.Coordinator:
		_, err = fmt.Fprintln(c.OutOrStdout(), "start it with `shoal coordinator`, with the flags of the one that is there")
	default:
		_, err = fmt.Fprintln(c.OutOrStdout(), "this machine may ask the cluster: try `shoal nodes`")
	}
	return err
}

// refuseOthers refuses flags that have no effect in a role.
func (o *joinOptions) refuseOthers(given *pflag.FlagSet, role pki.Role) (err error) {
	for _, own := range []*pflag.FlagSet{o.ofShard, o.ofGateway} {
		if own.Name() == string(role) {
			continue
		}
		own.VisitAll(func(f *pflag.Flag) {
			if onCommandLine(given.Lookup(f.Name)) {
				err = fmt.Errorf("--%s is a %s's: this token makes the machine a %s", f.Name, own.Name(), role)
			}
		})
	}
	return err
}

// enter makes this machine a member, unless it is one already.
func (o *joinOptions) enter(c *cobra.Command, token pki.Token, addr string) error {
	ctx, log, role := c.Context(), newLogger(c), token.Role()
	m, err := enrol.Load(o.node.identity.dir, role, nil)
	switch {
	case err == nil && m.ClusterID() == token.Pin.ClusterID():
		o.node.member = m
		_, err = fmt.Fprintf(c.OutOrStdout(), "  ✓ this machine is %s of cluster %s already; the token is still good\n", m.NodeID(), m.ClusterID())
		return err
	case err == nil:
		return fmt.Errorf("this machine is a %s of cluster %s already: for another cluster give another --identity-dir", role, m.ClusterID())
	case !errors.Is(err, enrol.ErrNone):
		log.Warn("what was kept of an earlier join cannot be used", "err", err)
	}
	if addr == "" {
		if o.node.discover == off {
			return usageError{c.CommandPath(), errors.New("with --discover=off the coordinator's address is needed: TOKEN@HOST")}
		}
	}
	j := enrol.Joining{Token: token, Dir: o.node.identity.dir, Node: o.node.id, Version: version}
	if j.Node == "" {
		if j.Node, err = usualName(role); err != nil {
			return err
		}
	}
	if role != pki.Operator {
		if err := o.listen(&j); err != nil {
			return err
		}
	}
	try := func(addr string) (err error) {
		j.Address = addr
		if role != pki.Operator {
			if err := o.addresses(ctx, &j); err != nil {
				return err
			}
		}
		m, err = enrol.Join(ctx, j)
		return err
	}
	if addr != "" {
		err = try(addr)
	} else {
		err = tryAround(ctx, token.Pin.ClusterID(), log, try)
	}
	if err != nil {
		if j.Listener != nil {
			err = errors.Join(err, j.Listener.Close())
		}
		return err
	}
	o.node.advertise = hostOf(j.Advertise)
	o.node.member, o.node.id = m, m.NodeID()
	if role == pki.Coordinator && j.Listener != nil { // it is started by another command
		if err := j.Listener.Close(); err != nil {
			return err
		}
	}
	expires, err := m.Expires()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.OutOrStdout(), "  ✓ joined cluster %s as %s (%s); certificate until %s, renewed by itself\n",
		m.ClusterID(), m.NodeID(), role, expires.Local().Format("2006-01-02 15:04"))
	return err
}

// listen opens the node's listener, at which the coordinator dials back.
func (o *joinOptions) listen(j *enrol.Joining) error {
	l, err := net.Listen("tcp", o.node.grpcAddr)
	if err != nil {
		return portError("--grpc-addr", o.node.grpcAddr, err)
	}
	tcp, ok := l.(*net.TCPListener)
	if !ok {
		return errors.Join(fmt.Errorf("--grpc-addr %s: want a TCP address", o.node.grpcAddr), l.Close())
	}
	o.node.listener, j.Listener, j.Keep = l, tcp, o.node.advertise
	return nil
}

// addresses finds the address that others reach this machine by, unless a person
// gave it: that of the way to the coordinator.
func (o *joinOptions) addresses(ctx context.Context, j *enrol.Joining) error {
	ip := j.Keep
	if ip == "" {
		ip = wayTo(ctx, j.Address, j.Listener.Addr())
	}
	_, port, err := net.SplitHostPort(j.Listener.Addr().String())
	if err != nil {
		return err
	}
	j.Advertise = net.JoinHostPort(ip, port)
	if j.Token.Role() == pki.Gateway {
		j.WebHosts = pki.WebHosts(o.gateway.webHosts(ip)...)
	}
	return nil
}

// hostOf is the host of HOST:PORT, or empty.
func hostOf(addr string) string {
	host, _, _ := net.SplitHostPort(addr)
	return host
}

// wayTo is the address of this machine on the way to addr. Nothing is sent.
func wayTo(ctx context.Context, addr string, listener net.Addr) string {
	if tcp, ok := listener.(*net.TCPAddr); ok && !tcp.IP.IsUnspecified() {
		return tcp.IP.String()
	}
	conn, err := new(net.Dialer).DialContext(ctx, "udp", addr)
	if err != nil {
		return reachableIP(listener)
	}
	defer conn.Close()
	host, _, err := net.SplitHostPort(conn.LocalAddr().String())
	if err != nil || slices.Contains([]string{"", "::"}, host) || strings.Contains(host, "%") {
		return reachableIP(listener)
	}
	return host
}
