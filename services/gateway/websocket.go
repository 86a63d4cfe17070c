package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/coder/websocket"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// plainProtocol is the subprotocol that a client may name, and need not.
const plainProtocol = "shoal.v1.plain"

const (
	pingEvery   = 20 * time.Second
	missedPongs = 2
	statusIdle  = websocket.StatusCode(4408)
)

// offeredProtocols lists the subprotocols of a WebSocket handshake.
func offeredProtocols(r *http.Request) []string {
	var offered []string
	for _, line := range r.Header.Values("Sec-WebSocket-Protocol") {
		for p := range strings.SplitSeq(line, ",") {
			offered = append(offered, strings.TrimSpace(p))
		}
	}
	return offered
}

// streaming serves /streaming: a WebSocket, or a rich request that is answered
// with server-sent events. Host, Origin and key were checked before.
func (g *Gateway) streaming(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPost {
		g.answering(g.richSSE)(w, r)
		return
	}
	protocol := chosenProtocol(offeredProtocols(r))
	if protocol == "" {
		p := &problem{code: codeInvalid, param: "Sec-WebSocket-Protocol", message: "None of the offered subprotocols is known; this server speaks " + plainProtocol + " and " + richProtocol + "."}
		p.write(w)
		return
	}
	g.socket(w, r, protocol, func(ctx context.Context, conn *websocket.Conn, l *line) {
		if protocol == richProtocol {
			newRichSocket(conn, g, callerOf(ctx).tenant).serve(ctx)
			return
		}
		s := &socket{conn: conn, line: l, gateway: g}
		s.active.Store(time.Now().UnixNano())
		s.serve(ctx)
	})
}

// chosenProtocol is the first offered subprotocol that is known, the plain one
// when none is offered, and empty when none is known.
func chosenProtocol(offered []string) string {
	if len(offered) == 0 {
		return plainProtocol
	}
	for _, p := range offered {
		if p == plainProtocol || p == richProtocol {
			return p
		}
	}
	return ""
}

// socket accepts a WebSocket and serves it, until serve returns, in a goroutine
// of its own: what belonged to the handshake is not kept.
func (g *Gateway) socket(w http.ResponseWriter, r *http.Request, protocol string, serve func(context.Context, *websocket.Conn, *line)) {
	tenant := callerOf(r.Context()).tenant
	if !g.sockets.enter() {
		errSockets.write(w)
		return
	}
	if !g.crowd.enter(tenant) {
		g.sockets.leave()
		errCrowd.write(w)
		return
	}
	leave := func() {
		g.crowd.leave(tenant)
		g.sockets.leave()
	}
	h := &hijacker{ResponseWriter: w, timeout: g.config.Limits.WriteTimeout}
	conn, err := g.accept(h, r, protocol)
	if err != nil {
		leave()
		return // accept has answered
	}
	ctx := context.WithoutCancel(r.Context()) // the server ends it with the handshake
	go func() {
		defer leave()
		defer conn.CloseNow()
		serve(ctx, conn, h.line)
	}()
}

// accept makes a WebSocket of a request, or answers why not.
func (g *Gateway) accept(w *hijacker, r *http.Request, protocol string) (*websocket.Conn, error) {
	var conn *websocket.Conn
	var flood sync.Once
	pings := newBucket(pingsPerSecond, pingBurst)
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		Subprotocols:       []string{protocol},
		InsecureSkipVerify: true, // the origin was held against our own list
		OnPingReceived: func(context.Context, []byte) bool {
			if pings.take(time.Now()) {
				return true
			}
			flood.Do(func() { go conn.Close(websocket.StatusPolicyViolation, floodText) })
			return false
		},
	})
	if err != nil {
		return nil, err
	}
	conn.SetReadLimit(g.config.Limits.SocketFrame)
	return conn, nil
}

// errSocketEnded says that the server has closed the socket.
var errSocketEnded = errors.New("the socket was closed by the server")

