package gateway

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// Opcodes of RFC 6455, section 5.2, with the final bit.
const (
	fin         = 0x80
	opContinued = 0x0
	opText      = 0x1
	opClose     = 0x8
	opPing      = 0x9
	opPong      = 0xa
)

// wireFrame makes a masked frame, as a client sends it.
func wireFrame(first byte, payload string) []byte {
	b := []byte{first}
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	b = append(b, 0, 0, 0, 0) // a mask of zeros changes nothing
	return append(b, payload...)
}

func closeFrame(code uint16, reason string) []byte {
	return wireFrame(fin|opClose, string(binary.BigEndian.AppendUint16(nil, code))+reason)
}

// rawSocket is a client that may send anything.
type rawSocket struct {
	t    *testing.T
	conn net.Conn
	r    *bufio.Reader
}

func (f *front) raw(t *testing.T, protocol string) *rawSocket {
	t.Helper()
	conn, err := net.Dial("tcp", f.HTTPAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(conn, "GET /streaming HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: %s\r\n\r\n", f.HTTPAddr(), protocol)
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("handshake: %v, %v", resp, err)
	}
	return &rawSocket{t, conn, r}
}

// next reads a frame of the server.
func (s *rawSocket) next() (opcode byte, payload []byte, err error) {
	head := make([]byte, 2)
	if _, err := io.ReadFull(s.r, head); err != nil {
		return 0, nil, err
	}
	n := uint64(head[1])
	if n >= 126 {
		size := make([]byte, map[uint64]int{126: 2, 127: 8}[n])
		if _, err := io.ReadFull(s.r, size); err != nil {
			return 0, nil, err
		}
		n = binary.BigEndian.Uint64(append(make([]byte, 8-len(size)), size...))
	}
	payload = make([]byte, n)
	_, err = io.ReadFull(s.r, payload)
	return head[0] & 0xf, payload, err
}

// wantClose reads until the server closes with that code.
func (s *rawSocket) wantClose(code websocket.StatusCode) {
	s.t.Helper()
	for {
		opcode, payload, err := s.next()
		if err != nil {
			s.t.Errorf("the connection ended without a close frame: %v", err)
			return
		}
		if opcode == opClose {
			if got := websocket.StatusCode(binary.BigEndian.Uint16(payload)); got != code {
				s.t.Errorf("closed with %d %q, want %d", got, payload[2:], code)
			}
			s.conn.Write(closeFrame(1000, "")) // the handshake ends
			return
		}
	}
}

// W04, W05, W06, W12: what is no WebSocket closes the socket with the code that says
// what was wrong, on both protocols, and stops what ran on it.
func TestBadFrames(t *testing.T) {
	f := serve(t, func(c *Config, _ *Deps) { c.Limits.SocketFrame = 64 << 10 })
	f.fake.set((*fakeGeneration).silent)
	join := func(frames ...[]byte) []byte { return bytes.Join(frames, nil) }
	huge := append([]byte{fin | opText, 0x80 | 127}, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0)
	huge = append(huge, make([]byte, 65<<10)...)
	const broken = websocket.StatusProtocolError
	for name, c := range map[string]struct {
		send []byte
		code websocket.StatusCode
	}{
		"unmasked":                  {[]byte{fin | opText, 2, '{', '}'}, broken},
		"RSV1":                      {wireFrame(fin|0x40|opText, "{}"), broken},
		"RSV2":                      {wireFrame(fin|0x20|opText, "{}"), broken},
		"RSV3":                      {wireFrame(fin|0x10|opText, "{}"), broken},
		"opcode 3":                  {wireFrame(fin|3, "{}"), broken},
		"opcode 4":                  {wireFrame(fin|4, "{}"), broken},
		"opcode 5":                  {wireFrame(fin|5, "{}"), broken},
		"opcode 6":                  {wireFrame(fin|6, "{}"), broken},
		"opcode 12":                 {wireFrame(fin|12, "{}"), broken},
		"opcode 13":                 {wireFrame(fin|13, "{}"), broken},
		"opcode 14":                 {wireFrame(fin|14, "{}"), broken},
		"opcode 7":                  {wireFrame(fin|7, "{}"), broken},
		"opcode 11":                 {wireFrame(fin|11, "{}"), broken},
		"opcode 15":                 {wireFrame(fin|15, "{}"), broken},
		"long ping":                 {wireFrame(fin|opPing, strings.Repeat("x", 126)), broken},
		"long close":                {wireFrame(fin|opClose, strings.Repeat("x", 126)), broken},
		"fragmented ping":           {wireFrame(opPing, "x"), broken},
		"fragmented close":          {wireFrame(opClose, "\x03\xe8"), broken},
		"continuation of nothing":   {wireFrame(fin|opContinued, "{}"), broken},
		"text inside a message":     {join(wireFrame(opText, "{"), wireFrame(fin|opText, "}")), broken},
		"close code 0":              {closeFrame(0, ""), broken},
		"close code 999":            {closeFrame(999, ""), broken},
		"close code 1004":           {closeFrame(1004, ""), broken},
		"close code 1005":           {closeFrame(1005, ""), broken},
		"close code 1006":           {closeFrame(1006, ""), broken},
		"close code 5000":           {closeFrame(5000, ""), broken},
		"close of one byte":         {wireFrame(fin|opClose, "x"), broken},
		"close reason, no UTF-8":    {closeFrame(1000, "\xff"), websocket.StatusInvalidFramePayloadData},
		"invalid UTF-8":             {wireFrame(fin|opText, "\"\xff\""), websocket.StatusInvalidFramePayloadData},
		"invalid UTF-8, fragmented": {join(wireFrame(opText, "\"\xe2\x82"), wireFrame(fin|opContinued, "\"")), websocket.StatusInvalidFramePayloadData},
		"2^63-1 bytes":              {huge, websocket.StatusMessageTooBig},
		"too big":                   {wireFrame(fin|opText, strings.Repeat("x", 65<<10)), websocket.StatusMessageTooBig},
		"too big in tiny pieces": {
			append(wireFrame(opText, "x"), bytes.Repeat(wireFrame(opContinued, "x"), 65<<10)...), websocket.StatusMessageTooBig,
		},
		"binary": {wireFrame(fin|2, "{}"), websocket.StatusUnsupportedData},
	} {
		for protocol, start := range map[string]string{
			plainProtocol: `{"prompt":"x"}`,
			richProtocol:  `{"v":1,"type":"generate","id":"a","prompt":"x"}`,
		} {
			t.Run(protocol+"/"+name, func(t *testing.T) {
				s := f.raw(t, protocol)
				s.conn.Write(wireFrame(fin|opText, start))
				g := f.next(t)
				go s.conn.Write(c.send) // the server may close before it has read all
				s.wantClose(c.code)
				g.wantStop(t, "client")
			})
		}
	}
}

