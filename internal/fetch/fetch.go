// Package fetch gets bytes from web servers: the one way by which weights come from
// outside the cluster.
//
// Only operators name addresses, and still each is looked at when it is dialled, after
// names were resolved and after each redirect: addresses of this machine, of private
// networks and of a cloud's metadata are refused unless the operator has allowed
// their network. What a server says is checked before it is believed: the range that
// it sends, its length, its encoding, and that the file is the one that was begun.
//
// A file is read in ranges, several at once. What has come stays: after a fault a
// range goes on where it broke, after a pause that grows, or as long as the server
// asks for. A server that ignores ranges is read once from front to back. One that
// sends too little for too long is given up by name.
package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Errors of sources.
var (
	// ErrAddress says that an address lies in a network that is not allowed.
	ErrAddress = errors.New("address is not allowed")
	// ErrScheme says that an address is not one of the web.
	ErrScheme = errors.New("unsupported scheme")
	// ErrChanged says that a file is another than when it was begun.
	ErrChanged = errors.New("the file has changed at its origin")
	// ErrStalled says that a server sends too little.
	ErrStalled = errors.New("the server has stalled")
	// ErrProtocol says that an answer is not what was asked for.
	ErrProtocol = errors.New("the server's answer is wrong")
	// ErrNotFound says that a server has no such file.
	ErrNotFound = errors.New("there is no such file")
	// ErrDenied says that a server wants another token.
	ErrDenied = errors.New("access denied")
)

// Options say how to fetch. The zero value is for use on the internet.
type Options struct {
	// Private are networks that may be dialled though they are private, and over
	// plain HTTP: an origin of one's own.
	Private []netip.Prefix
	// Token returns what proves who asks a server (host:port or host), as a bearer
	// token; empty is nothing. Nil has none.
	Token func(host string) string
	// Stall is how long a server may send less than MinRate; 0 is 30 s.
	Stall time.Duration
	// MinRate is in bytes a second; 0 is 64 KiB.
	MinRate int64
	// Attempts is how often in a row something may fail before it is given up; 0 is 6.
	Attempts int
	// Parallel is how many ranges are read at once; 0 is 4.
	Parallel int
	// Pause is the first pause after a fault; 0 is 250 ms. It doubles up to 8 s.
	Pause time.Duration
	// MaxWait is the longest pause that a server may ask for; 0 is 5 minutes.
	MaxWait time.Duration
}

// Fetcher gets bytes. It is safe for concurrent use.
type Fetcher struct {
	o      Options
	client *http.Client
}

// New returns a fetcher.
func New(o Options) *Fetcher {
	if o.Stall == 0 {
		o.Stall = 30 * time.Second
	}
	if o.MinRate == 0 {
		o.MinRate = 64 << 10
	}
	if o.Attempts == 0 {
		o.Attempts = 6
	}
	if o.Parallel == 0 {
		o.Parallel = 4
	}
	if o.Pause == 0 {
		o.Pause = 250 * time.Millisecond
	}
	if o.MaxWait == 0 {
		o.MaxWait = 5 * time.Minute
	}
	return &Fetcher{o: o, client: newClient(o)}
}

// Close gives back idle connections.
func (f *Fetcher) Close() { f.client.CloseIdleConnections() }

// Remote is a file on a server, as it was when it was looked at.
type Remote struct {
	URL    string
	Size   int64
	ETag   string // as the server spells it; empty when it has none
	Linked string // X-Linked-Etag of model hubs without quotes: of large files the SHA-256
	Commit string // X-Repo-Commit of model hubs
}

// Span is a range of a file.
type Span struct {
	Offset int64
	Size   int
}

// temporary is a fault after which another attempt may go well.
type temporary struct {
	error
	after time.Duration // that the server asks to wait; 0 is nothing
}

func (t temporary) Unwrap() error { return t.error }

// again calls try until it goes well, fails for good, or has failed too often
// without progress in between.
func (f *Fetcher) again(ctx context.Context, try func() (progress bool, err error)) error {
	for failed := 0; ; {
		progress, err := try()
		if err == nil {
			return nil
		}
		var t temporary
		if !errors.As(err, &t) {
			return err
		}
		if progress {
			failed = 0
		}
		if failed++; failed >= f.o.Attempts {
			return fmt.Errorf("given up after %d attempts: %w", failed, t.error)
		}
		pause := f.o.Pause << min(failed-1, 5)
		pause = pause/2 + rand.N(pause)
		if t.after > f.o.MaxWait {
			return fmt.Errorf("the server asks to wait %v: %w", t.after, t.error)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(max(pause, t.after)):
		}
	}
}

// request asks for a range of a file, or for all of it when size is 0. Where the file
// was looked at before, the answer must be of the same.
func (f *Fetcher) request(ctx context.Context, method, address string, from, size int64, etag string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, address, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrScheme, err)
	}
	if err := f.checkURL(req.URL); err != nil {
		return nil, err
	}
	req.Header.Set("Accept-Encoding", "identity")
	req.Header.Set("User-Agent", "shoal")
	if size > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", from, from+size-1))
		if etag != "" && !strings.HasPrefix(etag, "W/") {
			req.Header.Set("If-Range", etag)
		}
	}
	resp, err := f.client.Do(req)
	if err != nil {
		return nil, f.transportError(ctx, err)
	}
	if err := answerError(resp); err != nil {
		resp.Body.Close()
		return nil, fmt.Errorf("%s: %w", hostOf(address), err)
	}
	return resp, nil
}

