package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
)

// Bounds of one rich socket.
const (
	socketGenerations = 16       // at once
	socketReplies     = 64       // answers to frames that wait to be written
	socketKeep        = 512      // acknowledged tokens kept of each resumable answer
	ackWindow         = 16 << 10 // bytes on their way that no pong has confirmed
	ackEvery          = 4 << 10  // bytes between two pings
	frameOverhead     = 4        // of the WebSocket, per frame
	slowText          = "slow_consumer"
	lastWords         = time.Second // for the reader of a connection that broke
)

var (
	errSocketFull = &problem{code: codeRateLimit, retryable: true, message: "This socket carries as many generations as it may; wait for one to end, or open another socket."}
	errElsewhere  = &problem{code: codeResumedElsewhere, param: "id", message: "The generation was resumed on another connection."}
)

// richSocket is one WebSocket that speaks the rich protocol. One goroutine
// reads, one writes, one pings. What a client has received is known by its
// pongs: no more than ackWindow bytes are on their way without one, so a client
// that does not read never fills the connection, which always has room for the
// close frame that says so.
type richSocket struct {
	conn    *websocket.Conn
	gateway *Gateway
	tenant  string
	active  atomic.Int64 // Unix nanoseconds of the last message either way
	replies chan any
	wakeup  chan struct{} // holds a token while dirty may have something
	ackDue  chan struct{} // holds a token while a ping is wanted
	room    chan struct{} // holds a token after a pong
	sent    atomic.Int64  // bytes
	acked   atomic.Int64  // of them
	asked   atomic.Int64  // of them, by a ping
	stalled atomic.Bool   // the writer waits for a pong
	leaving atomic.Bool   // the closing handshake is ours, and has its own time limit

	mu      sync.Mutex            // guards following
	open    map[string]*recording // running, by id
	ended   bool                  // no recording gets a place any more
	dirty   []*recording          // have something to take, in turn
	queued  map[*recording]bool   // are in dirty
	unacked map[*recording]position
}

func newRichSocket(conn *websocket.Conn, g *Gateway, tenant string) *richSocket {
	s := &richSocket{
		conn: conn, gateway: g, tenant: tenant,
		replies: make(chan any, socketReplies),
		wakeup:  make(chan struct{}, 1), ackDue: make(chan struct{}, 1), room: make(chan struct{}, 1),
		open: map[string]*recording{}, queued: map[*recording]bool{}, unacked: map[*recording]position{},
	}
	s.active.Store(time.Now().UnixNano())
	return s
}

// serve reads frames until the socket ends. A closed socket stops what runs on
// it; one that was lost leaves resumable answers to be fetched.
func (s *richSocket) serve(ctx context.Context) {
	ctx, cancel := until(ctx, s.gateway.cut, errDrain)
	var work sync.WaitGroup
	work.Go(func() { s.write(ctx) })
	work.Go(func() { s.keepAlive(ctx) })
	work.Add(1)
	unwatch := s.gateway.draining.watch(func() {
		defer work.Done()
		s.closeIdle()
	})
	err := s.read(ctx)
	if violation(err) {
		s.conn.Close(websocket.StatusProtocolError, "the frame breaks the protocol")
	}
	cancel()
	s.conn.CloseNow() // ends a write that waits
	if unwatch() {
		work.Done()
	}
	work.Wait()
	s.leave(websocket.CloseStatus(err) == -1)
}

// violation reports whether the peer broke the WebSocket protocol: the
// connection works, but what came over it made no sense.
func violation(err error) bool {
	if err == nil || errors.Is(err, websocket.ErrMessageTooBig) { // which was answered
		return false
	}
	var network net.Error
	return websocket.CloseStatus(err) == -1 && !errors.As(err, &network) && !errors.Is(err, io.EOF) &&
		!errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, net.ErrClosed) &&
		!errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, errSocketEnded)
}

// read handles frames until the socket ends.
func (s *richSocket) read(ctx context.Context) error {
	frames := newBucket(framesPerSecond, frameBurst)
	for {
		data, err := s.gateway.readText(ctx, s.conn)
		if err != nil {
			return err
		}
		if !frames.take(time.Now()) {
			s.farewell(websocket.StatusPolicyViolation, floodText)
			return errSocketEnded
		}
		s.active.Store(time.Now().UnixNano())
		s.handle(ctx, data)
	}
}

// handle answers one frame.
func (s *richSocket) handle(ctx context.Context, data []byte) {
	q, err := parseRich(data, s.gateway.config.Limits.Messages, false)
	var p *problem
	switch {
	case err != nil:
		p = problemOf(err)
		s.gateway.log.Info("refused", "door", "websocket", "tenant", s.tenant, "code", p.code)
	case q.kind == typePing:
		s.reply(ctx, richPong{head(typePong, q.id), q.echo})
	case q.kind == typeGenerate:
		p = s.generate(ctx, q)
	case q.kind == typeStop:
		p = s.stop(q.id)
	case q.kind == typeResume:
		p = s.resume(ctx, q)
	}
	if p != nil {
		s.reply(ctx, p.refusal(q.knownKind(), q.id))
	}
}

