package gateway

import (
	"context"
	"net/http"
	"strings"
	"sync"
)

// flights knows the generations that run, by tenant and id, so that another
// connection can stop them.
type flights struct {
	mu   sync.Mutex // guards following
	open map[flightKey]map[*context.CancelCauseFunc]bool
}

type flightKey struct{ tenant, id string }

func newFlights() *flights {
	return &flights{open: map[flightKey]map[*context.CancelCauseFunc]bool{}}
}

// enter names a generation. Several may have one name: the choices of a request,
// and requests to which their clients gave equal ids. done must follow.
func (f *flights) enter(ctx context.Context, tenant, id string) (_ context.Context, done func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	key := flightKey{tenant, id}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.open[key] == nil {
		f.open[key] = map[*context.CancelCauseFunc]bool{}
	}
	f.open[key][&cancel] = true
	return ctx, func() {
		f.mu.Lock()
		delete(f.open[key], &cancel)
		if len(f.open[key]) == 0 {
			delete(f.open, key)
		}
		f.mu.Unlock()
		cancel(errClient)
	}
}

// stop ends the generations of that name and tells how many there were.
func (f *flights) stop(tenant, id string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	list := f.open[flightKey{tenant, id}]
	for cancel := range list {
		(*cancel)(errClient)
	}
	return len(list)
}

// cancelAnswer is the answer of POST /v1/cancel/{id}.
type cancelAnswer struct {
	ID      string `json:"id"`
	Stopped int    `json:"stopped"` // generations that ran
}

// cancel serves POST /v1/cancel/{id}. The id is a request's (of the header
// X-Request-Id, or of an OpenAI answer) or a rich generation's.
func (g *Gateway) cancel(w http.ResponseWriter, r *http.Request) {
	tenant, id := callerOf(r.Context()).tenant, r.PathValue("id")
	n := g.flights.stop(tenant, id)
	for _, prefix := range []string{"chatcmpl-", "cmpl-"} {
		if rest, ok := strings.CutPrefix(id, prefix); ok {
			n += g.flights.stop(tenant, rest)
		}
	}
	if n == 0 {
		errNothingRuns.write(w)
		return
	}
	writeJSON(w, http.StatusOK, cancelAnswer{id, n})
}

var errNothingRuns = &problem{code: codeUnknownGeneration, param: "id", message: "No generation of that id runs here."}
