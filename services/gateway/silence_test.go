package gateway

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"github.com/shoal-llm/shoal/internal/telemetry"
)

// silentWriter is a connection in virtual time.
type silentWriter struct {
	header http.Header
	wrote  []string
}

func (w *silentWriter) Header() http.Header              { return w.header }
func (w *silentWriter) WriteHeader(int)                  {}
func (w *silentWriter) Flush()                           {}
func (w *silentWriter) SetWriteDeadline(time.Time) error { return nil }
func (w *silentWriter) Write(p []byte) (int, error) {
	w.wrote = append(w.wrote, string(p))
	return len(p), nil
}

// A silent stream shows every 15 seconds that it lives, and not before its
// headers were due.
func TestStreamPings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &silentWriter{header: http.Header{}}
		s := newSSEWriter(w, time.Second)
		end := s.keepAlive()
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(w.wrote) != 0 {
			t.Errorf("wrote %q before the answer began", w.wrote)
		}
		if err := s.event(1); err != nil {
			t.Fatal(err)
		}
		time.Sleep(ssePing + ssePing/2)
		synctest.Wait()
		end()
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := strings.Join(w.wrote, ""); got != "data: 1\n\n: ping\n\n" {
			t.Errorf("wrote %q", got)
		}
	})
}

// pipeListener hands out connections in memory.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error   { close(l.closed); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 80} }

func (l *pipeListener) dial(context.Context, string, string) (net.Conn, error) {
	near, far := net.Pipe()
	l.conns <- far
	return near, nil
}

// bareGateway is one without listeners and without a coordinator.
func bareGateway() *Gateway {
	config := Config{}.withDefaults()
	return &Gateway{
		config: config, access: &access{keys: &keyring{}}, log: slog.New(slog.DiscardHandler), telemetry: telemetry.Nop(),
		sockets: turnstile{limit: 1}, crowd: newCrowd(config), shelf: newShelf(4),
		tickets: newTickets(), flights: newFlights(), repeats: newRepeats(), board: newBoard(),
		draining: newOccasion(), drained: newOccasion(), cut: newOccasion(),
	}
}

// inVirtualTime serves /streaming over a pipe and connects one client.
func inVirtualTime(t *testing.T, protocol string, use func(*testing.T, *websocket.Conn)) {
	synctest.Test(t, func(t *testing.T) {
		g := bareGateway()
		l := &pipeListener{make(chan net.Conn), make(chan struct{})}
		server := &http.Server{Handler: http.HandlerFunc(g.streaming)}
		go server.Serve(l)
		client := &http.Client{Transport: &http.Transport{DialContext: l.dial}}
		conn, _, err := websocket.Dial(t.Context(), "http://localhost/streaming", &websocket.DialOptions{
			HTTPClient: client, Subprotocols: []string{protocol},
		})
		if err != nil {
			t.Fatal(err)
		}
		use(t, conn)
		conn.CloseNow()
		synctest.Wait()
		if n := g.sockets.inside.Load(); n != 0 {
			t.Errorf("%d sockets are left", n)
		}
		client.CloseIdleConnections()
		server.Close()
	})
}

// W09: a client that answers pings is kept until nobody has used it for long, on
// both protocols.
func TestIdleSocketIsClosed(t *testing.T) {
	for _, protocol := range []string{plainProtocol, richProtocol} {
		inVirtualTime(t, protocol, func(t *testing.T, conn *websocket.Conn) {
			began := time.Now()
			_, _, err := conn.Read(t.Context()) // answers pings meanwhile
			if websocket.CloseStatus(err) != statusIdle {
				t.Errorf("%s: closed with %v", protocol, err)
			}
			if after := time.Since(began); after < 15*time.Minute || after > 16*time.Minute {
				t.Errorf("%s: closed after %v", protocol, after)
			}
		})
	}
}

// W07: a client that does not answer two pings is gone, on both protocols.
func TestDeadSocketIsCut(t *testing.T) {
	for _, protocol := range []string{plainProtocol, richProtocol} {
		inVirtualTime(t, protocol, func(t *testing.T, conn *websocket.Conn) {
			time.Sleep(2 * time.Minute) // reads nothing, so answers nothing
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			for {
				_, _, err := conn.Read(ctx)
				if errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%s: the socket is still open", protocol)
				}
				if err != nil {
					return
				}
			}
		})
	}
}
