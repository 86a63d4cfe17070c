package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/shoal-llm/shoal/internal/cluster"
	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/internal/pki"
	"github.com/shoal-llm/shoal/internal/telemetry"
	"github.com/shoal-llm/shoal/internal/telemetry/admin"
	"github.com/shoal-llm/shoal/services/coordinator"
	"github.com/shoal-llm/shoal/services/gateway"
)

// upOptions are the flags of `shoal up`.
type upOptions struct {
	coordinator coordinatorOptions
	gateway     gatewayOptions
	shard       shardOptions
	adminAddr   string
}

func newUp() *cobra.Command {
	var o upOptions
	c := &cobra.Command{
		Use:   "up [MODEL]",
		Short: "Run everything in one process and open the page",
		Long: `Run coordinator, shard and gateway in one process, on loopback, and serve MODEL:
an embedded model (tiny, tiny-int4), a file in --models, the path of a GGUF file, or a
source that it is fetched from, as ` + "`shoal pull`" + ` takes it. The model is split into --stages stages that talk over mutual TLS, just as
they would between machines.`,
		Example: `  shoal up
  shoal up ./model.gguf --stages 4 --listen 127.0.0.1:9000`,
		Args: rangeArgs(0, 1),
		RunE: func(c *cobra.Command, args []string) error {
			if o.coordinator.model = library.Default; len(args) == 1 {
				o.coordinator.model = args[0]
			}
			return o.run(c)
		},
	}
	f := c.Flags()
	o.coordinator.flags(f)
	o.gateway.flags(f)
	o.shard.flags(f)
	f.StringVar(&o.adminAddr, "admin-addr", "127.0.0.1:0", "address of metrics, health and profiles; port 0 takes a free one")
	f.Lookup("stages").DefValue = "2"
	o.coordinator.config.Wishes.Stages = 2
	o.coordinator.config.Wishes.Settle = 0
	f.Lookup("grpc-listen").DefValue = "127.0.0.1:0"
	o.gateway.config.GRPCListen = "127.0.0.1:0"
	return c
}

// up is the parts of one process that is a whole cluster.
type up struct {
	out     io.Writer
	started time.Time
	close   []func() error // last first
}

func (o *upOptions) run(c *cobra.Command) (err error) {
	u := &up{out: c.OutOrStdout(), started: time.Now()}
	defer func() {
		for _, f := range slices.Backward(u.close) {
			err = errors.Join(err, f())
		}
	}()
	if err := errors.Join(o.gateway.complete(), o.coordinator.complete()); err != nil {
		return usageError{c.CommandPath(), err}
	}
	found, err := o.coordinator.weights.open(library.Library{Dir: o.coordinator.models}, newLogger(c))
	if err != nil {
		return usageError{c.CommandPath(), err}
	}
	u.close = append(u.close, found.close)
	model, file, err := o.coordinator.loadModel(c.Context(), found, c.ErrOrStderr())
	if err != nil {
		return err
	}
	u.close = append(u.close, file.Close)
	if file.stored != nil { // its own files the shard finds itself
		if model.Manifest, err = found.manifest(file); err != nil {
			return err
		}
	}
	found.lib.Paths = map[string]string{}
	if model.Path != "" { // the plan names it; here it is this file
		found.lib.Paths[model.Name] = model.Path
	}
	if o.coordinator.draft != "" {
		draft, err := loadDraft(c.Context(), found, &model, o.coordinator.draft, o.coordinator.config.Wishes, false, newShown(c.ErrOrStderr()))
		if err != nil {
			return err
		}
		u.close = append(u.close, draft.Close)
		if draft.Path != "" {
			found.lib.Paths[draft.Name] = draft.Path
		}
	}
	return u.start(c, o, model, found)
}

