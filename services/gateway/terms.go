package gateway

import (
	"context"
	"net/http"
	"strconv"
	"sync"
	"time"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// What a request for an answer may say in its headers: how long its client
// waits, and a key that makes a repeat known as one.
const (
	timeoutHeader     = "X-Request-Timeout-Ms"
	idempotencyHeader = "Idempotency-Key"

	maxTimeoutMs      = 24 * 60 * 60 * 1000
	maxIdempotencyKey = 255
)

var (
	errBadTimeout     = &problem{code: codeInvalid, param: timeoutHeader, message: timeoutHeader + " must be a number of milliseconds, at most a day."}
	errTimedOut       = &problem{code: codeDeadline, param: timeoutHeader, message: "The time that the request gave was over when it arrived."}
	errBadIdempotency = &problem{code: codeInvalid, param: idempotencyHeader, message: idempotencyHeader + " must be 1 to 255 printable ASCII characters without spaces, once."}
	errRepeated       = &problem{code: codeRepeated, param: idempotencyHeader, retryable: true, message: "A request with this " + idempotencyHeader + " is being answered; ask again when it has ended."}
)

// answering stands before every address that computes: it refuses while the
// gateway drains, gives the request its deadline, and lets one request of an
// idempotency key in at a time.
func (g *Gateway) answering(next http.HandlerFunc) http.HandlerFunc {
	return g.refuseWhenDraining(func(w http.ResponseWriter, r *http.Request) {
		who := callerOf(r.Context())
		var p *problem
		if who.deadline, p = timeoutOf(r.Header.Values(timeoutHeader)); p != nil {
			p.write(w)
			return
		}
		leave, p := g.repeats.enter(who.tenant, r.Header.Values(idempotencyHeader))
		defer leave()
		if p != nil {
			p.write(w)
			return
		}
		next(w, r.WithContext(withCaller(r.Context(), who)))
	})
}

// timeoutOf returns the deadline that a request's header gives it; zero is none.
func timeoutOf(values []string) (time.Time, *problem) {
	if len(values) == 0 {
		return time.Time{}, nil
	}
	ms, err := strconv.ParseInt(values[0], 10, 64)
	switch {
	case err != nil || len(values) > 1 || ms > maxTimeoutMs:
		return time.Time{}, errBadTimeout
	case ms <= 0:
		return time.Time{}, errTimedOut
	}
	return time.Now().Add(time.Duration(ms) * time.Millisecond), nil
}

// withDeadline ends ctx at the caller's deadline, and tells the coordinator of a
// generation when ctx ends, unless the generation itself ends earlier: what
// nobody waits for is not computed. cancel must be called.
func withDeadline(ctx context.Context, gen *pb.Generation) (_ context.Context, cancel context.CancelFunc) {
	cancel = func() {}
	if at := callerOf(ctx).deadline; !at.IsZero() {
		ctx, cancel = context.WithDeadline(ctx, at)
	}
	at, ok := ctx.Deadline()
	if ok && (gen.GetDeadlineMs() == 0 || at.UnixMilli() < gen.GetDeadlineMs()) {
		gen.DeadlineMs = at.UnixMilli()
	}
	return ctx, cancel
}

// repeats knows the idempotency keys of the requests that are being answered.
// An answer is not kept after its end: a later request of the same key is
// computed anew, and with the same seed gets the same answer.
type repeats struct {
	mu   sync.Mutex // guards open
	open map[repeatKey]bool
}

type repeatKey struct{ tenant, key string }

func newRepeats() *repeats { return &repeats{open: map[repeatKey]bool{}} }

// enter lets a request in, unless one of the same tenant and key is inside.
// leave must be called.
func (r *repeats) enter(tenant string, keys []string) (leave func(), refused *problem) {
	if len(keys) == 0 {
		return func() {}, nil
	}
	if len(keys) > 1 || len(keys[0]) > maxIdempotencyKey || !printable(keys[0]) {
		return func() {}, errBadIdempotency
	}
	key := repeatKey{tenant, keys[0]}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.open[key] {
		return func() {}, errRepeated
	}
	r.open[key] = true
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.open, key)
	}, nil
}

// printable reports whether text is printable ASCII without spaces, and not
// empty.
func printable(text string) bool {
	for _, c := range []byte(text) {
		if c <= ' ' || c > '~' {
			return false
		}
	}
	return text != ""
}
