package pki

import (
	"context"
	"fmt"
	"net"
	"sync"

	"google.golang.org/grpc/credentials"
)

// guard knows who was shut out of the cluster, and every connection through the
// credentials of its identity, so that it can end those of somebody who is shut
// out while they are open.
type guard struct {
	mu     sync.Mutex // guards following
	denied map[string]bool
	open   map[*guardedConn]string // fingerprints
}

func newGuard() *guard { return &guard{denied: map[string]bool{}, open: map[*guardedConn]string{}} }

// Deny replaces the list of keys, by fingerprint, that are shut out: their
// handshakes are refused from now on and their open connections are closed. A
// fingerprint that is no longer in the list may connect again.
func (g *guard) Deny(fingerprints []string) {
	denied := setOf(fingerprints)
	var closing []*guardedConn
	g.mu.Lock()
	g.denied = denied
	for c, f := range g.open {
		if denied[f] {
			closing = append(closing, c)
		}
	}
	g.mu.Unlock()
	for _, c := range closing {
		_ = c.Close() // it may be closing already
	}
}

// Refuse is Deny for connections that are made from now on; open ones stay until
// Deny.
func (g *guard) Refuse(fingerprints []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.denied = setOf(fingerprints)
}

func setOf(list []string) map[string]bool {
	out := map[string]bool{}
	for _, f := range list {
		out[f] = true
	}
	return out
}

// Denied reports whether a key is shut out.
func (g *guard) Denied(fingerprint string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.denied[fingerprint]
}

// enter takes a connection whose handshake has succeeded, unless the peer was shut
// out meanwhile.
func (g *guard) enter(conn net.Conn, info credentials.AuthInfo) (net.Conn, credentials.AuthInfo, error) {
	state, ok := info.(credentials.TLSInfo)
	if !ok {
		return conn, info, nil
	}
	peer, err := PeerFromTLS(state.State)
	if err != nil {
		_ = conn.Close()
		return nil, nil, err
	}
	c := &guardedConn{Conn: conn, guard: g}
	g.mu.Lock()
	denied := g.denied[peer.Fingerprint]
	if !denied {
		g.open[c] = peer.Fingerprint
	}
	g.mu.Unlock()
	if denied {
		_ = conn.Close()
		return nil, nil, fmt.Errorf("%w: node %s was shut out of the cluster (revoked)", ErrPeer, peer.NodeID)
	}
	return c, info, nil
}

// guardedConn is a connection that its guard knows.
type guardedConn struct {
	net.Conn
	guard *guard
}

// Close closes the connection and has the guard forget it.
func (c *guardedConn) Close() error {
	c.guard.mu.Lock()
	delete(c.guard.open, c)
	c.guard.mu.Unlock()
	return c.Conn.Close()
}

// guarded are credentials whose connections a guard knows.
type guarded struct {
	credentials.TransportCredentials
	guard *guard
}

// ServerHandshake shakes hands and notes the connection.
func (g guarded) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := g.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		return conn, info, err
	}
	return g.guard.enter(conn, info)
}

// ClientHandshake shakes hands and notes the connection.
func (g guarded) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := g.TransportCredentials.ClientHandshake(ctx, authority, raw)
	if err != nil {
		return conn, info, err
	}
	return g.guard.enter(conn, info)
}

// Clone returns credentials with the same guard.
func (g guarded) Clone() credentials.TransportCredentials {
	return guarded{g.TransportCredentials.Clone(), g.guard}
}