// start makes all parts, tells where they are and runs them.
func (u *up) start(c *cobra.Command, o *upOptions, model coordinator.Model, found *models) error {
	ctx, secret := c.Context(), pki.NewSecret()
	log := newLogger(c)
	tel, stopTel, err := telemetry.New(ctx, telemetry.Options{ServiceName: "shoal", Version: version, NodeID: "up"})
	if err != nil {
		return err
	}
	defer endTelemetry(ctx, log, stopTel)
	local := func(role pki.Role, seeds ...string) (*node, nodeOptions, error) {
		opts := nodeOptions{id: string(role), identity: identityOptions{secret: &secret}, grpcAddr: "127.0.0.1:0", gossipAddr: "127.0.0.1:0", join: seeds, tel: tel}
		n, err := newNode(ctx, log, opts, role)
		return n, opts, err
	}
	cn, copts, err := local(pki.Coordinator)
	if err != nil {
		return err
	}
	gn, _, err := local(pki.Gateway)
	if err != nil {
		return err
	}
	if err := gn.listener.Close(); err != nil { // nobody dials this gateway
		return err
	}
	conn, err := dialCoordinator(gn, cn.grpcAddr())
	if err != nil {
		return err
	}
	u.close = append(u.close, conn.Close)
	g, err := makeGateway(gn, o.gateway, conn)
	if err != nil {
		return err
	}
	members, err := cn.gossip(copts, nil)
	if err != nil {
		return err
	}
	sn, sopts, err := local(pki.Shard, members.Addr())
	if err != nil {
		return err
	}
	d, err := o.shard.open(ctx, sn, found, logLevel(c))
	if err != nil {
		return err
	}
	u.close = append(u.close, d.close)
	smembers, err := sn.gossip(sopts, d.describe())
	if err != nil {
		return err
	}
	o.coordinator.config.Version = version
	co, err := coordinator.New(o.coordinator.config, coordinator.Deps{
		Identity: cn.identity, Listener: cn.listener, Members: members, Model: model, Telemetry: cn.tel, Log: cn.log,
		Weights: found.keeper, Address: cn.grpcAddr(),
	})
	if err != nil {
		return err
	}
	s, err := d.shard(sn, o.shard.config)
	if err != nil {
		return err
	}
	adm, err := admin.New(o.adminAddr, g.Ready, tel, log)
	if err != nil {
		return err
	}
	u.greet(o.gateway.config, model, d, g, adm.Addr())
	report := func(ctx context.Context) error { return u.reportReady(ctx, co) }
	return together(ctx, frontFirst(g.Run, gossip(members), co.Run, gossip(smembers), s.Run, d.children.run(s)), adm.Run, report)
}

// gossip takes part until its context ends, without a good-bye: who would hear
// it ends at the same time.
func gossip(members *cluster.Cluster) part {
	return func(ctx context.Context) error {
		defer context.AfterFunc(ctx, members.Close)()
		return members.Run(context.WithoutCancel(ctx))
	}
}

// greet prints where everything is, before the model is loaded.
func (u *up) greet(o gateway.Config, model coordinator.Model, d *devices, g *gateway.Gateway, adminAddr string) {
	url := g.URL()
	fmt.Fprintf(u.out, "  ✓ model %-10s %d layers · %s · %s\n", model.Name, model.Facts.Layers(), model.Precision, bytesText(uint64(model.Size)))
	if d.cpu != nil {
		info := d.cpu.Info()
		fmt.Fprintf(u.out, "  ✓ device %-9s %s · %d threads · %s usable\n", info.Kind, info.Name, info.Threads, bytesText(info.Memory))
	}
	if why := d.children.set.noGPU; why != "" {
		fmt.Fprintf(u.out, "  · no GPU: %s\n", why)
	}
	for _, a := range d.children.set.gpus {
		fmt.Fprintf(u.out, "  ✓ device gpu%-6d %s · %s\n", a.Index, a.Name, a.API)
	}
	key := "no key needed on this machine"
	if o.Keys != "" || len(o.APIKeys) > 0 {
		key = "with an API key"
	}
	fmt.Fprintf(u.out, "  ➜ Chat   %s\n  ➜ API    %s/v1   (%s)\n", url, url, key)
	fmt.Fprintf(u.out, "  ➜ gRPC   %s   ➜ Admin  http://%s/metrics\n", g.GRPCAddr(), adminAddr)
	if at := g.OllamaAddr(); at != nil {
		fmt.Fprintf(u.out, "  ➜ Ollama http://%s\n", at)
	}
	fmt.Fprintln(u.out, "  Ctrl-C stops")
}

// reportReady prints once that the model can answer, and how it is split.
func (u *up) reportReady(ctx context.Context, co *coordinator.Coordinator) error {
	for {
		ok, state := co.Ready()
		if ok {
			fmt.Fprintf(u.out, "  ✓ ready in %.1f s: %s\n", time.Since(u.started).Seconds(), state["pipeline"])
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// bytesText prints a size for people.
func bytesText(n uint64) string {
	const unit = 1024
	v, units := float64(n), "KMGT"
	if v < unit {
		return fmt.Sprintf("%d B", n)
	}
	i := -1
	for v >= unit && i < len(units)-1 {
		v /= unit
		i++
	}
	return fmt.Sprintf("%.1f %ciB", v, units[i])
}
