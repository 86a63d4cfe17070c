package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

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

// streaming serves GET /streaming. Host, Origin and key were checked before.
func (g *Gateway) streaming(w http.ResponseWriter, r *http.Request) {
	if offered := offeredProtocols(r); len(offered) > 0 && !slices.Contains(offered, plainProtocol) {
		p := &problem{code: codeInvalid, param: "Sec-WebSocket-Protocol", message: "None of the offered subprotocols is known; this server speaks " + plainProtocol + "."}
		p.write(w)
		return
	}
	if !g.sockets.enter() {
		errSockets.write(w)
		return
	}
	defer g.sockets.leave()
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		Subprotocols:       []string{plainProtocol},
		InsecureSkipVerify: true, // the origin was held against our own list
	})
	if err != nil {
		return // Accept has answered
	}
	defer conn.CloseNow()
	conn.SetReadLimit(g.config.Limits.SocketFrame)
	s := &socket{conn: conn, gateway: g}
	s.active.Store(time.Now().UnixNano())
	s.serve(r.Context())
}

var errSockets = &problem{code: codeRateLimit, retryable: true, message: "This gateway has as many open sockets as it may."}

// socket is one WebSocket that speaks the plain protocol.
type socket struct {
	conn    *websocket.Conn
	gateway *Gateway
	active  atomic.Int64 // Unix nanoseconds of the last message either way

	mu      sync.Mutex // guards running; held while a terminal frame is written
	running bool
}

// serve reads requests until the socket closes, which stops the answer that is
// running: one goroutine reads, one answers, one pings.
func (s *socket) serve(ctx context.Context) {
	ctx, cancel := until(ctx, s.gateway.cut, errDrain) // the end of ctx closes the connection
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel()
	work.Go(func() { s.keepAlive(ctx) })
	work.Go(func() { s.closeOnDrain(ctx) })
	for {
		kind, data, err := s.conn.Read(ctx)
		if err != nil {
			return
		}
		if kind != websocket.MessageText {
			s.conn.Close(websocket.StatusUnsupportedData, "only text frames are understood")
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
	if err != nil {
		s.write(ctx, req.refuse(problemOf(err)).plain(req.id))
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
func (s *socket) finish(ctx context.Context, frame any) {
	s.mu.Lock()
	s.running = false
	s.write(ctx, frame)
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
			if s.write(ctx, plainToken{"token", piece, e.Token.GetSeq()}) != nil {
				return // leaving the loop stops the generation
			}
		case *pb.Event_Complete:
			text.WriteString(e.Complete.GetText())
			s.finish(ctx, complete(e.Complete, accepted, text.String(), req.id))
		case *pb.Event_Stopped:
			s.finish(ctx, plainStopped{"stopped", e.Stopped.GetReason(), req.id})
		case *pb.Event_Error:
			s.finish(ctx, problemFrom(e.Error).plain(req.id))
		}
	}
}

func complete(c *pb.Complete, a *pb.Accepted, text, requestID string) plainComplete {
	u, t := c.GetUsage(), c.GetTimings()
	return plainComplete{
		Type: "complete", Text: text, FinishReason: c.GetFinishReason(),
		Usage: plainUsage{u.GetPromptTokens(), u.GetCompletionTokens()},
		Timings: plainTimings{
			QueueMs: t.GetQueueMs(), PromptMs: t.GetPromptMs(), PredictedMs: t.GetPredictedMs(),
			TokensPerSecond: decodeRate(u, t),
		},
		Model: a.GetModel(), Precision: a.GetPrecision(), RequestID: requestID,
	}
}

// decodeRate is tokens per second after the first, 0 when there was no second.
func decodeRate(u *pb.Usage, t *pb.Timings) float64 {
	if u.GetCompletionTokens() < 2 || t.GetPredictedMs() <= 0 {
		return 0
	}
	return 1000 * float64(u.GetCompletionTokens()-1) / t.GetPredictedMs()
}

// write sends one frame. A client that reads nothing for the write timeout
// loses the socket.
func (s *socket) write(ctx context.Context, frame any) error {
	data, err := json.Marshal(frame)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, s.gateway.config.Limits.WriteTimeout)
	defer cancel()
	if err := s.conn.Write(ctx, websocket.MessageText, data); err != nil {
		s.conn.CloseNow() // the reader sees it and ends the socket
		return err
	}
	s.active.Store(time.Now().UnixNano())
	return nil
}

// keepAlive pings, and closes a socket that is dead or that nobody uses.
func (s *socket) keepAlive(ctx context.Context) {
	ticker := time.NewTicker(pingEvery)
	defer ticker.Stop()
	for missed := 0; missed < missedPongs; {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if idle := time.Since(time.Unix(0, s.active.Load())); idle > s.gateway.config.Limits.SocketIdle && !s.busy() {
			s.conn.Close(statusIdle, "nothing was asked for a long time")
			return
		}
		ping, cancel := context.WithTimeout(ctx, pingEvery/2)
		err := s.conn.Ping(ping)
		cancel()
		switch {
		case err == nil:
			missed = 0
		case errors.Is(err, context.DeadlineExceeded):
			missed++
		default:
			return // the socket is closed
		}
	}
	s.conn.CloseNow()
}

func (s *socket) busy() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.running
}

// closeOnDrain closes an idle socket of a gateway that shuts down. One that is
// answering is closed by finish.
func (s *socket) closeOnDrain(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-s.gateway.draining:
		if !s.busy() {
			s.conn.Close(websocket.StatusGoingAway, drainText)
		}
	}
}

const drainText = "the gateway is shutting down"
