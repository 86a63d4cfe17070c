package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/grpc"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	"github.com/shoal-llm/shoal/internal/cluster"
	"github.com/shoal-llm/shoal/internal/enrol"
	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/internal/pki"
	"github.com/shoal-llm/shoal/internal/telemetry/admin"
	"github.com/shoal-llm/shoal/internal/wire"
	"github.com/shoal-llm/shoal/services/coordinator"
	"github.com/shoal-llm/shoal/services/coordinator/plan"
	"github.com/shoal-llm/shoal/services/gateway"
	"github.com/shoal-llm/shoal/services/shard"
)

// kernelSet is the version of the kernels: all shards of a cluster have the same.
const kernelSet = "1"

// loadModel opens what a coordinator needs of a model: of one that has to be fetched,
// what lies before its weights. The adapters are read and closed again.
func (o *coordinatorOptions) loadModel(ctx context.Context, found *models, out io.Writer) (described coordinator.Model, m opened, err error) {
	m, err = found.open(ctx, o.model, false, newShown(out))
	if err != nil {
		return described, m, err
	}
	if m.Model, err = o.recipe.apply(m.Model, out); err != nil {
		return described, m, errors.Join(err, m.Close())
	}
	adapters, paths, err := o.lora.open(m.Model, append([]string{m.Name}, o.config.Aliases...))
	if err == nil {
		described, err = coordinator.NewModel(m.Model, o.kv.KVClass, o.config.Wishes, adapters...)
	}
	if err == nil {
		described.Adapters, err = found.offered(adapters, paths)
	}
	if err = errors.Join(err, closeAdapters(adapters)); err != nil {
		return described, m, errors.Join(err, m.Close())
	}
	return described, m, nil
}

// loadDraft opens a model that shall guess for another, and adds it. Its files are lent
// to shards if they may lack them.
func loadDraft(ctx context.Context, found *models, m *coordinator.Model, name string, w plan.Wishes, lend bool, show *shown) (opened, error) {
	d, err := found.open(ctx, name, false, show)
	if err != nil {
		return d, fmt.Errorf("--draft: %w", err)
	}
	var manifest []byte
	if lend || d.stored != nil {
		manifest, err = found.manifest(d)
	}
	if err == nil {
		err = m.AddDraft(d.Model, manifest, w)
	}
	if err != nil {
		return d, errors.Join(fmt.Errorf("--draft %s: %w", name, err), d.Close())
	}
	return d, nil
}

// coordinatorOptions are the flags of a coordinator.
type coordinatorOptions struct {
	model   string
	draft   string
	models  string
	config  coordinator.Config
	place   placeOptions
	aliases []string
	kv      kvFlag
	lora    loraOptions
	recipe  recipeFlag
	join    string // address of the JoinService
	weights weightOptions
}

func (o *coordinatorOptions) flags(f *pflag.FlagSet) {
	o.config = coordinator.Default()
	w := &o.config.Wishes
	f.StringVar(&o.models, "models", "", "folder of GGUF files")
	f.StringSliceVar(&o.config.Aliases, "alias", nil, "other names that clients may call the model by")
	f.IntVar(&w.Stages, "stages", w.Stages, "stages of a pipeline, exactly; 0 is as many as are best")
	f.IntVar(&w.MinShards, "min-shards", w.MinShards, "shards to wait for before the first plan")
	f.DurationVar(&w.Steady, "steady", w.Steady, "how long a shard must have been there before running answers move for it")
	f.IntVar(&w.Losses, "max-losses", w.Losses, "losses of a shard within five minutes after which it is left out for a while; 0 is no limit")
	f.IntVar(&o.config.MaxWaiting, "max-waiting", o.config.MaxWaiting, "requests that may wait for a place")
	f.DurationVar(&o.config.MaxWait, "max-wait", o.config.MaxWait, "how long a request may wait for a place; one that is likely to wait for longer is refused when it comes")
	f.DurationVar(&o.config.MaxRecovery, "max-recovery", o.config.MaxRecovery, "how long an interrupted answer waits for shards to go on")
	f.IntVar(&w.Sessions, "sessions", w.Sessions, "answers of full context length that the KV cache must hold at once")
	f.IntVar(&w.Context, "context", w.Context, "positions of a session; 0 is the model's own")
	f.IntVar(&w.Rows, "rows", w.Rows, "rows of a step: decodes and prefill together")
	f.StringVar(&o.draft, "draft", "", "a smaller model with the same tokenizer, which guesses the next tokens on the first stage's device; answers stay the same and come sooner where its guesses hold and it pays")
	o.kv.flags(f)
	o.lora.flags(f, ": requests that name it as their model go through it; may be given several times")
	o.recipe.flags(f)
	o.place.flags(f)
	o.weights.flags(f)
	o.weights.verifyFlag(f)
}

