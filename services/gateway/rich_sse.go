package gateway

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

// sseKeep is how many tokens that were sent are kept of each resumable answer:
// server-sent events are never acknowledged.
const sseKeep = 4096

const lastEventHeader = "Last-Event-ID"

var errNotSSE = &problem{code: codeNotAcceptable, param: "Accept", message: "This address answers a POST with text/event-stream only."}

// richStream shows one recording as server-sent events.
type richStream struct {
	wakeup    chan struct{} // holds a token while something may be taken
	elsewhere chan struct{} // closed when another reader has the recording
	gone      chan struct{} // closed when another gateway has the answer
	once      sync.Once
}

func newRichStream() *richStream {
	return &richStream{wakeup: make(chan struct{}, 1), elsewhere: make(chan struct{}), gone: make(chan struct{})}
}

func (s *richStream) wake(*recording)     { signal(s.wakeup) }
func (s *richStream) released(*recording) { s.once.Do(func() { close(s.elsewhere) }) }
func (s *richStream) moved(*recording)    { s.once.Do(func() { close(s.gone) }) }

// richSSE serves POST /streaming: a generate or resume frame as body, the rich
// frames as events. Events of tokens have their number as id, so a client that
// sends the last one it saw goes on from there.
func (g *Gateway) richSSE(w http.ResponseWriter, r *http.Request) {
	if !acceptsSSE(r.Header.Get("Accept")) {
		errNotSSE.write(w)
		return
	}
	data, p := g.readBody(w, r)
	if p != nil {
		p.write(w)
		return
	}
	q, err := parseRich(data, g.config.Limits.Messages, true)
	if err != nil {
		problemOf(err).write(w)
		return
	}
	if p := q.resumeFrom(r.Header.Values(lastEventHeader)); p != nil {
		p.write(w)
		return
	}
	stream := newRichStream()
	rec, p := g.openStream(r.Context(), q, stream)
	if p != nil {
		p.write(w)
		return
	}
	w.Header().Set(requestIDHeader, rec.requestID)
	if g.showStream(r.Context(), newSSEWriter(w, g.config.Limits.WriteTimeout), rec, stream); rec.resumable {
		rec.detach(stream)
	} else {
		rec.leave(stream)
	}
}

// acceptsSSE reports whether a client that says this reads server-sent events.
func acceptsSSE(accept string) bool {
	return accept == "" || strings.Contains(accept, "text/event-stream") || strings.Contains(accept, "*/*")
}

// resumeFrom turns a generate frame that is sent again into a resume.
func (q *richRequest) resumeFrom(lastEvent []string) *problem {
	switch {
	case q.kind != typeGenerate && q.kind != typeResume:
		return &problem{code: codeInvalid, param: "type", message: "type must be generate or resume."}
	case len(lastEvent) == 0:
		return nil
	}
	after, err := strconv.ParseUint(lastEvent[0], 10, 53)
	if err != nil || len(lastEvent) > 1 {
		return &problem{code: codeInvalid, param: lastEventHeader, message: lastEventHeader + " must be the number of a token."}
	}
	q.kind, q.after = typeResume, after
	return nil
}

// openStream begins or resumes the answer that a frame asks for.
func (g *Gateway) openStream(ctx context.Context, q *richRequest, stream *richStream) (*recording, *problem) {
	tenant := callerOf(ctx).tenant
	if q.kind == typeResume {
		r := g.shelf.find(tenant, q.id)
		if r == nil {
			return g.adopt(ctx, "sse", tenant, q, stream, sseKeep)
		}
		return r, r.attach(stream, q.after, sseKeep)
	}
	q.id = orDefault(q.id, "gen-"+rand.Text())
	ctx, req := g.begin(context.WithoutCancel(ctx), "sse", q.generation)
	r := newRecording(q.id, req.id, tenant, q.show, stream, sseKeep)
	ctx, r.stop = context.WithCancelCause(ctx)
	p := g.charge(ctx, q.generation.GetModel())
	if p == nil && q.resumable {
		q.keep()
		p = g.shelf.add(r)
	}
	if p != nil {
		r.stop(p)
		req.refuse(p)
		req.end()
		return nil, p
	}
	g.fill(ctx, req, q.generation, r)
	return r, nil
}

// showStream writes events until the answer has ended or the client is lost.
func (g *Gateway) showStream(ctx context.Context, sse *sseWriter, r *recording, stream *richStream) {
	defer sse.close()
	defer sse.keepAlive()()
	for {
		select {
		case <-ctx.Done():
			return
		case <-stream.gone:
			return // without an end: the client asks again
		case <-stream.elsewhere:
			frame := errElsewhere.refusal("", r.id)
			frame.Refused, frame.RequestID = "", r.requestID
			_ = sse.rich(0, frame)
			return
		case <-stream.wakeup:
		}
		b := r.take(stream)
		if e := b.terminal.GetError(); e != nil && !sse.started() {
			sse.fail(problemFrom(e))
			return
		}
		if r.frames(b, sse.rich) != nil || b.terminal != nil {
			return
		}
		r.ack(stream, position{seq: b.seq})
		if b.more {
			stream.wake(r)
		}
	}
}

func (s *sseWriter) started() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.begun
}

// rich sends a frame of the rich protocol. A token's number is the event's id.
func (s *sseWriter) rich(seq uint64, frame any) error {
	data, err := json.Marshal(frame)
	if err != nil {
		return err
	}
	text := "data: " + string(data) + "\n\n"
	if seq > 0 {
		text = "id: " + strconv.FormatUint(seq, 10) + "\n" + text
	}
	return s.send([]byte(text))
}
