package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/shoal-llm/shoal/internal/cluster"
	"github.com/shoal-llm/shoal/internal/enrol"
	"github.com/shoal-llm/shoal/internal/pki"
	"github.com/shoal-llm/shoal/internal/telemetry"
	"github.com/shoal-llm/shoal/internal/telemetry/admin"
	"github.com/shoal-llm/shoal/internal/wire"
)

// nodeOptions are the flags that all roles share.
type nodeOptions struct {
	id         string
	identity   identityOptions
	grpcAddr   string
	gossipAddr string
	advertise  string
	adminAddr  string
	join       []string
	discover   string

	tel      *telemetry.Telemetry // of the process; nil: the node makes its own
	member   *enrol.Membership    // of a node that has just joined; nil: see identity
	listener net.Listener         // for other nodes, of a node that has just joined; nil: it is opened
}

func (o *nodeOptions) flags(f *pflag.FlagSet, role pki.Role) {
	f.StringVar(&o.id, "node-id", "", "name of this node in the cluster (default HOSTNAME-"+string(role)+")")
	o.identity.flags(f)
	o.addressFlags(f)
	f.StringSliceVar(&o.join, "join", nil, "gossip addresses of nodes to join by, HOST:PORT, comma-separated")
}

// addressFlags are those of a node's listeners, and how it finds others.
func (o *nodeOptions) addressFlags(f *pflag.FlagSet) {
	f.StringVar(&o.grpcAddr, "grpc-addr", ":7700", "address for other nodes, mutual TLS always")
	f.StringVar(&o.gossipAddr, "gossip-addr", ":7946", "address for gossip, TCP and UDP, always encrypted")
	f.StringVar(&o.advertise, "advertise", "", "IP address that other nodes reach this one by (default the first that is not loopback)")
	f.StringVar(&o.adminAddr, "admin-addr", admin.DefaultAddr, "address of metrics, health and profiles; keep it private")
	f.StringVar(&o.discover, "discover", discoverAuto, "auto: find the cluster on the local network by multicast DNS, where this node is not on loopback and no addresses are given; off")
}

// node is what every role stands on.
type node struct {
	log      *slog.Logger
	identity *pki.Identity
	belongs  *belonging
	listener net.Listener // node to node gRPC
	ip       string       // that others reach this node by
	tel      *telemetry.Telemetry
	stopTel  func(context.Context) error
}

// logLevel is the level that the flags ask for.
func logLevel(c *cobra.Command) slog.Level {
	level := slog.LevelWarn // commands that print what matters themselves
	switch c.Name() {
	case "coordinator", "shard", "gateway", "join":
		level = slog.LevelInfo
	}
	if name, _ := c.Flags().GetString("log-level"); name != "" {
		_ = level.UnmarshalText([]byte(name)) // checked with the settings
	}
	return level
}

// newLogger makes the logger that the flags ask for.
func newLogger(c *cobra.Command) *slog.Logger {
	level := logLevel(c)
	format, _ := c.Flags().GetString("log-format")
	w := c.ErrOrStderr()
	return telemetry.Logger(w, level, format == "json" || format == "auto" && !terminal(w))
}

