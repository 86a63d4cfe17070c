// Package gateway is the front door: it authenticates, bounds and forwards
// requests of browsers (WebSocket), of OpenAI's clients (HTTP) and of gRPC
// clients to a coordinator, and streams the answers back. It holds no model.
//
// The way of a request: a door (websocket.go, openai.go, grpc.go) makes a typed
// pb.Generation of it or refuses it by name; run (observe.go) watches it;
// generate (generation.go) carries it over the one Relay stream (relay.go) and
// yields its events, which the door writes. A client that goes away ends the
// context of its generation, which sends Stop.
package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"

	"github.com/shoal-llm/shoal/internal/telemetry"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// Deps is what a gateway works with. Coordinator is required.
type Deps struct {
	Log         *slog.Logger             // nil: nothing is logged
	Coordinator grpc.ClientConnInterface // connected with the node's own credentials; not closed
	TLS         *tls.Config              // of listeners that are not loopback; nil: none
	Telemetry   *telemetry.Telemetry     // nil: nothing is measured
}

// Gateway serves clients. Its methods are safe for concurrent use.
type Gateway struct {
	config    Config
	log       *slog.Logger
	telemetry *telemetry.Telemetry
	access    *access
	relay     *relay
	cluster   *cluster
	generate  generateFunc
	sockets   turnstile
	known     atomic.Pointer[readiness] // by watchHealth
	draining  chan struct{}             // closed when no new request may begin
	drained   chan struct{}             // closed when what still runs must end
	cut       chan struct{}             // closed when sockets that did not say goodbye are cut

	http     *http.Server
	grpc     *grpc.Server
	health   *health.Server
	httpAddr net.Listener
	grpcAddr net.Listener
}

// New checks the configuration and takes both ports, so that a mistake is one
// sentence before anything runs. Run must follow: it gives the ports back.
func New(config Config, deps Deps) (*Gateway, error) {
	if deps.Coordinator == nil {
		return nil, errors.New("a gateway needs a connection to a coordinator")
	}
	config = config.withDefaults()
	access, err := newAccess(config)
	if err != nil {
		return nil, err
	}
	client := pb.NewCoordinatorServiceClient(deps.Coordinator)
	g := &Gateway{
		config: config, access: access,
		log:       deps.Log,
		telemetry: deps.Telemetry,
		sockets:   turnstile{limit: int64(config.Limits.Sockets)},
		draining:  make(chan struct{}),
		drained:   make(chan struct{}),
		cut:       make(chan struct{}),
	}
	if g.log == nil {
		g.log = slog.New(slog.DiscardHandler)
	}
	if g.telemetry == nil {
		g.telemetry = telemetry.Nop()
	}
	g.relay = newRelay(client, g.log, config.Limits.Generations)
	g.cluster = newCluster(client)
	g.generate = g.relay.generate
	if err := g.listen(deps.TLS); err != nil {
		return nil, err
	}
	return g, nil
}

// listen opens both listeners and makes their servers.
func (g *Gateway) listen(tlsConfig *tls.Config) error {
	httpAt := listener{"--listen", g.config.Listen}
	grpcAt := listener{"--grpc-listen", g.config.GRPCListen}
	httpPublic, err := httpAt.check(g.config, tlsConfig != nil)
	if err != nil {
		return err
	}
	grpcPublic, err := grpcAt.check(g.config, tlsConfig != nil)
	if err != nil {
		return err
	}
	if g.httpAddr, err = httpAt.listen(); err != nil {
		return err
	}
	if g.grpcAddr, err = grpcAt.listen(); err != nil {
		g.httpAddr.Close()
		return err
	}
	g.http = g.newHTTPServer(g.tlsFor(httpPublic, tlsConfig))
	g.grpc, g.health = g.newGRPCServer(g.tlsFor(grpcPublic, tlsConfig), !grpcPublic || g.config.Reflection)
	return nil
}

// tlsFor returns the TLS of a listener, nil for none.
func (g *Gateway) tlsFor(public bool, config *tls.Config) *tls.Config {
	if !public || g.config.TLSOff {
		return nil
	}
	return config
}