// complete makes the planner's wishes of the flags and checks them all.
func (o *coordinatorOptions) complete() (err error) {
	w := &o.config.Wishes
	if w.Aim, err = o.place.complete(); err != nil {
		return err
	}
	w.Spares = w.Aim.Spares
	o.config.Place = plan.Measured
	return o.config.Validate()
}

func newCoordinator() *cobra.Command {
	var o coordinatorOptions
	var n nodeOptions
	c := &cobra.Command{
		Use:   "coordinator",
		Short: "Run the coordinator: it plans, admits requests and commits tokens",
		Long: `Run the coordinator: it plans, admits requests and commits tokens.

The first start makes the cluster: an authority whose key stays in --identity-dir.
Other machines come in with a token each (` + "`shoal token`" + ` here, ` + "`shoal join`" + ` there),
get certificates of a day that renew themselves, and can be shut out again one by
one (` + "`shoal node revoke`" + `).

With --cluster-secret-file the cluster lives by a secret that every node has: there
are no tokens then, and no single node can be shut out.`,
		Example: `  shoal coordinator --model tiny --min-shards 3
  shoal token --role shard

  shoal secret cluster.key
  shoal coordinator --cluster-secret-file cluster.key --model tiny --min-shards 3`,
		Args: exactArgs(0),
		RunE: func(c *cobra.Command, _ []string) error { return runCoordinator(c, o, n) },
	}
	c.Flags().StringVar(&o.model, "model", library.Default, "model to serve: an embedded name, a file in --models, a path, or a source to fetch it from, as `shoal pull` takes it")
	o.flags(c.Flags())
	n.flags(c.Flags(), pki.Coordinator)
	c.Flags().StringVar(&o.join, "join-addr", ":"+enrol.DefaultJoinPort, "address where machines join with a token, TLS without a client certificate; empty takes nobody in")
	return c
}

func runCoordinator(c *cobra.Command, o coordinatorOptions, opts nodeOptions) (err error) {
	ctx, log := c.Context(), newLogger(c)
	if err := o.complete(); err != nil {
		return usageError{c.CommandPath(), err}
	}
	found, err := o.weights.open(library.Library{Dir: o.models}, log)
	if err != nil {
		return usageError{c.CommandPath(), err}
	}
	defer func() { err = errors.Join(err, found.close()) }()
	model, file, err := o.loadModel(ctx, found, c.ErrOrStderr())
	if err != nil {
		return err
	}
	defer file.Close()
	if model.Manifest, err = found.manifest(file); err != nil {
		return err
	}
	reading, err := found.verifyLent(ctx, file, newShown(c.ErrOrStderr()), log)
	if err != nil {
		return err
	}
	if o.draft != "" {
		draft, err := loadDraft(ctx, found, &model, o.draft, o.config.Wishes, true, newShown(c.ErrOrStderr()))
		if err != nil {
			return err
		}
		defer draft.Close()
	}
	n, err := newNode(ctx, log, opts, pki.Coordinator)
	if err != nil {
		return err
	}
	book, err := n.openBook(c, o, opts)
	if err != nil {
		return err
	}
	members, err := n.gossip(opts, nil)
	if err != nil {
		return err
	}
	if err := book.attach(members); err != nil {
		return err
	}
	o.config.Version, o.config.Number = version, coordinator.Number(n.identity.NodeID())
	co, err := coordinator.New(o.config, coordinator.Deps{
		Identity: n.identity, Listener: n.listener, Members: members, Model: model, Registry: book.registry, Telemetry: n.tel, Log: n.log,
		Weights: found.keeper, Address: n.grpcAddr(),
	})
	if err != nil {
		return err
	}
	adm, err := admin.New(opts.adminAddr, co.Ready, n.tel, n.log)
	if err != nil {
		return err
	}
	n.log.Info("coordinator started", "model", model.Name, "grpc", n.grpcAddr(), "gossip", members.Addr(), "admin", adm.Addr())
	parts := []part{n.stay(members, opts), co.Run, adm.Run, book.run, reading}
	if n.discovers(opts) {
		parts = append(parts, func(ctx context.Context) error { return n.announce(ctx, members, book.addr) })
	}
	return n.run(ctx, parts...)
}

// shardOptions are the flags of a shard.
type shardOptions struct {
	models  string
	config  shard.Config
	device  deviceOptions
	gpu     gpuOptions
	weights weightOptions // of `up` they are the coordinator's
}

func (o *shardOptions) flags(f *pflag.FlagSet) {
	o.gpu.flags(f)
	f.IntVar(&o.config.Chunk, "chunk", 0, "rows of one prompt in a step; 0 is as many as a step has")
	f.StringVar(&o.config.State, "state-dir", stateDir(), "folder where measured speeds are kept; empty keeps nothing")
	o.device.flags(f)
}

