package gateway

import (
	"crypto/rand"
	"crypto/sha256"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/shoal-llm/shoal/internal/telemetry"
)

// Bounds of tickets.
const (
	ticketLife   = 30 * time.Second
	ticketsOpen  = 4096 // of all tenants
	tenantsShare = 256  // of one
	ticketParam  = "ticket"
)

// tickets lets in browsers, which cannot send a key with a WebSocket: a page
// asks for a ticket with its key and gives it in the address, once. Only
// hashes are kept.
type tickets struct {
	mu   sync.Mutex // guards following
	open map[[32]byte]ticket
	of   map[string]int // how many a tenant has
}

type ticket struct {
	holder  caller
	expires time.Time
}

func newTickets() *tickets {
	return &tickets{open: map[[32]byte]ticket{}, of: map[string]int{}}
}

var errTickets = &problem{code: codeRateLimit, retryable: true, message: "Too many tickets are open; use them, or wait until they expire."}

// issue makes a ticket for a tenant.
func (t *tickets) issue(holder caller, now time.Time) (string, *problem) {
	tenant := holder.tenant
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.open) >= ticketsOpen || t.of[tenant] >= tenantsShare {
		t.sweep(now)
	}
	if len(t.open) >= ticketsOpen || t.of[tenant] >= tenantsShare {
		return "", errTickets
	}
	text := rand.Text()
	t.open[sha256.Sum256([]byte(text))] = ticket{caller{tenant: tenant, key: holder.key}, now.Add(ticketLife)}
	t.of[tenant]++
	return text, nil
}

// sweep drops expired tickets. The lock is held.
func (t *tickets) sweep(now time.Time) {
	for sum, k := range t.open {
		if !now.Before(k.expires) {
			t.drop(sum, k)
		}
	}
}

func (t *tickets) drop(sum [32]byte, k ticket) {
	delete(t.open, sum)
	if t.of[k.holder.tenant]--; t.of[k.holder.tenant] == 0 {
		delete(t.of, k.holder.tenant)
	}
}

// redeem takes a ticket back and tells whose it is. It works once.
func (t *tickets) redeem(text string, now time.Time) (holder caller, ok bool) {
	sum := sha256.Sum256([]byte(text))
	t.mu.Lock()
	defer t.mu.Unlock()
	k, ok := t.open[sum]
	if !ok {
		return caller{}, false
	}
	t.drop(sum, k)
	return k.holder, now.Before(k.expires)
}

// ticketAnswer is the answer of POST /v1/ws-ticket.
type ticketAnswer struct {
	Ticket    string `json:"ticket"`
	ExpiresIn int    `json:"expires_in"` // seconds
}

// ticket serves POST /v1/ws-ticket.
func (g *Gateway) ticket(w http.ResponseWriter, r *http.Request) {
	text, p := g.tickets.issue(callerOf(r.Context()), time.Now())
	if p != nil {
		p.write(w)
		return
	}
	writeJSON(w, http.StatusOK, ticketAnswer{text, int(ticketLife / time.Second)})
}

var errBadTicket = &problem{code: codeBadKey, param: ticketParam, message: "The ticket is unknown, used or expired: ask for a new one with POST /v1/ws-ticket."}

// ticketed lets in those with a ticket in their address, and else those with a
// key. The ticket does not go on to where it could be logged.
func (g *Gateway) ticketed(next http.HandlerFunc) http.HandlerFunc {
	byKey := g.keyed(next)
	return func(w http.ResponseWriter, r *http.Request) {
		query, err := url.ParseQuery(r.URL.RawQuery)
		if err != nil || !query.Has(ticketParam) {
			byKey(w, r)
			return
		}
		who, ok := g.tickets.redeem(query.Get(ticketParam), time.Now())
		if key := keyOf(r); ok && key != "" {
			other, refused := g.access.holderOf(key)
			ok = refused == nil && other.tenant == who.tenant
		}
		if !ok || len(query[ticketParam]) != 1 {
			errBadTicket.write(w)
			return
		}
		query.Del(ticketParam)
		r.URL.RawQuery = query.Encode()
		who.id = requestIDOf(r)
		ctx := telemetry.Extract(r.Context(), r.Header.Get("traceparent"))
		next(w, r.WithContext(withCaller(ctx, who)))
	}
}
