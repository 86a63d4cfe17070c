package gateway

import (
	"context"
	"iter"
	"log/slog"
	"net/http"
	"time"

	"github.com/shoal-llm/shoal/internal/telemetry"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// caller is who sent a request.
type caller struct {
	tenant   string
	key      *heldKey  // that it showed; nil where none is needed
	id       string    // the request id it gave, or empty
	deadline time.Time // that it gave; zero is none
}

type callerKey struct{}

func withCaller(ctx context.Context, c caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// callerOf returns whom the door let in.
func callerOf(ctx context.Context) caller {
	c, _ := ctx.Value(callerKey{}).(caller)
	return c
}

const requestIDHeader = "X-Request-Id"

// request is one question at a door, from its arrival to its last byte.
type request struct {
	id     string // the caller's own or the trace's; clients see it
	door   string // websocket, openai, grpc
	tenant string
	budget *budget // of its key; nil: nothing is counted
	began  time.Time
	span   telemetry.Span
	log    *slog.Logger
}

// begin opens a request and its span; g is nil for one that was refused. end
// must follow.
func (g *Gateway) begin(ctx context.Context, door string, gen *pb.Generation) (context.Context, *request) {
	who := callerOf(ctx)
	ctx, span := g.telemetry.StartRequest(ctx, describe(gen))
	r := &request{
		id: orDefault(who.id, telemetry.TraceID(ctx)), door: door, tenant: who.tenant, began: time.Now(), span: span, log: g.log,
	}
	if who.key != nil {
		r.budget = who.key.budget
	}
	return ctx, r
}

// operation names what a generation asks for.
func operation(gen *pb.Generation) string {
	if gen.GetPooling() != pb.Pooling_POOLING_UNSPECIFIED {
		return telemetry.Embeddings
	}
	switch gen.GetInput().(type) {
	case *pb.Generation_Raw, *pb.Generation_Resumption:
		return telemetry.Completion
	}
	return telemetry.Chat
}

// describe says what a span may know of a generation: no text.
func describe(gen *pb.Generation) telemetry.Request {
	r := telemetry.Request{Op: operation(gen), Model: gen.GetModel()}
	if s := gen.GetSampling(); s != nil {
		temperature := float64(s.GetTemperature())
		r.MaxTokens, r.Temperature = int(s.GetMaxTokens()), &temperature
		if p := float64(s.GetTopP()); p > 0 {
			r.TopP = &p
		}
	}
	if gen.GetSeedSet() {
		seed := gen.GetSampling().GetSeed()
		r.Seed = &seed
	}
	return r
}

func (r *request) end() { r.span.End() }

// enter begins a request that HTTP brought: its answer carries the id, and its
// context ends with the gateway's drain. One that was refused, for p or by what its
// key allows, is answered, and ok is false. leave ends it.
func (g *Gateway) enter(w http.ResponseWriter, r *http.Request, door string, gen *pb.Generation, p *problem) (ctx context.Context, req *request, leave func(), ok bool) {
	ctx, req = g.begin(r.Context(), door, gen)
	w.Header().Set(requestIDHeader, req.id)
	if p == nil {
		p = g.charge(ctx, gen.GetModel())
	}
	if req.budget != nil {
		req.budget.headers(w.Header(), time.Now())
	}
	if p != nil {
		req.refuse(p).write(w)
		return ctx, req, req.end, false
	}
	ctx, cancel := g.untilDrained(ctx)
	return ctx, req, func() { cancel(); req.end() }, true
}

// refuse notes that the request never became a generation, and nothing of what its
// client wrote.
func (r *request) refuse(p *problem) *problem {
	r.span.Fail(p.code)
	r.log.Info("refused", "request", r.id, "door", r.door, "tenant", r.tenant, "code", p.code)
	return p
}

// run is generate, watched: it completes the generation with who asks and which
// trace it belongs to, and writes span, metrics and one log line at the end.
// Prompts and answers are in none of them.
func (g *Gateway) run(ctx context.Context, req *request, gen *pb.Generation) iter.Seq[*pb.Event] {
	return func(yield func(*pb.Event) bool) {
		gen.Tenant = req.tenant
		gen.Traceparent = telemetry.Inject(ctx)
		ctx, cancel := withDeadline(ctx, gen)
		defer cancel()
		ctx, done := g.flights.enter(ctx, req.tenant, req.id)
		defer done()
		g.watched(ctx, req, gen, g.generate(ctx, gen))(yield)
	}
}

// watched passes events on and writes what they come to.
func (g *Gateway) watched(ctx context.Context, req *request, gen *pb.Generation, events iter.Seq[*pb.Event]) iter.Seq[*pb.Event] {
	return func(yield func(*pb.Event) bool) {
		o := &observation{request: req, op: operation(gen)}
		defer o.finish(ctx, g)
		for e := range events {
			o.see(e)
			if !yield(e) {
				return
			}
		}
	}
}

// observation is what one generation has shown so far.
type observation struct {
	request *request
	op      string // of telemetry
	model   string // the one that answers; a stranger's word would be a metric's label
	session string // the coordinator's id
	first   time.Duration
	last    time.Duration
	tokens  int
	prompt  int
	outcome string // finish reason, "stopped", or the error's code
	failed  bool
}

func (o *observation) see(e *pb.Event) {
	switch e := e.GetEvent().(type) {
	case *pb.Event_Accepted:
		if o.session == "" { // else it goes on elsewhere, with the same prompt
			o.request.budget.use(len(e.Accepted.GetPromptIds()), time.Now())
		}
		o.model, o.session = e.Accepted.GetModel(), e.Accepted.GetId()
		o.prompt = len(e.Accepted.GetPromptIds())
	case *pb.Event_Token:
		o.request.budget.use(1, time.Now())
		o.last = time.Since(o.request.began)
		if o.tokens++; o.tokens == 1 {
			o.first = o.last
		}
	case *pb.Event_Complete:
		o.outcome = e.Complete.GetFinishReason()
		o.prompt = int(e.Complete.GetUsage().GetPromptTokens())
	case *pb.Event_Stopped:
		o.outcome = codeStopped
	case *pb.Event_Error:
		o.outcome, o.failed = e.Error.GetCode(), true
	}
}

func (o *observation) finish(ctx context.Context, g *Gateway) {
	o.outcome = orDefault(o.outcome, codeStopped) // else the client has left
	total := time.Since(o.request.began)
	errorType := ""
	if o.failed {
		errorType = o.outcome
		o.request.span.Fail(o.outcome)
	}
	o.request.span.Answer(o.session, o.model, o.outcome, o.prompt, o.tokens)
	g.telemetry.ObserveRequest(o.op, o.model, errorType, total)
	if o.session != "" {
		g.telemetry.ObserveUsage(o.op, o.model, o.prompt, o.tokens)
	}
	if o.tokens > 0 {
		g.telemetry.ObserveTTFT(o.op, o.model, o.first)
	}
	if o.tokens > 1 {
		g.telemetry.ObserveTPOT(o.op, o.model, (o.last-o.first)/time.Duration(o.tokens-1))
	}
	g.log.LogAttrs(ctx, slog.LevelInfo, "answered",
		slog.String("request", o.request.id), slog.String("session", o.session),
		slog.String("door", o.request.door), slog.String("tenant", o.request.tenant), slog.String("model", o.model),
		slog.String("outcome", o.outcome), slog.Int("prompt_tokens", o.prompt), slog.Int("tokens", o.tokens),
		slog.Duration("first_token", o.first), slog.Duration("total", total))
}
