//go:build linux

package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// kind is how a client talks to the gateway.
type kind int

const (
	webSocket kind = iota
	sse
)

// phase is how far a client has come.
type phase int

const (
	connecting phase = iota
	upgrading        // the handshake was sent
	idle             // a WebSocket that has asked nothing
	asked
	streaming // the first token came
	complete
	closed
)

// client is one connection. Only the crowd's goroutine touches it.
type client struct {
	fd      int
	kind    kind
	phase   phase
	prompt  string // "RATE PAD"
	tokens  int    // wanted at most
	rest    []byte // what was read of an unfinished message
	body    []byte // of HTTP: what is left of the headers or the chunks
	seq     uint64 // of the last token
	began   int64  // Unix nanoseconds of the connect, then of the question
	stalled bool   // it reads no more
	group   int    // whose histogram it fills
}

// Errors of a stream.
var (
	errOrder = errors.New("tokens out of order")
	errShort = errors.New("a stream ended before it was complete")
)

const (
	handshake = "GET /streaming HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAECAwQFBgcICQoLDA0ODw==\r\n\r\n"
	chatRequest = "POST /v1/chat/completions HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
	chatBody    = `{"model":"","stream":true,"max_tokens":%d,"messages":[{"role":"user","content":"%s"}]}`
	plainBody   = `{"prompt":"%s","maxTokens":%d}`
)

// dial begins to connect from one of many loopback addresses, since each has
// ports for 28,000 connections only.
func dial(to netip.AddrPort, from byte, receiveBuffer int) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("socket: %w", err)
	}
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	if receiveBuffer > 0 {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 1, from}}); err != nil {
		return 0, errors.Join(fmt.Errorf("bind: %w", err), unix.Close(fd))
	}
	err = unix.Connect(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())})
	if err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return 0, errors.Join(fmt.Errorf("connect: %w", err), unix.Close(fd))
	}
	return fd, nil
}

// write sends a request, which fits any socket buffer.
func (c *client) write(data []byte) error {
	n, err := unix.Write(c.fd, data)
	if err == nil && n < len(data) {
		err = errors.New("the socket buffer is full")
	}
	if err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

// text is a masked WebSocket text frame; the mask is zero.
func text(payload string) []byte {
	b := []byte{0x81, 0x80 | byte(len(payload)), 0, 0, 0, 0}
	if len(payload) > 125 {
		b = []byte{0x81, 0x80 | 126, byte(len(payload) >> 8), byte(len(payload)), 0, 0, 0, 0}
	}
	return append(b, payload...)
}

// closeFrame says goodbye with status 1000.
var closeFrame = []byte{0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8}

// pong answers a ping.
func pong(payload []byte) []byte {
	return append([]byte{0x8a, 0x80 | byte(len(payload)), 0, 0, 0, 0}, payload...)
}

// nextFrame splits the first frame of a server from data; ok is false while it
// is not whole.
func nextFrame(data []byte) (op byte, payload, rest []byte, ok bool) {
	if len(data) < 2 {
		return 0, nil, data, false
	}
	n, head := int(data[1]&0x7f), 2
	switch n {
	case 126:
		if len(data) < 4 {
			return 0, nil, data, false
		}
		n, head = int(binary.BigEndian.Uint16(data[2:])), 4
	case 127:
		if len(data) < 10 {
			return 0, nil, data, false
		}
		n, head = int(binary.BigEndian.Uint64(data[2:])), 10
	}
	if len(data) < head+n {
		return 0, nil, data, false
	}
	return data[0] & 0x0f, data[head : head+n], data[head+n:], true
}

// nextChunk splits the first chunk of an HTTP body from data.
func nextChunk(data []byte) (payload, rest []byte, ok bool, err error) {
	end := bytes.Index(data, []byte("\r\n"))
	if end < 0 {
		return nil, data, false, nil
	}
	n, err := strconv.ParseUint(string(data[:end]), 16, 31)
	if err != nil {
		return nil, data, false, fmt.Errorf("chunk size %q", data[:end])
	}
	whole := end + 2 + int(n) + 2
	if len(data) < whole {
		return nil, data, false, nil
	}
	return data[end+2 : whole-2], data[whole:], true, nil
}

// stampIn reads the stamp of a token: the text that follows member.
func stampIn(message []byte, member string) (sent int64, seq uint64, ok bool) {
	i := bytes.Index(message, []byte(member))
	if i < 0 {
		return 0, 0, false
	}
	b := message[i+len(member):]
	sent, b = base36(b)
	if len(b) == 0 || b[0] != '.' {
		return 0, 0, false
	}
	n, b := base36(b[1:])
	return sent, uint64(n), len(b) > 0 && b[0] == ' '
}

// base36 reads a number and returns what follows.
func base36(b []byte) (n int64, rest []byte) {
	for len(b) > 0 {
		switch d := b[0]; {
		case d >= '0' && d <= '9':
			n = n*36 + int64(d-'0')
		case d >= 'a' && d <= 'z':
			n = n*36 + int64(d-'a') + 10
		default:
			return n, b
		}
		b = b[1:]
	}
	return n, b
}

// numberIn reads the decimal number that follows member; -1 without one.
func numberIn(message []byte, member string) int {
	i := bytes.Index(message, []byte(member))
	if i < 0 {
		return -1
	}
	n, digits := 0, 0
	for _, d := range message[i+len(member):] {
		if d < '0' || d > '9' {
			break
		}
		n, digits = n*10+int(d-'0'), digits+1
	}
	if digits == 0 {
		return -1
	}
	return n
}

// now is the clock of stamps.
func now() int64 { return time.Now().UnixNano() }