// HTTPAddr is the address that the HTTP listener really has.
func (g *Gateway) HTTPAddr() net.Addr { return g.httpAddr.Addr() }

// GRPCAddr is the address that the gRPC listener really has.
func (g *Gateway) GRPCAddr() net.Addr { return g.grpcAddr.Addr() }

// URL is where a browser finds the page.
func (g *Gateway) URL() string {
	scheme := "http"
	if g.http.TLSConfig != nil {
		scheme = "https"
	}
	return scheme + "://" + g.httpAddr.Addr().String()
}

// Run serves until ctx ends, then drains: new requests are refused, answers may
// go on for the drain time, and what is left then is stopped. It returns when
// everything it started has returned; a failing listener ends it with an error.
func (g *Gateway) Run(ctx context.Context) error {
	// The relay outlives ctx: draining answers still come over it.
	relayCtx, stopRelay := context.WithCancel(context.WithoutCancel(ctx))
	defer stopRelay()
	relayDone := make(chan error, 1)
	go func() { relayDone <- g.relay.Run(relayCtx) }()

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return ignore(g.serveHTTP(), http.ErrServerClosed) })
	group.Go(func() error { return ignore(g.grpc.Serve(g.grpcAddr), grpc.ErrServerStopped) })
	group.Go(func() error { return g.watchHealth(ctx) })
	group.Go(func() error {
		<-ctx.Done()
		g.drain()
		return nil
	})
	err := group.Wait()
	stopRelay()
	return errors.Join(err, <-relayDone)
}

func (g *Gateway) serveHTTP() error {
	if g.http.TLSConfig != nil {
		return g.http.ServeTLS(g.httpAddr, "", "")
	}
	return g.http.Serve(g.httpAddr)
}

func ignore(err, expected error) error {
	if errors.Is(err, expected) {
		return nil
	}
	return err
}

// drainGrace is how long clients have to read their last event.
const drainGrace = time.Second

// drain ends serving: refuse, wait, stop, close.
func (g *Gateway) drain() {
	close(g.draining)
	g.health.Shutdown()
	timer := time.AfterFunc(g.config.Limits.Drain, func() { close(g.drained) })
	defer timer.Stop()
	ctx, cancel := context.WithTimeout(context.Background(), g.config.Limits.Drain+drainGrace)
	defer cancel()
	var group errgroup.Group
	group.Go(func() error {
		if err := g.http.Shutdown(ctx); err != nil {
			return g.http.Close()
		}
		return nil
	})
	group.Go(func() error {
		stop := context.AfterFunc(ctx, g.grpc.Stop)
		defer stop()
		g.grpc.GracefulStop()
		return nil
	})
	group.Go(func() error {
		g.sockets.empty(ctx)
		close(g.cut)
		g.sockets.empty(context.Background()) // cut sockets end at once
		return nil
	})
	_ = group.Wait() // what did not end in time was closed
}

func (g *Gateway) isDraining() bool {
	select {
	case <-g.draining:
		return true
	default:
		return false
	}
}

// untilDrained returns a context that also ends when the drain time is over.
func (g *Gateway) untilDrained(ctx context.Context) (context.Context, context.CancelFunc) {
	return until(ctx, g.drained, errDrain)
}

// until returns a context that also ends, with that cause, when done is closed.
func until(ctx context.Context, done <-chan struct{}, cause error) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-done:
			cancel(cause)
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(errClient) }
}

// turnstile counts who is inside.
type turnstile struct {
	limit  int64
	inside atomic.Int64
}

// enter lets one more in, unless the limit is reached.
func (t *turnstile) enter() bool {
	if t.inside.Add(1) > t.limit {
		t.inside.Add(-1)
		return false
	}
	return true
}

func (t *turnstile) leave() { t.inside.Add(-1) }

// empty waits until nobody is inside or ctx ends.
func (t *turnstile) empty(ctx context.Context) {
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for t.inside.Load() > 0 {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}
