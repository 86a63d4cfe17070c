// Package weightstest serves files as an origin of weights does, counts what it sends
// and can be slow.
package weightstest

import (
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// Loopback are the networks of origins in tests.
func Loopback() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
}

// Origin is a web server of the files of a folder. It is safe for concurrent use.
type Origin struct {
	URL string // without a slash at its end

	dir    string
	server http.Server
	sent   atomic.Int64
	spoil  atomic.Pointer[func([]byte)]

	mu   sync.Mutex
	rate float64   // guarded by mu; bytes a second; 0 is no limit
	free time.Time // guarded by mu; when the next byte may be sent
}

// Start serves a folder on a port of its own, to this machine.
func Start(dir string) (*Origin, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	o := &Origin{URL: "http://" + l.Addr().String(), dir: dir}
	o.server.Handler = http.HandlerFunc(o.serve)
	go o.server.Serve(l) //nolint:errcheck // it ends with Close
	return o, nil
}

// Close ends it.
func (o *Origin) Close() error { return o.server.Close() }

// Sent returns the bytes of files that were sent, and begins to count anew.
func (o *Origin) Sent() int64 { return o.sent.Swap(0) }

// Limit sets how many bytes a second are sent, over all connections; 0 is no limit.
func (o *Origin) Limit(rate float64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.rate = rate
}

// Spoil has f change what is sent; nil sends what is there.
func (o *Origin) Spoil(f func([]byte)) {
	if f == nil {
		o.spoil.Store(nil)
		return
	}
	o.spoil.Store(&f)
}

func (o *Origin) serve(w http.ResponseWriter, r *http.Request) {
	f, err := os.Open(filepath.Join(o.dir, filepath.Base(r.URL.Path)))
	if err != nil {
		http.NotFound(w, r)
		return
	}
	defer f.Close()
	w.Header().Set("ETag", `"`+filepath.Base(r.URL.Path)+`"`)
	http.ServeContent(&slow{w, r, o}, r, "", time.Time{}, f)
}

// slow sends no faster than the origin's rate.
type slow struct {
	http.ResponseWriter
	r *http.Request
	o *Origin
}

var _ io.Writer = (*slow)(nil)

// Write sends bytes once it is their turn.
func (s *slow) Write(p []byte) (int, error) {
	const piece = 16 << 10
	done := 0
	for done < len(p) {
		chunk := p[done:min(done+piece, len(p))]
		if !s.o.wait(s.r, len(chunk)) {
			return done, s.r.Context().Err()
		}
		if f := s.o.spoil.Load(); f != nil {
			chunk = append([]byte(nil), chunk...)
			(*f)(chunk)
		}
		n, err := s.ResponseWriter.Write(chunk)
		s.o.sent.Add(int64(n))
		done += n
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// wait takes the time that n bytes have.
func (o *Origin) wait(r *http.Request, n int) bool {
	o.mu.Lock()
	if o.rate == 0 {
		o.mu.Unlock()
		return true
	}
	now := time.Now()
	if o.free.Before(now) {
		o.free = now
	}
	at := o.free
	o.free = o.free.Add(time.Duration(float64(n) / o.rate * float64(time.Second)))
	o.mu.Unlock()
	select {
	case <-time.After(time.Until(at)):
		return true
	case <-r.Context().Done():
		return false
	}
}
