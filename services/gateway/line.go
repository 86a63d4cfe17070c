package gateway

import (
	"bufio"
	"crypto/tls"
	"net"
	"net/http"
	"time"
)

// Buffers of a WebSocket's connection. There are thousands of them, and they
// carry short frames; a longer frame takes a second system call.
const (
	lineReadBuffer  = 512
	lineWriteBuffer = 512
	lineSendBuffer  = 32 << 10 // the kernel's: what a client that reads nothing is worth
)

// line is the connection under a WebSocket. Every write has a deadline, which
// is moved only when it comes near: a token needs no timer of its own. One
// goroutine writes at a time.
type line struct {
	net.Conn
	timeout  time.Duration
	deadline time.Time // of writing
}

// Write gives up when the peer has taken nothing for the timeout and, at most,
// an eighth more.
func (l *line) Write(p []byte) (int, error) {
	if now := time.Now(); l.deadline.Sub(now) < l.timeout {
		l.deadline = now.Add(l.timeout + l.timeout/8)
		if err := l.SetWriteDeadline(l.deadline); err != nil {
			return 0, err
		}
	}
	return l.Conn.Write(p)
}

// limitSendBuffer bounds what the kernel holds for a connection over TCP.
func limitSendBuffer(c net.Conn) {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetWriteBuffer(lineSendBuffer) // else the kernel's own bound holds
	}
}

// hijacker hijacks its connection as a line.
type hijacker struct {
	http.ResponseWriter
	timeout time.Duration
}

// Hijack takes the connection from the server.
func (w hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	limitSendBuffer(conn)
	l := &line{Conn: conn, timeout: w.timeout}
	reader := buffered.Reader
	if reader.Buffered() == 0 { // else it holds what the client sent too early
		reader = bufio.NewReaderSize(l, lineReadBuffer)
	}
	return l, bufio.NewReadWriter(reader, bufio.NewWriterSize(l, lineWriteBuffer)), nil
}