// readText reads a text message. Anything else closes the socket.
func (g *Gateway) readText(ctx context.Context, conn *websocket.Conn) ([]byte, error) {
	kind, message, err := conn.Reader(ctx)
	var data []byte
	if err == nil {
		data, err = g.readBulk(ctx, message, func() { conn.CloseNow() })
	}
	switch {
	case err != nil:
		return nil, err
	case kind != websocket.MessageText:
		conn.Close(websocket.StatusUnsupportedData, "only text frames are understood")
		return nil, errSocketEnded
	case !utf8.Valid(data):
		conn.Close(websocket.StatusInvalidFramePayloadData, "the text is not valid UTF-8")
		return nil, errSocketEnded
	}
	return data, nil
}

var errSockets = &problem{code: codeRateLimit, retryable: true, message: "This gateway has as many open sockets as it may."}

var errCrowd = &problem{code: codeRateLimit, retryable: true, message: "This key has as many open sockets as it may."}

// socket is one WebSocket that speaks the plain protocol.
type socket struct {
	conn    *websocket.Conn // reads, and writes control frames
	line    *line           // writes text
	gateway *Gateway
	active  atomic.Int64 // Unix nanoseconds of the last message either way

	mu      sync.Mutex // guards running; held while a terminal frame is written
	running bool

	frame []byte // the token being written
}

// serve reads requests until the socket closes, which stops the answer that is
// running: one goroutine reads, one answers. Pings are a timer.
func (s *socket) serve(ctx context.Context) {
	ctx, cancel := until(ctx, s.gateway.cut, errDrain) // the end of ctx closes the connection
	var work sync.WaitGroup
	defer work.Wait()
	defer s.conn.CloseNow() // an answer that writes gives up
	defer s.keepAlive(ctx, &work)()
	defer s.closeOnDrain(&work)()
	defer cancel()
	for {
		data, err := s.gateway.readText(ctx, s.conn)
		if violation(err) {
			s.conn.Close(websocket.StatusProtocolError, "the frame breaks the protocol")
		}
		if err != nil {
			return
		}
		s.active.Store(time.Now().UnixNano())
		s.handle(ctx, &work, data)
	}
}

// handle begins one generation, or refuses the request and keeps the socket.
func (s *socket) handle(ctx context.Context, work *sync.WaitGroup, data []byte) {
	gen, err := parsePlain(data, s.gateway.config.Limits.Messages)
	ctx, req := s.gateway.begin(ctx, "websocket", gen)
	if err == nil {
		err = s.begin()
	}
	if err == nil {
		if p := s.gateway.charge(ctx, gen.GetModel()); p != nil {
			s.finish(req.refuse(p).plain(req.id))
			req.end()
			return
		}
	}
	if err != nil {
		s.write(req.refuse(problemOf(err)).plain(req.id))
		req.end()
		return
	}
	work.Go(func() { s.answer(ctx, req, gen) })
}

var (
	errBusy     = &problem{code: codeBusy, retryable: true, message: "An answer is being written on this socket; wait for its end, or open another socket."}
	errDraining = &problem{code: codeDraining, retryable: true, message: "This gateway is shutting down."}
)

// begin claims the socket for one generation.
func (s *socket) begin() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.running:
		return errBusy
	case s.gateway.isDraining():
		return errDraining
	}
	s.running = true
	return nil
}

// finish writes the terminal frame. The next request may start the moment the
// client sees it, and not before.
func (s *socket) finish(frame any) {
	s.mu.Lock()
	s.running = false
	s.write(frame)
	s.mu.Unlock()
	if s.gateway.isDraining() {
		s.conn.Close(websocket.StatusGoingAway, drainText)
	}
}

// answer runs one generation and writes its frames.
func (s *socket) answer(ctx context.Context, req *request, gen *pb.Generation) {
	defer req.end()
	// A drain ends the answer, not the socket: the client hears of it.
	genCtx, cancel := s.gateway.untilDrained(ctx)
	defer cancel()
	var accepted *pb.Accepted
	var text strings.Builder
	for e := range s.gateway.run(genCtx, req, gen) {
		switch e := e.GetEvent().(type) {
		case *pb.Event_Accepted:
			accepted = e.Accepted
		case *pb.Event_Token:
			piece := e.Token.GetDelta().GetContent()
			text.WriteString(piece)
			s.frame = appendToken(s.frame[:0], piece, e.Token.GetSeq())
			if s.send(s.frame) != nil {
				return // leaving the loop stops the generation
			}
		case *pb.Event_Complete:
			text.WriteString(e.Complete.GetText())
			s.finish(complete(e.Complete, accepted, text.String(), req.id))
		case *pb.Event_Stopped:
			s.finish(plainStopped{"stopped", e.Stopped.GetReason(), req.id})
		case *pb.Event_Error:
			s.finish(problemFrom(e.Error).plain(req.id))
		}
	}
}