// terminal reports whether w is a terminal.
func terminal(w any) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// newNode makes identity, listener and telemetry of a node.
func newNode(ctx context.Context, log *slog.Logger, o nodeOptions, role pki.Role) (*node, error) {
	if o.discover != "" && o.discover != discoverAuto && o.discover != off {
		return nil, fmt.Errorf("--discover %q: want auto or off", o.discover)
	}
	belongs, err := o.belongs(role)
	if err != nil {
		return nil, err
	}
	o.id = belongs.identity.NodeID()
	l := o.listener
	if l == nil {
		if l, err = net.Listen("tcp", o.grpcAddr); err != nil {
			return nil, portError("--grpc-addr", o.grpcAddr, err)
		}
	}
	tel, stop := o.tel, func(context.Context) error { return nil }
	if tel == nil {
		tel, stop, err = telemetry.New(ctx, telemetry.Options{ServiceName: "shoal", Version: version, NodeID: o.id, Role: string(role)})
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	ip := o.advertise
	if m := belongs.member; ip == "" && m != nil {
		ip = m.Advertise()
	}
	if ip == "" {
		ip = reachableIP(l.Addr())
	}
	return &node{log: log.With("node", o.id), identity: belongs.identity, belongs: belongs, listener: l, ip: ip, tel: tel, stopTel: stop}, nil
}

// belongs finds the node's identity.
func (o *nodeOptions) belongs(role pki.Role) (*belonging, error) {
	if o.member != nil {
		return byMembership(o.member, o.id)
	}
	usual, err := usualName(role)
	if err != nil && o.id == "" {
		return nil, err
	}
	return o.identity.open(role, o.id, usual)
}

// usualName is what a node of this machine is called that nobody has named.
func usualName(role pki.Role) (string, error) {
	host, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("name this node: %w; give --node-id", err)
	}
	return nodeName(host, role), nil
}

// nodeName is what a node is called that nobody has named.
func nodeName(host string, role pki.Role) string {
	return strings.ToLower(strings.SplitN(host, ".", 2)[0]) + "-" + string(role)
}

// portError says which flag chose a port that cannot be had.
func portError(flag, addr string, err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%s %s is in use by another program: choose another port with %s", flag, addr, flag)
	}
	return fmt.Errorf("%s %s: %w", flag, addr, err)
}

// reachableIP is the address of a listener, or the machine's first address that
// is not loopback where the listener has all.
func reachableIP(addr net.Addr) string {
	if tcp, ok := addr.(*net.TCPAddr); ok && !tcp.IP.IsUnspecified() {
		return tcp.IP.String()
	}
	addrs, err := net.InterfaceAddrs()
	if err == nil {
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && !n.IP.IsLoopback() {
				return n.IP.String()
			}
		}
	}
	return "127.0.0.1"
}

// grpcAddr is where other nodes reach this one.
func (n *node) grpcAddr() string {
	_, port, _ := net.SplitHostPort(n.listener.Addr().String())
	return net.JoinHostPort(n.ip, port)
}

// gossip makes the node's membership of the cluster.
func (n *node) gossip(o nodeOptions, devices []cluster.Device) (*cluster.Cluster, error) {
	preset := cluster.LAN
	if ip := net.ParseIP(n.ip); ip != nil && ip.IsLoopback() {
		preset = cluster.Local
	}
	keys, seeds := n.belongs.keys, o.join
	if m := n.belongs.member; m != nil && len(seeds) == 0 {
		seeds = m.Seeds()
	}
	if len(keys) == 0 {
		return nil, errors.New("this node has no key of the gossip: have it join again")
	}
	c, err := cluster.New(cluster.Config{
		NodeID: n.identity.NodeID(), Bind: o.gossipAddr, Advertise: n.ip, Seeds: seeds,
		ClusterID: n.identity.ClusterID(), GossipKey: keys[0], MoreKeys: keys[1:], Preset: preset,
		Meta: cluster.Meta{
			Roles: n.identity.Roles(), GRPCAddr: n.grpcAddr(), Fingerprint: n.identity.Fingerprint(),
			Version: version, Devices: devices,
		},
	}, n.log)
	if err != nil {
		return nil, portError("--gossip-addr", o.gossipAddr, err)
	}
	n.tel.WatchMembers(func() (alive, refused int) { return len(c.Members()), len(c.Refused()) })
	return c, nil
}

