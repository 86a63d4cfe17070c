package gateway

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// Types and flags of HTTP/2 frames: RFC 9113, section 6.
const (
	h2Headers   = 1
	h2Reset     = 3
	h2Settings  = 4
	h2GoAway    = 7
	h2EndStream = 1
	h2EndHeader = 4

	h2ConnectProtocol = 8    // the setting of RFC 8441
	h2OK              = 0x88 // ":status: 200" of HPACK's static table
)

// h2Frame makes a frame.
func h2Frame(kind, flags byte, stream uint32, payload []byte) []byte {
	n := len(payload)
	b := []byte{byte(n >> 16), byte(n >> 8), byte(n), kind, flags}
	return append(binary.BigEndian.AppendUint32(b, stream), payload...)
}

// h2Fields encodes header fields as literals without an index: RFC 7541,
// section 6.2.2. Names and values are short.
func h2Fields(fields ...string) (b []byte) {
	for i := 0; i < len(fields); i += 2 {
		b = append(b, 0, byte(len(fields[i])))
		b = append(b, fields[i]...)
		b = append(b, byte(len(fields[i+1])))
		b = append(b, fields[i+1]...)
	}
	return b
}

// h2Next reads frames until one is of a wanted kind.
func h2Next(t *testing.T, conn io.Reader, kinds ...byte) (kind byte, stream uint32, payload []byte) {
	t.Helper()
	for {
		head := make([]byte, 9)
		if _, err := io.ReadFull(conn, head); err != nil {
			t.Fatal(err)
		}
		payload := make([]byte, int(head[0])<<16|int(head[1])<<8|int(head[2]))
		if _, err := io.ReadFull(conn, payload); err != nil {
			t.Fatal(err)
		}
		if bytes.IndexByte(kinds, head[3]) >= 0 {
			return head[3], binary.BigEndian.Uint32(head[5:]), payload
		}
	}
}

// W11: a WebSocket over HTTP/2 (RFC 8441) is not offered, and one that is asked
// for nevertheless is refused alone: its connection goes on serving others.
func TestW11ExtendedConnectIsRefused(t *testing.T) {
	certificate := selfSigned(t)
	f := serve(t, func(c *Config, d *Deps) {
		c.Listen, c.APIKeys = "0.0.0.0:0", []string{"sesame"}
		d.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
	})
	_, port, _ := net.SplitHostPort(f.HTTPAddr().String())
	conn, err := tls.Dial("tcp", "127.0.0.1:"+port, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.Write(append([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), h2Frame(h2Settings, 0, 0, nil)...)); err != nil {
		t.Fatal(err)
	}
	_, _, settings := h2Next(t, conn, h2Settings)
	for ; len(settings) >= 6; settings = settings[6:] {
		if id, value := binary.BigEndian.Uint16(settings), binary.BigEndian.Uint32(settings[2:]); id == h2ConnectProtocol && value != 0 {
			t.Error("the server offers WebSockets over HTTP/2")
		}
	}
	connect := h2Fields(":method", "CONNECT", ":protocol", "websocket", ":scheme", "https", ":path", "/streaming",
		":authority", "127.0.0.1", "authorization", "Bearer sesame", "sec-websocket-version", "13")
	conn.Write(h2Frame(h2Headers, h2EndHeader, 1, connect))
	kind, stream, payload := h2Next(t, conn, h2Headers, h2Reset, h2GoAway)
	if stream != 1 || kind == h2GoAway || kind == h2Headers && payload[0] == h2OK {
		t.Fatalf("frame %d of stream %d: %x", kind, stream, payload)
	}
	conn.Write(h2Frame(h2Headers, h2EndHeader|h2EndStream, 3, h2Fields(":method", "GET", ":scheme", "https", ":path", "/livez", ":authority", "127.0.0.1")))
	kind, stream, payload = h2Next(t, conn, h2Headers, h2GoAway)
	if kind != h2Headers || stream != 3 || payload[0] != h2OK {
		t.Errorf("then frame %d of stream %d: %x", kind, stream, payload)
	}
	if log := f.log.String(); strings.Contains(log, `"status":101`) {
		t.Errorf("something was upgraded: %s", log)
	}
}
