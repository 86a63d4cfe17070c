package gateway

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"time"
)

// Default addresses: both are loopback, so both are open without a key.
const (
	DefaultListen     = "127.0.0.1:8080"
	DefaultGRPCListen = "127.0.0.1:8081"
)

// Config is what an operator chooses. The zero value is the default.
type Config struct {
	Listen     string // HTTP and WebSocket; empty: DefaultListen; port 0 takes a free one
	GRPCListen string // gRPC; empty: DefaultGRPCListen; port 0 takes a free one
	Ollama     string // the Ollama API; empty: not served; port 0 takes a free one

	Version string // of the program, as clients are told

	// APIKeys may ask. With none, everybody who reaches a loopback listener may.
	APIKeys []string

	// Keys is a file of keys with limits (package apikey). It is read again when it
	// changes. With one, a key is needed on loopback too.
	Keys string

	// TLSOff is the one way to serve other machines without TLS: behind a
	// proxy that ends it, or inside a container whose port is published on
	// loopback. A loopback listener never uses TLS.
	TLSOff bool
	// TLSAlways serves loopback by TLS too: a certificate that was given is used.
	TLSAlways bool

	AllowedHosts   []string // names beside localhost and own addresses, without a port
	AllowedOrigins []string // scheme://host[:port] of pages on other hosts
	Reflection     bool     // offer gRPC reflection on a listener that is not loopback

	Limits Limits
}

// Limits bound what clients can make the gateway hold. A zero field takes its
// default.
type Limits struct {
	Body          int64         // bytes of an HTTP request; 16 MiB
	SocketFrame   int64         // bytes of a WebSocket message; 16 MiB
	Generations   int           // at once; 1024
	Sockets       int           // open WebSockets; 4096
	SocketsPerKey int           // of them with one API key; 1024
	Messages      int           // turns of one conversation; 2048
	WriteTimeout  time.Duration // how long a client may read nothing; 10 s
	SocketIdle    time.Duration // how long a socket may ask nothing; 15 min
	Drain         time.Duration // how long answers may go on at shutdown; 30 s
	Recovery      time.Duration // how long an interrupted answer waits for a coordinator; 30 s
}

func (c Config) withDefaults() Config {
	c.Listen = orDefault(c.Listen, DefaultListen)
	c.GRPCListen = orDefault(c.GRPCListen, DefaultGRPCListen)
	l := &c.Limits
	l.Body = orDefault(l.Body, 16<<20)
	l.SocketFrame = orDefault(l.SocketFrame, 16<<20)
	l.Generations = orDefault(l.Generations, 1024)
	l.Sockets = orDefault(l.Sockets, 4096)
	l.SocketsPerKey = orDefault(l.SocketsPerKey, 1024)
	l.Messages = orDefault(l.Messages, 2048)
	l.WriteTimeout = orDefault(l.WriteTimeout, 10*time.Second)
	l.SocketIdle = orDefault(l.SocketIdle, 15*time.Minute)
	l.Drain = orDefault(l.Drain, 30*time.Second)
	l.Recovery = orDefault(l.Recovery, 30*time.Second)
	return c
}

func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

// listener is an address to serve and the flag that chose it.
type listener struct {
	flag, address string
}

// public reports whether other machines can reach the address.
func (l listener) public() (bool, error) {
	host, _, err := net.SplitHostPort(l.address)
	if err != nil {
		return false, fmt.Errorf("%s %s: want HOST:PORT, like 127.0.0.1:8080", l.flag, l.address)
	}
	if strings.EqualFold(host, "localhost") {
		return false, nil
	}
	ip := net.ParseIP(host)
	return ip == nil || !ip.IsLoopback(), nil
}

// check refuses a listener that would serve other machines without a key or,
// unless that was said aloud, without TLS.
func (l listener) check(c Config, haveTLS bool) (public bool, err error) {
	public, err = l.public()
	if err != nil || !public {
		return public, err
	}
	if len(c.APIKeys) == 0 && c.Keys == "" {
		return true, fmt.Errorf("%s %s can be reached from other machines, so it needs an API key: give one with --api-key or --keys, or listen on 127.0.0.1", l.flag, l.address)
	}
	if !haveTLS && !c.TLSOff {
		return true, fmt.Errorf("%s %s can be reached from other machines, so it needs TLS: give a certificate, or say --tls=off when a proxy in front ends TLS", l.flag, l.address)
	}
	return true, nil
}

func (l listener) listen() (net.Listener, error) {
	ln, err := net.Listen("tcp", l.address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%s is in use by another program: choose another address with %s", l.address, l.flag)
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %s (%s): %w", l.address, l.flag, err)
	}
	return ln, nil
}
