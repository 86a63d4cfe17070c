package gateway

import (
	"bytes"
	"errors"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// TestLineFrames reads what send writes with a WebSocket client, at the bounds
// of the three lengths of a frame.
func TestLineFrames(t *testing.T) {
	f := serve(t)
	around := len(appendToken(nil, "", 1))
	for _, n := range []int{around, 125, 126, 127, 8192, 65_535, 65_536, 100_000} {
		word := strings.Repeat("x", n-around)
		f.fake.set(func(g *fakeGeneration) { g.answer(word) })
		ws := f.dial(t, nil)
		ws.conn.SetReadLimit(1 << 20)
		ws.send(`{"prompt":"hi"}`)
		if token := ws.read(); token["token"] != word {
			t.Errorf("a frame of %d bytes arrived as %.80v", n, token)
		}
		if end := ws.read(); end["type"] != "complete" || end["text"] != word {
			t.Errorf("after a frame of %d bytes: %.80v", n, end)
		}
		ws.conn.Close(websocket.StatusNormalClosure, "")
	}
}

// TestLineSendsNothingAfterClose holds RFC 6455, section 5.5.1.
func TestLineSendsNothingAfterClose(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	l := &line{Conn: near, timeout: patience}
	go func() {
		l.send([]byte("a"))
		l.Write([]byte{frameClose, 0})
		if err := l.send([]byte("b")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("send after a close frame: %v", err)
		}
		near.Close()
	}()
	var got bytes.Buffer
	if _, err := got.ReadFrom(far); err != nil {
		t.Fatal(err)
	}
	if want := string([]byte{frameText, 1, 'a', frameClose, 0}); got.String() != want {
		t.Errorf("wrote %q, want %q", got.String(), want)
	}
}

// TestLineGivesUp writes to a peer that reads nothing.
func TestLineGivesUp(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	l := &line{Conn: near, timeout: time.Millisecond}
	if err := l.send([]byte("a")); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("send to a peer that reads nothing: %v", err)
	}
}