func complete(c *pb.Complete, a *pb.Accepted, text, requestID string) plainComplete {
	u := c.GetUsage()
	return plainComplete{
		Type: "complete", Text: text, FinishReason: c.GetFinishReason(),
		Usage: plainUsage{u.GetPromptTokens(), u.GetCompletionTokens()}, Timings: timingsOf(u, c.GetTimings()),
		Model: a.GetModel(), Precision: a.GetPrecision(), RequestID: requestID, Memory: memoryReportOf(c.GetMemory()),
	}
}

func timingsOf(u *pb.Usage, t *pb.Timings) plainTimings {
	return plainTimings{
		QueueMs: t.GetQueueMs(), PromptMs: t.GetPromptMs(), PredictedMs: t.GetPredictedMs(),
		TokensPerSecond: decodeRate(u, t),
	}
}

// decodeRate is tokens per second after the first, 0 when there was no second.
func decodeRate(u *pb.Usage, t *pb.Timings) float64 {
	if u.GetCompletionTokens() < 2 || t.GetPredictedMs() <= 0 {
		return 0
	}
	return 1000 * float64(u.GetCompletionTokens()-1) / t.GetPredictedMs()
}

// write sends one frame.
func (s *socket) write(frame any) error {
	data, err := json.Marshal(frame)
	if err != nil {
		return err
	}
	return s.send(data)
}

// send sends one frame. A client that reads nothing for the write timeout loses
// the socket.
func (s *socket) send(data []byte) error {
	if err := s.line.send(data); err != nil {
		s.conn.CloseNow() // the reader sees it and ends the socket
		return err
	}
	s.active.Store(time.Now().UnixNano())
	return nil
}

// keepAlive pings at intervals, and closes a socket that is dead or that nobody
// uses. The returned function ends it; ctx has ended before.
func (s *socket) keepAlive(ctx context.Context, work *sync.WaitGroup) (end func()) {
	var mu sync.Mutex // guards timer
	var timer *time.Timer
	missed := 0
	work.Add(1)
	mu.Lock()
	defer mu.Unlock()
	timer = time.AfterFunc(pingEvery, func() {
		alive := s.beat(ctx, &missed)
		mu.Lock()
		defer mu.Unlock()
		if !alive || ctx.Err() != nil {
			work.Done()
			return
		}
		timer.Reset(pingEvery)
	})
	return func() {
		mu.Lock()
		defer mu.Unlock()
		if timer.Stop() {
			work.Done()
		}
	}
}

// beat pings once, and reports whether to go on.
func (s *socket) beat(ctx context.Context, missed *int) bool {
	if idle := time.Since(time.Unix(0, s.active.Load())); idle > s.gateway.config.Limits.SocketIdle && !s.busy() {
		s.conn.Close(statusIdle, "nothing was asked for a long time")
		return false
	}
	ping, cancel := context.WithTimeout(ctx, pingEvery/2)
	defer cancel()
	err := s.conn.Ping(ping)
	switch {
	case err == nil:
		*missed = 0
		return true
	case !errors.Is(err, context.DeadlineExceeded):
		return false // the socket is closed
	}
	if *missed++; *missed < missedPongs {
		return true
	}
	s.conn.CloseNow()
	return false
}

func (s *socket) busy() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.running
}

// closeOnDrain closes an idle socket when the gateway shuts down. One that is
// answering is closed by finish. The returned function ends it.
func (s *socket) closeOnDrain(work *sync.WaitGroup) (end func()) {
	work.Add(1)
	stop := s.gateway.draining.watch(func() {
		defer work.Done()
		if !s.busy() {
			s.conn.Close(websocket.StatusGoingAway, drainText)
		}
	})
	return func() {
		if stop() {
			work.Done()
		}
	}
}

const drainText = "the gateway is shutting down"
