//go:build linux

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/pprof"
	"time"

	"google.golang.org/grpc"

	"github.com/shoal-llm/shoal/internal/pki"
	"github.com/shoal-llm/shoal/internal/telemetry"
	"github.com/shoal-llm/shoal/internal/wire"
	"github.com/shoal-llm/shoal/services/gateway"
)

// most is how many sockets and generations the gateway under load may hold.
const most = 18_000

// playGateway serves the real gateway, as `shoal gateway` does: connected with
// the node's certificate, with metrics and with a log (to nowhere).
func playGateway(args []string) error {
	f := flag.NewFlagSet(roleGateway, flag.ContinueOnError)
	coordinator := f.String("coordinator", "", "address of the coordinator")
	cpuProfile := f.String("cpuprofile", "", "file to write a CPU profile to")
	heapProfile := f.String("heapprofile", "", "file to write a heap profile to, when asked")
	if err := f.Parse(args); err != nil {
		return err
	}
	if *cpuProfile != "" {
		out, err := os.Create(*cpuProfile)
		if err != nil {
			return err
		}
		defer out.Close()
		if err := pprof.StartCPUProfile(out); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	start := func(secret string) (string, error) {
		gw, err := newGateway(ctx, secret, *coordinator)
		if err != nil {
			return "", err
		}
		go func() { done <- gw.Run(ctx) }()
		return gw.HTTPAddr().String(), nil
	}
	err := converse(os.Stdin, os.Stdout, start, func(word string) (any, error) {
		if word == "heap" {
			return true, writeHeap(*heapProfile)
		}
		return ownUsage()
	})
	cancel()
	select {
	case e := <-done:
		return errors.Join(err, e)
	case <-time.After(5 * time.Second):
		return errors.Join(err, errors.New("the gateway does not stop"))
	}
}

func newGateway(ctx context.Context, secret, coordinator string) (*gateway.Gateway, error) {
	id, err := identity(secret, "load-gateway", pki.Gateway)
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient(coordinator, append(wire.DialOptions(),
		grpc.WithTransportCredentials(id.ClientCredentials("", pki.Coordinator)))...)
	if err != nil {
		return nil, err
	}
	tel, _, err := telemetry.New(ctx, telemetry.Options{ServiceName: "shoal", NodeID: "load-gateway", Role: "gateway"})
	if err != nil {
		return nil, err
	}
	return gateway.New(gateway.Config{
		Listen: "127.0.0.1:0", GRPCListen: "127.0.0.1:0",
		Limits: gateway.Limits{Generations: most, Sockets: most, Drain: 100 * time.Millisecond},
	}, gateway.Deps{
		Log:         slog.New(slog.NewTextHandler(io.Discard, nil)),
		Coordinator: conn, Telemetry: tel,
	})
}

// identity is a node's certificate under the cluster's secret.
func identity(secret, node string, role pki.Role) (*pki.Identity, error) {
	s, err := pki.ParseSecret(secret)
	if err != nil {
		return nil, fmt.Errorf("read secret: %w", err)
	}
	return pki.New(s, pki.Node{ID: node, Roles: []pki.Role{role}})
}

func writeHeap(name string) error {
	if name == "" {
		return nil
	}
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	return errors.Join(pprof.WriteHeapProfile(f), f.Close())
}
