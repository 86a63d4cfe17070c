package gateway

import (
	"math"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// allowance is a bucket that a minute fills. What is taken may be more than there
// is: the debt is filled up first.
type allowance struct {
	perMinute float64 // 0: no limit
	level     float64
	at        time.Time
}

func (a *allowance) limit(perMinute int, now time.Time) {
	was := a.perMinute
	a.fill(now)
	if a.perMinute = float64(perMinute); was == 0 || a.level > a.perMinute {
		a.level = a.perMinute
	}
}

func (a *allowance) fill(now time.Time) {
	if now.After(a.at) {
		a.level = min(a.perMinute, a.level+a.perMinute*now.Sub(a.at).Minutes())
		a.at = now
	}
}

// wait is how long until one more may be taken; 0 is now.
func (a *allowance) wait(now time.Time) time.Duration {
	if a.perMinute == 0 {
		return 0
	}
	if a.fill(now); a.level >= 1 {
		return 0
	}
	return time.Duration((1 - a.level) / a.perMinute * float64(time.Minute))
}

// budget holds one key to its requests and tokens a minute. A request is counted
// when it begins, tokens as they are: those of the prompt when it is accepted,
// those of the answer one by one. So an answer that runs is never cut, and what it
// took beyond the minute is owed before the next begins.
type budget struct {
	mu       sync.Mutex // guards following
	requests allowance
	tokens   allowance
}

// limit sets the limits; 0 is none. What was taken before stays taken.
func (b *budget) limit(requests, tokens int, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.requests.limit(requests, now)
	b.tokens.limit(tokens, now)
}

// begin takes a request, or says how long to wait for which limit.
func (b *budget) begin(now time.Time) (wait time.Duration, of string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if wait := b.requests.wait(now); wait > 0 {
		return wait, "requests"
	}
	if wait := b.tokens.wait(now); wait > 0 {
		return wait, "tokens"
	}
	b.requests.level--
	return 0, ""
}

// use takes tokens. A nil budget counts nothing.
func (b *budget) use(tokens int, now time.Time) {
	if b == nil || tokens == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tokens.fill(now)
	b.tokens.level -= float64(tokens)
}

// headers are the limits as OpenAI's clients read them.
func (b *budget) headers(h http.Header, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for name, a := range map[string]*allowance{"Requests": &b.requests, "Tokens": &b.tokens} {
		if a.perMinute == 0 {
			continue
		}
		a.fill(now)
		full := time.Duration((a.perMinute - a.level) / a.perMinute * float64(time.Minute))
		h.Set("X-Ratelimit-Limit-"+name, strconv.Itoa(int(a.perMinute)))
		h.Set("X-Ratelimit-Remaining-"+name, strconv.Itoa(int(math.Max(0, math.Floor(a.level)))))
		h.Set("X-Ratelimit-Reset-"+name, full.Round(time.Millisecond).String())
	}
}