// generate begins an answer.
func (s *richSocket) generate(ctx context.Context, q *richRequest) *problem {
	ctx, req := s.gateway.begin(context.WithoutCancel(ctx), "websocket", q.generation)
	r := newRecording(q.id, req.id, s.tenant, q.show, s, socketKeep)
	ctx, r.stop = context.WithCancelCause(ctx)
	p := s.claim(r)
	if p == nil {
		if p = s.gateway.charge(ctx, q.generation.GetModel()); p == nil && q.resumable {
			q.keep()
			p = s.gateway.shelf.add(r)
		}
		if p != nil {
			s.drop(r)
		}
	}
	if p != nil {
		r.stop(p)
		req.refuse(p)
		req.end()
		return p
	}
	s.gateway.fill(ctx, req, q.generation, r)
	return nil
}

// claim gives a recording a place on the socket.
func (s *richSocket) claim(r *recording) *problem {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.ended, s.gateway.isDraining():
		return errDraining
	case s.open[r.id] != nil:
		return errSameID
	case len(s.open) >= socketGenerations:
		return errSocketFull
	}
	s.open[r.id] = r
	return nil
}

// drop takes a recording from the socket.
func (s *richSocket) drop(r *recording) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[r.id] == r {
		delete(s.open, r.id)
	}
	delete(s.unacked, r)
}

// stop ends an answer: one of this socket, or one that may be resumed.
func (s *richSocket) stop(id string) *problem {
	s.mu.Lock()
	r := s.open[id]
	s.mu.Unlock()
	if r == nil {
		r = s.gateway.shelf.find(s.tenant, id)
	}
	if r == nil {
		return errUnknownGeneration
	}
	r.stop(errClient)
	return nil
}

// resume goes on with an answer whose connection was lost, here or at another gateway.
func (s *richSocket) resume(ctx context.Context, q *richRequest) *problem {
	r := s.gateway.shelf.find(s.tenant, q.id)
	if r == nil {
		s.gateway.shelf.work.Go(func() {
			if p := s.adopt(ctx, q); p != nil {
				s.reply(ctx, p.refusal(typeResume, q.id))
			}
		})
		return nil
	}
	s.mu.Lock()
	own := s.open[q.id] == r
	s.mu.Unlock()
	if !own {
		if p := s.claim(r); p != nil {
			return p
		}
	}
	if p := r.attach(s, q.after, socketKeep); p != nil {
		if !own {
			s.drop(r)
		}
		return p
	}
	return nil
}

// adopt goes on with an answer that another gateway had.
func (s *richSocket) adopt(ctx context.Context, q *richRequest) *problem {
	r, p := s.gateway.adopt(ctx, "websocket", s.tenant, q, s, socketKeep)
	if p != nil {
		return p
	}
	if p := s.claim(r); p != nil { // the socket has ended meanwhile, or has enough
		r.detach(s)
		return p
	}
	s.wake(r)
	return nil
}

// wake queues a recording for the writer.
func (s *richSocket) wake(r *recording) {
	s.mu.Lock()
	if !s.queued[r] {
		s.queued[r] = true
		s.dirty = append(s.dirty, r)
	}
	s.mu.Unlock()
	signal(s.wakeup)
}

// released ends a generation here that goes on elsewhere.
func (s *richSocket) released(r *recording) {
	s.drop(r)
	frame := errElsewhere.refusal("", r.id)
	frame.Refused, frame.RequestID = "", r.requestID
	select {
	case s.replies <- frame:
	default: // a client that does not read loses the socket
		s.conn.CloseNow()
	}
}

// moved lets the client look for a generation elsewhere, which it does when the socket
// is closed.
func (s *richSocket) moved(r *recording) {
	s.drop(r)
	s.closeIdle()
}

// signal puts a token into a channel that holds one.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// reply queues an answer to a frame. It waits while many wait.
func (s *richSocket) reply(ctx context.Context, frame any) {
	select {
	case s.replies <- frame:
	case <-ctx.Done():
	}
}

// write writes replies and, in turn, what recordings have.
func (s *richSocket) write(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case f := <-s.replies:
			if !s.awaitWindow(ctx) || s.send(f) != nil {
				return
			}
		case <-s.wakeup:
			r := s.next()
			if r == nil {
				continue
			}
			if !s.awaitWindow(ctx) || s.flush(r) != nil {
				return
			}
		}
	}
}

// next takes the recording whose turn it is.
func (s *richSocket) next() *recording {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.dirty) == 0 {
		return nil
	}
	r := s.dirty[0]
	s.dirty = s.dirty[1:]
	delete(s.queued, r)
	if len(s.dirty) > 0 {
		signal(s.wakeup)
	}
	return r
}