func newShard() *cobra.Command {
	var o shardOptions
	var n nodeOptions
	c := &cobra.Command{
		Use:   "shard",
		Short: "Run a shard: it offers this machine's devices and computes layers on them",
		Example: `  shoal join TOKEN@coordinator.local     once; afterwards
  shoal shard

  shoal shard --cluster-secret-file cluster.key --join coordinator.local:7946`,
		Args: exactArgs(0),
		RunE: func(c *cobra.Command, _ []string) error { return runShard(c, o, n) },
	}
	c.Flags().StringVar(&o.models, "models", "", "folder of GGUF files")
	o.flags(c.Flags())
	o.weights.flags(c.Flags())
	o.weights.verifyFlag(c.Flags())
	n.flags(c.Flags(), pki.Shard)
	return c
}

func runShard(c *cobra.Command, o shardOptions, opts nodeOptions) (err error) {
	ctx, log := c.Context(), newLogger(c)
	n, err := newNode(ctx, log, opts, pki.Shard)
	if err != nil {
		return err
	}
	found, err := o.weights.open(library.Library{Dir: o.models}, log)
	if err != nil {
		return usageError{c.CommandPath(), err}
	}
	defer func() { err = errors.Join(err, found.close()) }()
	d, err := o.open(ctx, n, found, logLevel(c))
	if err != nil {
		return err
	}
	defer d.close()
	members, err := n.gossip(opts, d.describe())
	if err != nil {
		return err
	}
	s, err := d.shard(n, o.config)
	if err != nil {
		return err
	}
	adm, err := admin.New(opts.adminAddr, s.Ready, n.tel, n.log)
	if err != nil {
		return err
	}
	n.log.Info("shard started", "devices", d.String(), "grpc", n.grpcAddr(), "gossip", members.Addr(), "admin", adm.Addr())
	return n.run(ctx, n.stay(members, opts), s.Run, d.children.run(s), adm.Run)
}

// gatewayOptions are the flags of a gateway.
type gatewayOptions struct {
	config  gateway.Config
	keyFile string
	tls     string
	webCert string
	webKey  string
}

func (o *gatewayOptions) flags(f *pflag.FlagSet) {
	f.StringVar(&o.config.Listen, "listen", gateway.DefaultListen, "address of the page, WebSocket and HTTP API")
	f.StringVar(&o.config.GRPCListen, "grpc-listen", gateway.DefaultGRPCListen, "address of the public gRPC API")
	f.StringVar(&o.config.Ollama, "ollama", "", "address of the Ollama API, like 127.0.0.1:11434; empty is off")
	f.StringSliceVar(&o.config.APIKeys, "api-key", nil, "key that clients must show; needed where other machines can reach the gateway")
	f.StringVar(&o.keyFile, "api-key-file", "", "file of such keys, one a line")
	f.StringVar(&o.config.Keys, "keys", "", "file of keys with limits, made by 'shoal key create'; read again when it changes. With it a key is needed on loopback too")
	f.StringVar(&o.tls, "tls", "auto", "auto: TLS by the cluster's authority where other machines can reach the gateway; off: a proxy in front ends TLS")
	f.StringVar(&o.webCert, "tls-cert-file", "", "certificate chain for clients, instead of one by the cluster's authority; used on loopback too, and read again when it changes")
	f.StringVar(&o.webKey, "tls-key-file", "", "private key of --tls-cert-file")
	f.StringSliceVar(&o.config.AllowedHosts, "allowed-host", nil, "host names that the gateway is called by, besides its addresses")
	f.StringSliceVar(&o.config.AllowedOrigins, "allowed-origin", nil, "scheme://host[:port] of pages elsewhere that may use the gateway")
	f.BoolVar(&o.config.Reflection, "reflection", false, "offer gRPC reflection to other machines")
}

// complete reads the key file and the TLS mode.
func (o *gatewayOptions) complete() error {
	switch o.tls {
	case "auto":
	case "off":
		o.config.TLSOff = true
	default:
		return fmt.Errorf("--tls %q: want auto or off", o.tls)
	}
	if (o.webCert == "") != (o.webKey == "") {
		return errors.New("--tls-cert-file and --tls-key-file belong together")
	}
	if o.webCert != "" && o.config.TLSOff {
		return errors.New("--tls-cert-file has no effect with --tls=off")
	}
	if o.keyFile == "" {
		return nil
	}
	b, err := os.ReadFile(o.keyFile)
	if err != nil {
		return fmt.Errorf("--api-key-file: %w", err)
	}
	o.config.APIKeys = append(o.config.APIKeys, strings.Fields(string(b))...)
	return nil
}

