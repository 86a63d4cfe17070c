package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/shoal-llm/shoal/internal/enrol"
	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/internal/pki"
	"github.com/shoal-llm/shoal/internal/supervise"
	"github.com/shoal-llm/shoal/internal/synthetic"
	"github.com/shoal-llm/shoal/internal/telemetry"
	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/compute/webgpu"
	"github.com/shoal-llm/shoal/services/shard"
)

func newServe(d driver) *cobra.Command {
	return &cobra.Command{
		Use:    "serve",
		Short:  "Serve one device to a cluster, as the shard role of shoal asks on standard input",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			signal.Ignore(os.Interrupt) // the parent, which gets it too, says when to end
			return serve(c.Context(), d, os.Stdin, os.Stdout, os.Stderr)
		},
	}
}

// usableTenths of a device's memory are used: the rest is for its driver, and for
// the screen.
const usableTenths = 9

// serve is a shard node with one device, until the parent ends it.
func serve(ctx context.Context, d driver, in io.Reader, out, logs io.Writer) (err error) {
	parent, err := supervise.Meet(in, out)
	if err != nil {
		return err
	}
	ctx, cancel := parent.Follow(ctx)
	defer cancel()
	s := parent.Settings
	refuse := func(reason error) error {
		parent.Report(supervise.Report{State: supervise.Refused, Reason: reason.Error()})
		return reason
	}
	if s.Version != version {
		return refuse(fmt.Errorf("%s is version %s and shoal version %s: install both of one version", supervise.Program, version, s.Version))
	}
	quietCollector()
	log := telemetry.Logger(logs, logLevel(s.LogLevel), true)
	memory := s.Memory
	if memory == 0 {
		memory = s.Adapter.Memory / 10 * usableTenths
	}
	if memory == 0 {
		return refuse(fmt.Errorf("how much memory %s has is unknown: say how much may be used (--max-mem)", s.Adapter.Name))
	}
	be, err := d.open(s.Adapter, openOptions{memory: memory, workgroup: s.Workgroup, compilers: s.Compilers, log: log})
	if errors.Is(err, webgpu.ErrWorkgroup) {
		return refuse(err)
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", s.Adapter.Name, err)
	}
	defer func() { err = errors.Join(err, be.Close()) }()
	print, err := verify(be)
	if errors.Is(err, compute.ErrLost) {
		return err
	}
	if err != nil {
		return refuse(fmt.Errorf("device %s is wrong: %w", s.Adapter.Name, err))
	}
	tel, stop, err := telemetry.New(ctx, telemetry.Options{ServiceName: "shoal", Version: version, NodeID: s.Node, Role: string(pki.Shard)})
	if err != nil {
		return err
	}
	defer func() {
		const flush = 2 * time.Second
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flush)
		defer cancel()
		err = errors.Join(err, stop(ctx))
	}()
	node, listener, err := join(parent, log)
	if err != nil {
		return err
	}
	keeper, err := s.Weights.Keeper(log)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	defer func() { err = errors.Join(err, keeper.Close()) }()
	sh, err := shard.New(shard.Config{Version: version, KernelSet: s.KernelSet, Chunk: s.Chunk, State: s.State}, shard.Deps{
		Identity: node, Listener: listener, Telemetry: tel, Log: log,
		Devices: []shard.Device{{Backend: be, Fingerprint: print, Reference: openReference, Tolerance: compute.Float}}, Open: opener(s), Weights: keeper,
	})
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	parent.Report(supervise.Report{State: supervise.Ready, Port: listener.Addr().(*net.TCPAddr).Port})
	if err := sh.Run(ctx); err != nil { // a lost device may not let itself be closed
		parent.Report(supervise.Report{State: supervise.Lost, Reason: err.Error()})
		return err
	}
	return nil
}

// join makes the identity of the node and its listener.
func join(parent *supervise.Parent, log *slog.Logger) (*pki.Identity, net.Listener, error) {
	s := parent.Settings
	id, err := identity(parent, log)
	if err != nil {
		return nil, nil, err
	}
	l, err := net.Listen("tcp", s.Listen)
	if err != nil {
		return nil, nil, fmt.Errorf("listen to other nodes: %w", err)
	}
	return id, l, nil
}

// identity is what the parent gives: one of its own, or the secret to make one of.
func identity(parent *supervise.Parent, log *slog.Logger) (*pki.Identity, error) {
	s := parent.Settings
	if s.Identity == nil {
		secret, err := pki.ParseSecret(s.Secret)
		if err != nil {
			return nil, err
		}
		return pki.New(secret, pki.Node{ID: s.Node, Roles: []pki.Role{pki.Shard}})
	}
	e, err := s.Identity.Enroll(nil)
	if err != nil {
		return nil, err
	}
	if e.NodeID() != s.Node {
		return nil, fmt.Errorf("the identity is that of node %s, not of %s", e.NodeID(), s.Node)
	}
	parent.News(func(n enrol.ChildNews) {
		if err := n.Apply(e); err != nil {
			log.Error("the newer certificate is not in use", "err", err)
		}
	})
	return e.Identity, nil
}

// opener opens the models of plans.
func opener(s supervise.Settings) func(name string) (*shard.Model, error) {
	lib := library.Library{Dir: s.Models, Paths: s.Paths}
	return func(name string) (*shard.Model, error) {
		if s.Synthetic && strings.HasPrefix(name, synthetic.Prefix) {
			m, err := synthetic.Open(name)
			if err != nil {
				return nil, err
			}
			return &shard.Model{
				Arch: m.Arch, Spec: m.Spec, Source: m.Source, Digest: m.Digest, File: m.Digest, Bytes: m.Bytes, Close: func() error { return nil },
			}, nil
		}
		m, err := lib.Open(name)
		if err != nil {
			return nil, err
		}
		return shard.NewModel(m), nil
	}
}

// logLevel reads a level; what cannot be read is info.
func logLevel(name string) slog.Level {
	var level slog.Level
	_ = level.UnmarshalText([]byte(name))
	return level
}