// stay are the parts that keep a node in its cluster: it takes part in the gossip,
// looks for others on the network, and follows the coordinator's book.
func (n *node) stay(members *cluster.Cluster, o nodeOptions) part {
	parts := []part{members.Run}
	if m := n.belongs.member; m != nil {
		parts = append(parts, func(ctx context.Context) error {
			return m.Follow(ctx, enrol.Following{Gossip: members, Log: n.log, Coordinators: func() []string { return coordinatorsOf(members) }})
		})
	}
	if n.discovers(o) {
		parts = append(parts, func(ctx context.Context) error { return n.lookAround(ctx, members) })
	}
	if f := n.belongs.files; f != nil {
		parts = append(parts, func(ctx context.Context) error { return n.watchFiles(ctx, f) })
	}
	return func(ctx context.Context) error { return together(ctx, parts...) }
}

// watchFiles says when certificate files cannot be used.
func (n *node) watchFiles(ctx context.Context, f *pki.FileIdentity) error {
	ticker := time.NewTicker(time.Minute)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			if _, err := f.Expires(); err == nil { // it looks at the files
				err = f.Err()
				if err != nil {
					n.log.Error("the new certificate files are not in use", "err", err)
				}
			}
		}
	}
}

// coordinatorsOf are the gRPC addresses of the coordinators that gossip knows.
func coordinatorsOf(members *cluster.Cluster) (out []string) {
	for _, m := range members.Members() {
		if slices.Contains(m.Meta.Roles, pki.Coordinator) {
			out = append(out, m.Meta.GRPCAddr)
		}
	}
	return out
}

// run runs parts until the context ends or one fails, then ends telemetry.
func (n *node) run(ctx context.Context, parts ...part) error {
	err := together(ctx, parts...)
	endTelemetry(ctx, n.log, n.stopTel)
	return err
}

// endTelemetry sends what is left, for a moment.
func endTelemetry(ctx context.Context, log *slog.Logger, stop func(context.Context) error) {
	const flush = 2 * time.Second
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flush)
	defer cancel()
	if err := stop(ctx); err != nil {
		log.Warn("telemetry did not end cleanly", "error", err)
	}
}

// part runs until its context ends.
type part func(context.Context) error

// together runs parts until ctx ends or one fails, which ends the others.
func together(ctx context.Context, parts ...part) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, p := range parts {
		group.Go(func() error { return p(ctx) })
	}
	return group.Wait()
}

// frontFirst runs front and what it needs. When ctx ends, front ends first: the
// answers that it still gives need the others. A failure of the others ends it.
func frontFirst(front part, others ...part) part {
	return func(ctx context.Context) error {
		behind, stopBehind := context.WithCancel(context.WithoutCancel(ctx))
		defer stopBehind()
		ctx, stopFront := context.WithCancel(ctx)
		defer stopFront()
		failed := make(chan error, 1)
		go func() {
			failed <- together(behind, others...)
			stopFront()
		}()
		err := front(ctx)
		stopBehind()
		return errors.Join(err, <-failed)
	}
}

// serveHealth answers health checks of other nodes, for a role that offers them
// nothing else.
func (n *node) serveHealth(ctx context.Context) error {
	server := grpc.NewServer(append(wire.ServerOptions(), grpc.Creds(n.identity.ServerCredentials(pki.AnyRole()...)))...)
	healthpb.RegisterHealthServer(server, health.NewServer())
	defer context.AfterFunc(ctx, server.Stop)()
	if err := server.Serve(n.listener); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serve %s: %w", n.listener.Addr(), err)
	}
	return nil
}

func newSecret() *cobra.Command {
	return &cobra.Command{
		Use:   "secret FILE",
		Short: "Make a cluster secret",
		Long: `Make a cluster secret and write it to FILE, readable by its owner alone. Every
node of a cluster needs the same secret; who holds it is trusted fully.`,
		Args: exactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			err := pki.WriteSecret(args[0], pki.NewSecret())
			if errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("%s exists: a cluster keeps its secret; choose another file", args[0])
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "wrote %s: copy it to every node of the cluster\n", args[0])
			return err
		},
	}
}