// transportError says whether another attempt may help after a request that got no
// answer.
func (f *Fetcher) transportError(ctx context.Context, err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err // without the address, which may hold a signature
	}
	switch {
	case errors.Is(context.Cause(ctx), ErrStalled):
		return temporary{error: context.Cause(ctx)}
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, ErrAddress), errors.Is(err, ErrScheme), errors.Is(err, ErrProtocol):
		return err
	}
	return temporary{error: fmt.Errorf("no answer: %w", err)}
}

// answerError says what is wrong with an answer's head.
func answerError(resp *http.Response) error {
	said := fmt.Errorf("%w: %s", ErrProtocol, resp.Status)
	switch code := resp.StatusCode; {
	case code == http.StatusOK, code == http.StatusPartialContent:
	case code == http.StatusUnauthorized, code == http.StatusForbidden:
		return fmt.Errorf("%w: %s; is a token needed (HF_TOKEN), or the model's licence to be accepted?", ErrDenied, resp.Status)
	case code == http.StatusNotFound, code == http.StatusGone:
		return fmt.Errorf("%w: %s", ErrNotFound, resp.Status)
	case code == http.StatusTooManyRequests, code == http.StatusRequestTimeout, code >= 500:
		return temporary{error: said, after: retryAfter(resp.Header.Get("Retry-After"), time.Now())}
	default:
		return said
	}
	if e := resp.Header.Get("Content-Encoding"); e != "" && e != "identity" {
		return fmt.Errorf("%w: it is encoded as %q, though the plain bytes were asked for", ErrProtocol, e)
	}
	return nil
}

// retryAfter reads the pause that a server asks for, in seconds or as a date.
func retryAfter(text string, now time.Time) time.Duration {
	if n, err := strconv.ParseInt(text, 10, 32); err == nil && n > 0 {
		return time.Duration(n) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
}

// hostOf is what errors call a server.
func hostOf(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return "address"
	}
	return u.Host
}

// Look asks what a file is, without its bytes.
func (f *Fetcher) Look(ctx context.Context, address string) (r Remote, err error) {
	err = f.again(ctx, func() (bool, error) {
		resp, err := f.request(ctx, http.MethodHead, address, 0, 0, "")
		if errors.Is(err, ErrProtocol) || errors.Is(err, ErrDenied) { // of addresses that are signed for reading alone
			resp, err = f.request(ctx, http.MethodGet, address, 0, 1, "")
		}
		if err != nil {
			return false, err
		}
		resp.Body.Close()
		r = remoteOf(address, resp)
		r.Size = resp.ContentLength
		if resp.StatusCode == http.StatusPartialContent {
			_, _, r.Size, _ = parseRange(resp.Header.Get("Content-Range"))
		}
		if r.Size < 0 || r.Size > maxSize {
			return false, fmt.Errorf("%s: %w: it does not say how long the file is", hostOf(address), ErrProtocol)
		}
		return false, nil
	})
	return r, err
}

// remoteOf reads what an answer says about a file. Model hubs say it where they
// redirect to the server that has the bytes.
func remoteOf(address string, resp *http.Response) Remote {
	r := Remote{URL: address, ETag: resp.Header.Get("ETag")}
	for at := resp; at != nil; {
		if v := at.Header.Get("X-Linked-Etag"); v != "" {
			r.Linked = strings.Trim(v, `"`)
		}
		if v := at.Header.Get("X-Repo-Commit"); v != "" {
			r.Commit = v
		}
		if at.Request == nil {
			break
		}
		at = at.Request.Response
	}
	return r
}

// Small reads a whole file of at most most bytes.
func (f *Fetcher) Small(ctx context.Context, address string, most int64) (data []byte, err error) {
	err = f.again(ctx, func() (bool, error) {
		ctx, w := f.watch(ctx)
		defer w.stop()
		resp, err := f.request(ctx, http.MethodGet, address, 0, 0, "")
		if err != nil {
			return false, err
		}
		defer resp.Body.Close()
		data, err = io.ReadAll(io.LimitReader(w.reader(resp.Body), most+1))
		if err != nil {
			return false, f.bodyError(ctx, address, err)
		}
		if int64(len(data)) > most {
			return false, fmt.Errorf("%s: %w: more than %d bytes", hostOf(address), ErrProtocol, most)
		}
		if resp.ContentLength >= 0 && int64(len(data)) != resp.ContentLength {
			return false, temporary{error: fmt.Errorf("%s: %w: %d bytes of %d", hostOf(address), ErrProtocol, len(data), resp.ContentLength)}
		}
		return false, nil
	})
	return data, err
}

// bodyError says whether another attempt may help after a body that broke off.
func (f *Fetcher) bodyError(ctx context.Context, address string, err error) error {
	cause := context.Cause(ctx)
	if errors.Is(cause, ErrStalled) {
		return temporary{error: fmt.Errorf("%s: %w", hostOf(address), cause)}
	}
	if cause != nil {
		return cause
	}
	return temporary{error: fmt.Errorf("%s: the answer broke off: %w", hostOf(address), err)}
}

// Prefix reads the first n bytes of a file, or all of one that is shorter. A later
// call with what was read goes on behind it.
func (f *Fetcher) Prefix(ctx context.Context, r Remote, have []byte, n int64) ([]byte, error) {
	n = min(n, r.Size)
	if int64(len(have)) >= n {
		return have, nil
	}
	span := Span{Offset: int64(len(have)), Size: int(n - int64(len(have)))}
	err := f.Spans(ctx, r, []Span{span}, func(_ Span, data []byte) error {
		have = append(have, data...)
		return nil
	})
	return have, err
}

// maxSize bounds what a server may say of a file's size.
const maxSize = math.MaxInt64 / 2