func newGateway() *cobra.Command {
	var o gatewayOptions
	var n nodeOptions
	c := &cobra.Command{
		Use:   "gateway",
		Short: "Run a gateway: the page, WebSocket, the OpenAI API and gRPC for clients",
		Example: `  shoal join TOKEN@coordinator.local     once, with a token of role gateway; afterwards
  shoal gateway

  shoal gateway --cluster-secret-file cluster.key --join coordinator.local:7946`,
		Args: exactArgs(0),
		RunE: func(c *cobra.Command, _ []string) error { return runGateway(c, o, n) },
	}
	o.flags(c.Flags())
	n.flags(c.Flags(), pki.Gateway)
	return c
}

func runGateway(c *cobra.Command, o gatewayOptions, opts nodeOptions) error {
	ctx, log := c.Context(), newLogger(c)
	if err := o.complete(); err != nil {
		return usageError{c.CommandPath(), err}
	}
	n, err := newNode(ctx, log, opts, pki.Gateway)
	if err != nil {
		return err
	}
	members, err := n.gossip(opts, nil)
	if err != nil {
		return err
	}
	found := manual.NewBuilderWithScheme("shoal")
	conn, err := dialCoordinator(n, "shoal:///coordinator", grpc.WithResolvers(found), grpc.WithDefaultServiceConfig(toTheOneThatServes))
	if err != nil {
		return err
	}
	defer conn.Close()
	g, err := makeGateway(n, o, conn)
	if err != nil {
		return err
	}
	adm, err := admin.New(opts.adminAddr, g.Ready, n.tel, n.log)
	if err != nil {
		return err
	}
	n.log.Info("gateway started", "url", g.URL(), "grpc", g.GRPCAddr().String(), "gossip", members.Addr(), "admin", adm.Addr())
	follow := func(ctx context.Context) error { return followCoordinators(ctx, members, found) }
	return n.run(ctx, n.stay(members, opts), g.Run, adm.Run, follow, n.serveHealth)
}

// makeGateway makes the gateway of a node that has a connection to a coordinator.
func makeGateway(n *node, o gatewayOptions, conn grpc.ClientConnInterface) (*gateway.Gateway, error) {
	deps := gateway.Deps{Log: n.log, Coordinator: conn, Telemetry: n.tel}
	tlsConfig, err := o.publicTLS(n.identity, n.ip)
	if err != nil {
		return nil, err
	}
	deps.TLS = tlsConfig
	o.config.Version, o.config.TLSAlways = version, o.webCert != ""
	return gateway.New(o.config, deps)
}

// publicTLS is the TLS of listeners that other machines reach: by files, or by the
// cluster's authority where it signs for this node; else nil.
func (o *gatewayOptions) publicTLS(id *pki.Identity, ip string) (*tls.Config, error) {
	if o.webCert != "" {
		config, err := pki.WebFiles(o.webCert, o.webKey)
		if err != nil {
			return nil, fmt.Errorf("--tls-cert-file: %w", err)
		}
		return config, nil
	}
	config, err := id.GatewayTLS(o.webHosts(ip)...)
	if errors.Is(err, pki.ErrNoWeb) {
		return nil, nil
	}
	return config, err
}

// webHosts are the names of a gateway on a machine with that address.
func (o *gatewayOptions) webHosts(ip string) []string {
	return append([]string{ip}, o.config.AllowedHosts...)
}

// dialCoordinator connects to a coordinator and trusts nothing else.
func dialCoordinator(n *node, target string, opts ...grpc.DialOption) (*grpc.ClientConn, error) {
	opts = append(append(wire.DialOptions(), grpc.WithTransportCredentials(n.identity.ClientCredentials("", pki.Coordinator))), opts...)
	conn, err := grpc.NewClient(target, opts...)
	if err != nil {
		return nil, fmt.Errorf("dial coordinator: %w", err)
	}
	return conn, nil
}

// toTheOneThatServes has a connection to several coordinators use the one whose
// health says that it does not stand by.
const toTheOneThatServes = `{"loadBalancingConfig":[{"round_robin":{}}],"healthCheckConfig":{"serviceName":"` + coordinator.HealthService + `"}}`

// followCoordinators gives the resolver the addresses of coordinators that
// gossip knows. The handshake decides whether they are.
func followCoordinators(ctx context.Context, members *cluster.Cluster, found *manual.Resolver) error {
	for {
		var state resolver.State
		for _, m := range members.Members() {
			for _, role := range m.Meta.Roles {
				if _, _, err := net.SplitHostPort(m.Meta.GRPCAddr); err == nil && role == pki.Coordinator {
					state.Addresses = append(state.Addresses, resolver.Address{Addr: m.Meta.GRPCAddr})
				}
			}
		}
		found.UpdateState(state)
		select {
		case <-ctx.Done():
			return nil
		case <-members.Changed():
		}
	}
}