// awaitWindow waits until few enough bytes are on their way. Meanwhile tokens
// gather in the recordings, which coalesces them.
func (s *richSocket) awaitWindow(ctx context.Context) bool {
	for s.sent.Load()-s.acked.Load() >= ackWindow {
		s.stalled.Store(true)
		signal(s.ackDue)
		select {
		case <-ctx.Done():
			return false
		case <-s.room:
		}
	}
	s.stalled.Store(false)
	return true
}

// flush writes what a recording has.
func (s *richSocket) flush(r *recording) error {
	b := r.take(s)
	if b.terminal != nil {
		s.drop(r) // its id is free the moment that the client reads the end
	}
	err := r.frames(b, func(_ uint64, frame any) error { return s.send(frame) })
	if err != nil {
		if b.terminal != nil {
			s.confirm(r, position{}) // lost on its way: leave detaches it
		}
		return err
	}
	if r.resumable && (len(b.tokens) > 0 || b.terminal != nil) {
		s.confirm(r, position{b.seq, b.terminal != nil})
	}
	if s.sent.Load()-s.asked.Load() >= ackEvery || b.terminal != nil && r.resumable {
		signal(s.ackDue)
	}
	if b.more {
		s.wake(r)
	}
	if b.terminal != nil && s.gateway.isDraining() {
		s.closeIdle()
	}
	return nil
}

// confirm asks for an acknowledgement of what was written of a recording.
func (s *richSocket) confirm(r *recording, p position) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unacked[r] = p
}

// send writes one frame. The window leaves room for it, so a connection that
// takes nothing for the line's timeout is dead.
func (s *richSocket) send(frame any) error {
	data, err := json.Marshal(frame)
	if err != nil {
		return err
	}
	if err := s.conn.Write(context.Background(), websocket.MessageText, data); err != nil {
		s.broken(err)
		return err
	}
	s.sent.Add(int64(len(data) + frameOverhead))
	s.active.Store(time.Now().UnixNano())
	return nil
}

// farewell closes the socket with a reason, which a slow client reads after all
// that lies before it.
func (s *richSocket) farewell(code websocket.StatusCode, text string) {
	s.leaving.Store(true)
	s.conn.Close(code, text)
}

// broken ends a connection that cannot be written. A peer that has left may have
// said goodbye before: the reader has a moment to find it.
func (s *richSocket) broken(err error) {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		s.conn.CloseNow()
		return
	}
	if s.leaving.Load() {
		return
	}
	time.AfterFunc(lastWords, func() { s.conn.CloseNow() })
}

// keepAlive pings at intervals and whenever an acknowledgement is due. It closes
// a socket that is dead, too slow, or used by nobody.
func (s *richSocket) keepAlive(ctx context.Context) {
	ticker := time.NewTicker(pingEvery)
	defer ticker.Stop()
	for missed := 0; missed < missedPongs; {
		select {
		case <-ctx.Done():
			return
		case <-s.ackDue:
		case <-ticker.C:
			if idle := time.Since(time.Unix(0, s.active.Load())); idle > s.gateway.config.Limits.SocketIdle && !s.busy() {
				s.farewell(statusIdle, "nothing was asked for a long time")
				return
			}
		}
		err := s.ping(ctx)
		switch {
		case err == nil:
			missed = 0
		case ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded):
			return // the socket is closed
		case s.stalled.Load():
			s.dismiss()
			return
		default:
			missed++
			signal(s.ackDue)
		}
	}
	s.dismiss()
}

// dismiss closes the socket of a client that does not keep up. Its answers do
// not wait for the closing handshake, which it may never take part in.
func (s *richSocket) dismiss() {
	s.leave(true)
	s.farewell(websocket.StatusTryAgainLater, slowText)
}

// ping asks the client how far it has read, and waits for the answer.
func (s *richSocket) ping(ctx context.Context) error {
	sent := s.sent.Load()
	s.asked.Store(sent)
	s.mu.Lock()
	written := maps.Clone(s.unacked)
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, s.gateway.config.Limits.WriteTimeout)
	defer cancel()
	if err := s.conn.Ping(ctx); err != nil {
		return err
	}
	s.acked.Store(sent)
	signal(s.room)
	for r, p := range written {
		s.mu.Lock()
		if s.unacked[r] == p {
			delete(s.unacked, r)
		}
		s.mu.Unlock()
		r.ack(s, p)
	}
	return nil
}

func (s *richSocket) busy() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.open) > 0
}

// closeIdle closes a socket of a gateway that shuts down, unless answers are
// running on it: then it is closed after the last.
func (s *richSocket) closeIdle() {
	if !s.busy() {
		s.farewell(websocket.StatusGoingAway, drainText)
	}
}

// leave gives up what is left on the socket: a lost client may come back for
// resumable answers, a closed socket is a stop.
func (s *richSocket) leave(lost bool) {
	s.mu.Lock()
	s.ended = true
	left := map[*recording]bool{}
	for _, r := range s.open {
		left[r] = true
	}
	for r := range s.unacked {
		left[r] = true
	}
	s.mu.Unlock()
	for r := range left {
		if lost && r.resumable {
			r.detach(s)
		} else {
			r.leave(s)
		}
	}
}
