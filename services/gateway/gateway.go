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
	"sync"
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
	TLS         *tls.Config              // of listeners that are not loopback, or of all with Config.TLSAlways; nil: none
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
	claim     claimFunc
	sockets   turnstile
	crowd     *crowd
	shelf     *shelf
	tickets   *tickets
	bulk      chan struct{} // holds a token for each large request that is being read
	flights   *flights
	repeats   *repeats
	board     *board
	known     atomic.Pointer[readiness] // by watchHealth
	draining  *occasion                 // no new request may begin
	drained   *occasion                 // what still runs must end
	cut       *occasion                 // sockets that did not say goodbye are cut

	http     *http.Server
	grpc     *grpc.Server
	health   *health.Server
	httpAddr net.Listener
	grpcAddr net.Listener
	ollama   *http.Server // nil unless served
	ollamaAt net.Listener
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
		crowd:     newCrowd(config),
		shelf:     newShelf(2 * config.Limits.Generations),
		tickets:   newTickets(),
		bulk:      make(chan struct{}, bulkAtOnce),
		flights:   newFlights(),
		repeats:   newRepeats(),
		board:     newBoard(),
		draining:  newOccasion(),
		drained:   newOccasion(),
		cut:       newOccasion(),
	}
	if g.log == nil {
		g.log = slog.New(slog.DiscardHandler)
	}
	if g.telemetry == nil {
		g.telemetry = telemetry.Nop()
	}
	g.relay = newRelay(client, g.log, config.Limits, g.draining)
	g.cluster = newCluster(client)
	g.generate, g.claim = g.relay.generate, g.relay.adopt
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
	if err := g.listenOllama(tlsConfig); err != nil {
		g.httpAddr.Close()
		g.grpcAddr.Close()
		return err
	}
	g.http = g.newHTTPServer(g.tlsFor(httpPublic, tlsConfig))
	g.grpc, g.health = g.newGRPCServer(g.tlsFor(grpcPublic, tlsConfig), !grpcPublic || g.config.Reflection)
	return nil
}

// listenOllama opens the listener of the Ollama API, if it is served.
func (g *Gateway) listenOllama(tlsConfig *tls.Config) error {
	if g.config.Ollama == "" {
		return nil
	}
	at := listener{"--ollama", g.config.Ollama}
	public, err := at.check(g.config, tlsConfig != nil)
	if err != nil {
		return err
	}
	if g.ollamaAt, err = at.listen(); err != nil {
		return err
	}
	g.ollama = g.newOllamaServer(g.tlsFor(public, tlsConfig))
	return nil
}

// tlsFor returns the TLS of a listener, nil for none.
func (g *Gateway) tlsFor(public bool, config *tls.Config) *tls.Config {
	if g.config.TLSOff || !public && !g.config.TLSAlways {
		return nil
	}
	return config
}

// HTTPAddr is the address that the HTTP listener really has.
func (g *Gateway) HTTPAddr() net.Addr { return g.httpAddr.Addr() }

// GRPCAddr is the address that the gRPC listener really has.
func (g *Gateway) GRPCAddr() net.Addr { return g.grpcAddr.Addr() }

// OllamaAddr is the address that the Ollama listener really has, nil without one.
func (g *Gateway) OllamaAddr() net.Addr {
	if g.ollamaAt == nil {
		return nil
	}
	return g.ollamaAt.Addr()
}

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
	group.Go(func() error { return ignore(serveHTTP(g.http, g.httpAddr), http.ErrServerClosed) })
	if g.ollama != nil {
		group.Go(func() error { return ignore(serveHTTP(g.ollama, g.ollamaAt), http.ErrServerClosed) })
	}
	group.Go(func() error { return ignore(g.grpc.Serve(g.grpcAddr), grpc.ErrServerStopped) })
	group.Go(func() error { return g.watchHealth(ctx) })
	group.Go(func() error { return g.access.keys.watch(ctx, g.log) })
	group.Go(func() error { return g.board.Run(ctx, g.report) })
	group.Go(func() error {
		<-ctx.Done()
		g.drain()
		return nil
	})
	err := group.Wait()
	stopRelay()
	return errors.Join(err, <-relayDone)
}

func serveHTTP(s *http.Server, at net.Listener) error {
	if s.TLSConfig != nil {
		return s.ServeTLS(at, "", "")
	}
	return s.Serve(at)
}

// shutHTTP ends a server when its answers have, or at once when ctx ends.
func shutHTTP(ctx context.Context, s *http.Server) error {
	if s == nil {
		return nil
	}
	if err := s.Shutdown(ctx); err != nil {
		return s.Close()
	}
	return nil
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
	g.draining.happen()
	g.shelf.close()
	g.health.Shutdown()
	timer := time.AfterFunc(g.config.Limits.Drain, g.drained.happen)
	defer timer.Stop()
	ctx, cancel := context.WithTimeout(context.Background(), g.config.Limits.Drain+drainGrace)
	defer cancel()
	var group errgroup.Group
	group.Go(func() error { return shutHTTP(ctx, g.http) })
	group.Go(func() error { return shutHTTP(ctx, g.ollama) })
	group.Go(func() error {
		stop := context.AfterFunc(ctx, g.grpc.Stop)
		defer stop()
		g.grpc.GracefulStop()
		return nil
	})
	group.Go(func() error {
		g.sockets.empty(ctx)
		g.cut.happen()
		g.sockets.empty(context.Background()) // cut sockets end at once
		return nil
	})
	_ = group.Wait() // what did not end in time was closed
	g.shelf.clear()
}

func (g *Gateway) isDraining() bool {
	select {
	case <-g.draining.done:
		return true
	default:
		return false
	}
}

// untilDrained returns a context that also ends when the drain time is over.
func (g *Gateway) untilDrained(ctx context.Context) (context.Context, context.CancelFunc) {
	return until(ctx, g.drained, errDrain)
}

// until returns a context that also ends, with that cause, when o happens.
func until(ctx context.Context, o *occasion, cause error) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := o.watch(func() { cancel(cause) })
	return ctx, func() {
		stop()
		cancel(errClient)
	}
}

// crowd counts the open sockets of each key. Without keys there is no telling
// who is who, and no limit but that of all.
type crowd struct {
	limit int

	mu     sync.Mutex // guards following
	inside map[string]int
}

func newCrowd(c Config) *crowd {
	limit := c.Limits.SocketsPerKey
	if len(c.APIKeys) == 0 && c.Keys == "" {
		limit = c.Limits.Sockets
	}
	return &crowd{limit: limit, inside: map[string]int{}}
}

// enter lets in one more socket of a tenant, unless it has its limit.
func (c *crowd) enter(tenant string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inside[tenant] >= c.limit {
		return false
	}
	c.inside[tenant]++
	return true
}

func (c *crowd) leave(tenant string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inside[tenant]--; c.inside[tenant] == 0 {
		delete(c.inside, tenant)
	}
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
