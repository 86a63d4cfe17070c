package gateway

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"net"
	"net/http"
	"sync"
	"time"
	"unicode/utf8"
)

// Buffers of a WebSocket's connection. There are thousands of them, and they
// carry short frames; a longer frame takes a second system call.
const (
	lineReadBuffer  = 512
	lineWriteBuffer = 512
	lineKeepFrame   = 4 << 10
	lineSendBuffer  = 32 << 10 // the kernel's: what a client that reads nothing is worth
)

// line is the connection under a WebSocket, which writes control frames to it,
// each in one call. A socket whose frames are short and many writes its text
// past the WebSocket, by send alone: a token then costs one system call and
// little else. Every write has a deadline, which is moved only when it comes
// near, so that a token needs no timer of its own either.
type line struct {
	net.Conn
	timeout time.Duration

	mu       sync.Mutex // guards following, and writing
	deadline time.Time  // of writing
	closing  bool       // a close frame was written
	frame    []byte     // the frame of send
}

// The first byte of a frame that is a message or its end: RFC 6455, section 5.2.
const (
	frameText  = 0x81
	frameClose = 0x88
)

// Write gives up when the peer has taken nothing for the timeout and, at most,
// an eighth more.
func (l *line) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(p) > 0 && p[0] == frameClose {
		l.closing = true
		if !utf8.Valid(closeReason(p)) {
			if _, err := l.write(badReason); err != nil {
				return 0, err
			}
			return len(p), nil
		}
	}
	return l.write(p)
}

// badReason is the close frame, of code 1007, that answers one whose reason is
// no text: the WebSocket would repeat it as it is.
var badReason = []byte{frameClose, 2, 0x03, 0xef}

// closeReason is the text of a close frame: what follows its head and code.
func closeReason(frame []byte) []byte {
	const before = 4
	return frame[min(before, len(frame)):]
}

// send writes a text message as one frame. Nothing follows a close frame.
func (l *line) send(text []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closing {
		return net.ErrClosed
	}
	switch n := len(text); {
	case n < 126:
		l.frame = append(l.frame[:0], frameText, byte(n))
	case n < 1<<16:
		l.frame = binary.BigEndian.AppendUint16(append(l.frame[:0], frameText, 126), uint16(n))
	default:
		l.frame = binary.BigEndian.AppendUint64(append(l.frame[:0], frameText, 127), uint64(n))
	}
	l.frame = append(l.frame, text...)
	_, err := l.write(l.frame)
	if cap(l.frame) > lineKeepFrame {
		l.frame = nil
	}
	return err
}

// write writes under the deadline. The lock is held.
func (l *line) write(p []byte) (int, error) {
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

// hijacker is a request whose connection becomes a line.
type hijacker struct {
	http.ResponseWriter
	timeout time.Duration
	line    *line // once hijacked
}

// Hijack takes the connection from the server.
func (w *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	limitSendBuffer(conn)
	l := &line{Conn: conn, timeout: w.timeout}
	w.line = l
	reader := buffered.Reader
	if reader.Buffered() == 0 { // else it holds what the client sent too early
		reader = bufio.NewReaderSize(l, lineReadBuffer)
	}
	return l, bufio.NewReadWriter(reader, bufio.NewWriterSize(l, lineWriteBuffer)), nil
}