// A message may come in pieces, with pings between them, also inside a character.
func TestFragmentsAreJoined(t *testing.T) {
	f := serve(t)
	s := f.raw(t, richProtocol)
	text := `{"v":1,"type":"generate","id":"a","prompt":"日本"}`
	cut := strings.Index(text, "日") + 1
	s.conn.Write(wireFrame(opText, text[:cut]))
	s.conn.Write(wireFrame(fin|opPing, "are you there"))
	if opcode, payload, err := s.next(); opcode != opPong || string(payload) != "are you there" || err != nil {
		t.Errorf("opcode %d, %q, %v", opcode, payload, err)
	}
	s.conn.Write(wireFrame(fin|opContinued, text[cut:]))
	if g := f.next(t); g.GetPrompt() != "日本" {
		t.Errorf("the prompt arrived as %q", g.GetPrompt())
	}
}

// W07: a flood of pings or of frames closes the socket.
func TestFloodIsClosed(t *testing.T) {
	f := serve(t)
	for protocol, kind := range map[string]byte{plainProtocol: opPing, richProtocol: opPing, richProtocol + " ": opText} {
		s := f.raw(t, strings.TrimSpace(protocol))
		flood := bytes.Repeat(wireFrame(fin|kind, `{"v":1,"type":"ping"}`), 4*frameBurst)
		written := make(chan struct{})
		go func() {
			defer close(written)
			s.conn.Write(flood)
		}()
		s.wantClose(websocket.StatusPolicyViolation)
		s.conn.Close()
		<-written
	}
}

// W03: a handshake that is none.
func TestBadHandshakes(t *testing.T) {
	f := serve(t)
	const (
		connection = "Connection: Upgrade\r\n"
		upgrade    = "Upgrade: websocket\r\n"
		version    = "Sec-WebSocket-Version: 13\r\n"
		key        = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
	)
	for name, c := range map[string]struct {
		proto, headers string
		status         []int
	}{
		"good":         {"HTTP/1.1", connection + upgrade + version + key, []int{101}},
		"old version":  {"HTTP/1.1", connection + upgrade + "Sec-WebSocket-Version: 8\r\n" + key, []int{400, 426}},
		"no version":   {"HTTP/1.1", connection + upgrade + key, []int{400, 426}},
		"no key":       {"HTTP/1.1", connection + upgrade + version, []int{400}},
		"short key":    {"HTTP/1.1", connection + upgrade + version + "Sec-WebSocket-Key: AAAA\r\n", []int{400}},
		"no upgrade":   {"HTTP/1.1", version + key, []int{426}},
		"other":        {"HTTP/1.1", connection + "Upgrade: h2c\r\n" + version + key, []int{426}},
		"HTTP/1.0":     {"HTTP/1.0", connection + upgrade + version + key, []int{400, 426}},
		"compression":  {"HTTP/1.1", connection + upgrade + version + key + "Sec-WebSocket-Extensions: permessage-deflate\r\n", []int{101}},
		"two protocol": {"HTTP/1.1", connection + upgrade + version + key + "Sec-WebSocket-Protocol: " + richProtocol + ", " + plainProtocol + "\r\n", []int{101}},
	} {
		conn, err := net.Dial("tcp", f.HTTPAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(patience))
		fmt.Fprintf(conn, "GET /streaming %s\r\nHost: %s\r\n%s\r\n", c.proto, f.HTTPAddr(), c.headers)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else {
			found := false
			for _, s := range c.status {
				found = found || s == resp.StatusCode
			}
			if !found {
				t.Errorf("%s: status %d, want %v", name, resp.StatusCode, c.status)
			}
			if taken := resp.Header.Get("Sec-WebSocket-Extensions"); taken != "" { // W06: no deflate, no bomb
				t.Errorf("%s: the extension %q is taken up", name, taken)
			}
			if name == "two protocol" && resp.Header.Get("Sec-WebSocket-Protocol") != richProtocol {
				t.Errorf("the protocol is %q, want the one that was offered first", resp.Header.Get("Sec-WebSocket-Protocol"))
			}
		}
		conn.Close()
	}
}

// A client that closes as it should gets its code back.
func TestCloseIsAnswered(t *testing.T) {
	f := serve(t)
	s := f.raw(t, richProtocol)
	s.conn.Write(closeFrame(1001, "leaving"))
	opcode, payload, err := s.next()
	if err != nil || opcode != opClose || !bytes.HasPrefix(payload, []byte{3, 0xe9}) {
		t.Errorf("opcode %d, %q, %v", opcode, payload, err)
	}
	if _, _, err := s.next(); !errors.Is(err, io.EOF) {
		t.Errorf("then %v", err)
	}
}
