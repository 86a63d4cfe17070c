//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// crowd is many clients on one epoll, in one goroutine: a light generator
// leaves the machine to the gateway.
type crowd struct {
	to       netip.AddrPort
	poll     int
	commands chan func()
	clients  map[int]*client // by descriptor
	from     byte
	buffer   []byte
	ended    func(*client, error) // a client that closed, for whatever reason

	// What the clients did.
	opened, first, completed int
	tokens                   uint64
	problems                 []error // the first few

	measuring bool
	latency   [2]histogram // by group
	ttft      histogram
}

const (
	pollWait    = 2 // ms between looks at the commands
	readAtOnce  = 256 << 10
	fewProblems = 5
	sources     = 64 // loopback addresses to connect from
)

func newCrowd(to string) (*crowd, error) {
	addr, err := netip.ParseAddrPort(to)
	if err != nil {
		return nil, err
	}
	poll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	return &crowd{
		to: addr, poll: poll, commands: make(chan func()), clients: map[int]*client{},
		buffer: make([]byte, readAtOnce), ended: func(*client, error) {},
	}, nil
}

// run serves the clients until stop is closed.
func (w *crowd) run(stop <-chan struct{}) {
	runtime.LockOSThread() // the thread sleeps in epoll
	events := make([]unix.EpollEvent, 512)
	for {
		select {
		case <-stop:
			for _, c := range w.clients {
				_ = unix.Close(c.fd)
			}
			_ = unix.Close(w.poll)
			return
		case f := <-w.commands:
			f()
		default:
		}
		n, err := unix.EpollWait(w.poll, events, pollWait)
		if err != nil && !errors.Is(err, unix.EINTR) {
			panic(fmt.Sprintf("epoll: %v", err)) // the descriptor is ours
		}
		for _, e := range events[:max(n, 0)] {
			c := w.clients[int(e.Fd)]
			if c == nil {
				continue
			}
			if err := w.serve(c); err != nil {
				w.drop(c, err)
			}
		}
	}
}

// do runs f in the crowd's goroutine and waits for it.
func (w *crowd) do(f func()) {
	done := make(chan struct{})
	w.commands <- func() { f(); close(done) }
	<-done
}

// open begins a connection; the client is asked by its kind and prompt.
func (w *crowd) open(c *client, receiveBuffer int) error {
	w.from = w.from%sources + 1
	fd, err := dial(w.to, w.from, receiveBuffer)
	if err != nil {
		return err
	}
	c.fd, c.began = fd, now()
	w.clients[fd] = c
	return unix.EpollCtl(w.poll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLOUT, Fd: int32(fd)})
}

// close ends a client without a complaint.
func (w *crowd) close(c *client) {
	if c.phase != closed {
		c.phase = closed
		delete(w.clients, c.fd)
		_ = unix.Close(c.fd)
	}
}

// drop ends a client that failed, and remembers why.
func (w *crowd) drop(c *client, err error) {
	if len(w.problems) < fewProblems {
		w.problems = append(w.problems, err)
	}
	w.close(c)
	w.ended(c, err)
}

// stall makes a client read nothing more.
func (w *crowd) stall(c *client) error {
	c.stalled = true
	return unix.EpollCtl(w.poll, unix.EPOLL_CTL_MOD, c.fd, &unix.EpollEvent{Events: 0, Fd: int32(c.fd)})
}

func (w *crowd) serve(c *client) error {
	if c.phase == connecting {
		return w.connected(c)
	}
	if c.stalled { // an error or a hang-up, which cannot be masked: the gateway gave it up
		w.close(c)
		return nil
	}
	n, err := unix.Read(c.fd, w.buffer)
	switch {
	case errors.Is(err, unix.EAGAIN):
		return nil
	case err != nil:
		return fmt.Errorf("read: %w", err)
	case n == 0:
		return errShort
	}
	at, data := now(), w.buffer[:n]
	if len(c.rest) > 0 {
		c.rest = append(c.rest, data...)
		data = c.rest
	}
	rest, err := w.read(c, data, at)
	c.rest = append(c.rest[:0:0], rest...) // nil when there is none
	return err
}

// connected sends the handshake or, of SSE, the question.
func (w *crowd) connected(c *client) error {
	if code, err := unix.GetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_ERROR); err != nil || code != 0 {
		return fmt.Errorf("connect: %w", errors.Join(err, unix.Errno(code)))
	}
	if err := unix.EpollCtl(w.poll, unix.EPOLL_CTL_MOD, c.fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(c.fd)}); err != nil {
		return err
	}
	c.phase = upgrading
	if c.kind == sse {
		w.opened++
		c.began = now()
		body := fmt.Sprintf(chatBody, c.tokens, c.prompt)
		return c.write(fmt.Appendf(nil, chatRequest, w.to, len(body), body))
	}
	return c.write(fmt.Appendf(nil, handshake, w.to))
}

// ask sends the question of a WebSocket that is open.
func (w *crowd) ask(c *client) error {
	c.phase, c.seq, c.began = asked, 0, now()
	return c.write(text(fmt.Sprintf(plainBody, c.prompt, c.tokens)))
}

// read takes all whole messages from data and returns the rest.
func (w *crowd) read(c *client, data []byte, at int64) ([]byte, error) {
	if c.phase == upgrading {
		head, rest, ok := bytes.Cut(data, []byte("\r\n\r\n"))
		if !ok {
			return data, nil
		}
		want := "HTTP/1.1 101 "
		if c.kind == sse {
			want = "HTTP/1.1 200 "
		}
		if !bytes.HasPrefix(head, []byte(want)) {
			return nil, fmt.Errorf("answered %q", data[:min(len(data), 300)])
		}
		data, c.phase = rest, asked
		if c.kind == webSocket {
			c.phase = idle
			w.opened++
		}
	}
	if c.kind == sse {
		return w.readChunks(c, data, at)
	}
	return w.readFrames(c, data, at)
}

func (w *crowd) readFrames(c *client, data []byte, at int64) ([]byte, error) {
	for c.phase != closed {
		op, payload, rest, ok := nextFrame(data)
		if !ok {
			return data, nil
		}
		data = rest
		switch op {
		case 0x1:
			if err := w.message(c, payload, at, `"token":"`, `"completionTokens":`); err != nil {
				return nil, err
			}
		case 0x8:
			return nil, fmt.Errorf("closed: %q", payload)
		case 0x9:
			if err := c.write(pong(payload)); err != nil {
				return nil, err
			}
		}
	}
	return nil, nil
}

func (w *crowd) readChunks(c *client, data []byte, at int64) ([]byte, error) {
	for c.phase != closed {
		payload, rest, ok, err := nextChunk(data)
		if !ok || err != nil {
			return data, err
		}
		data = rest
		if c.phase == complete || bytes.HasPrefix(payload, []byte(":")) || bytes.Contains(payload, []byte(`"role"`)) {
			continue
		}
		if err := w.message(c, payload, at, `"content":"`, `"predicted_n":`); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// message counts a token or the end of a stream.
func (w *crowd) message(c *client, m []byte, at int64, token, count string) error {
	if sent, seq, ok := stampIn(m, token); ok {
		if seq != c.seq+1 {
			return fmt.Errorf("%w: %d after %d", errOrder, seq, c.seq)
		}
		if c.seq = seq; seq == 1 {
			w.first++
			c.phase = streaming
			w.ttft.add(time.Duration(at - c.began))
		}
		if w.measuring {
			w.tokens++
			w.latency[c.group].add(time.Duration(at - sent))
		}
		return nil
	}
	n := numberIn(m, count)
	if n < 0 {
		return fmt.Errorf("a message that is no token: %q", m[:min(len(m), 300)])
	}
	if uint64(n) != c.seq {
		return fmt.Errorf("%w: %d of %d tokens", errShort, c.seq, n)
	}
	c.phase = complete
	w.completed++
	w.ended(c, nil)
	return nil
}
