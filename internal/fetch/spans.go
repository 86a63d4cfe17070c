package fetch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// maxRun is the most bytes that one request asks for.
const maxRun = 16 << 20

// ErrBad is what a sink returns, wrapped, for bytes that are not what they should be:
// they are fetched again, a few times.
var ErrBad = errors.New("the origin's bytes are not those that were promised")

// Spans reads ranges of a file, several at a time, and gives each to sink when it is
// complete; the data are sink's only until it returns, and sink is called from
// several goroutines. Of a fetch that was ended anyhow, at most Parallel spans that
// had begun are lost. The first error ends it.
func (f *Fetcher) Spans(ctx context.Context, r Remote, spans []Span, sink func(Span, []byte) error) error {
	for _, s := range spans {
		if s.Size < 1 || s.Offset < 0 || s.Offset > r.Size-int64(s.Size) {
			return fmt.Errorf("%w: bytes [%d, %d) of a file of %d", ErrProtocol, s.Offset, s.Offset+int64(s.Size), r.Size)
		}
	}
	q := newQueue(spans, f.o.Parallel)
	group, inner := errgroup.WithContext(ctx)
	for range f.o.Parallel {
		group.Go(func() error {
			for {
				run := q.next()
				if len(run) == 0 {
					return nil
				}
				if err := f.run(inner, r, run, q, sink); err != nil {
					return err
				}
			}
		})
	}
	err := group.Wait()
	if errors.Is(err, errNoRanges) {
		return f.stream(ctx, r, q.left(), sink)
	}
	return err
}

// queue are the spans that nobody reads yet, by offset.
type queue struct {
	mu     sync.Mutex
	spans  []Span // guarded by mu
	undone map[Span]bool
	most   int64 // bytes of a run
}

func newQueue(spans []Span, parallel int) *queue {
	q := &queue{spans: slices.Clone(spans), undone: map[Span]bool{}}
	slices.SortFunc(q.spans, func(a, b Span) int { return cmp.Compare(a.Offset, b.Offset) })
	total := int64(0)
	for _, s := range q.spans {
		q.undone[s] = true
		total += int64(s.Size)
	}
	q.most = min(maxRun, total/int64(parallel)+1) // everybody has something to do
	return q
}

// next takes spans that follow each other without a gap.
func (q *queue) next() []Span {
	q.mu.Lock()
	defer q.mu.Unlock()
	n, bytes := 0, int64(0)
	for n < len(q.spans) && bytes < q.most {
		if n > 0 && q.spans[n].Offset != q.spans[n-1].Offset+int64(q.spans[n-1].Size) {
			break
		}
		bytes += int64(q.spans[n].Size)
		n++
	}
	run := q.spans[:n:n]
	q.spans = q.spans[n:]
	return run
}

func (q *queue) done(s Span) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.undone, s)
}

// left returns the spans that were not given to the sink.
func (q *queue) left() []Span {
	q.mu.Lock()
	defer q.mu.Unlock()
	var out []Span
	for s := range q.undone {
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b Span) int { return cmp.Compare(a.Offset, b.Offset) })
	return out
}

// errNoRanges says that a server sends whole files only.
var errNoRanges = errors.New("the server ignores ranges")

// mostBad is how often bytes may come that are not those promised.
const mostBad = 3

// run reads spans that follow each other. After a fault it goes on where it was.
func (f *Fetcher) run(ctx context.Context, r Remote, run []Span, q *queue, sink func(Span, []byte) error) error {
	buf := make([]byte, largest(run))
	have, bad := 0, 0 // bytes of the first of run; times that it was wrong
	return f.again(ctx, func() (progress bool, err error) {
		ctx, w := f.watch(ctx)
		defer w.stop()
		from := run[0].Offset + int64(have)
		last := run[len(run)-1]
		size := last.Offset + int64(last.Size) - from
		resp, err := f.request(ctx, http.MethodGet, r.URL, from, size, r.ETag)
		if err != nil {
			return false, err
		}
		defer resp.Body.Close()
		if err := checkRange(resp, r, from, size); err != nil {
			return false, err
		}
		body := w.reader(resp.Body)
		for len(run) > 0 {
			n, err := io.ReadFull(body, buf[have:run[0].Size])
			have += n
			if err != nil {
				return progress, f.bodyError(ctx, r.URL, err)
			}
			have = 0
			err = sink(run[0], buf[:run[0].Size])
			if errors.Is(err, ErrBad) {
				if bad++; bad < mostBad {
					return progress, temporary{error: err}
				}
			}
			if err != nil {
				return progress, err
			}
			q.done(run[0])
			run, progress, bad = run[1:], true, 0
		}
		return progress, nil
	})
}

func largest(spans []Span) (n int) {
	for _, s := range spans {
		n = max(n, s.Size)
	}
	return n
}

// checkRange holds an answer against the range that was asked for.
func checkRange(resp *http.Response, r Remote, from, size int64) error {
	host := hostOf(r.URL)
	if err := sameFile(resp, r); err != nil {
		return err
	}
	if resp.StatusCode == http.StatusOK {
		if from == 0 && size == r.Size && resp.ContentLength == size {
			return nil // all of it was asked for
		}
		return errNoRanges
	}
	said := resp.Header.Get("Content-Range")
	first, last, total, ok := parseRange(said)
	switch {
	case ok && total >= 0 && total != r.Size:
		return fmt.Errorf("%s: %w: it has %d bytes, it had %d; remove the model with `shoal rm` and pull again", host, ErrChanged, total, r.Size)
	case !ok || first != from || last != from+size-1:
		return temporary{error: fmt.Errorf("%s: %w: %d bytes from %d on were asked for, it sends %q", host, ErrProtocol, size, from, said)}
	case resp.ContentLength >= 0 && resp.ContentLength != size:
		return temporary{error: fmt.Errorf("%s: %w: a range of %d bytes with a length of %d", host, ErrProtocol, size, resp.ContentLength)}
	}
	return nil
}

// sameFile refuses an answer about another file than the one that was looked at.
func sameFile(resp *http.Response, r Remote) error {
	etag := resp.Header.Get("ETag")
	changed := r.ETag != "" && etag != "" && strings.TrimPrefix(etag, "W/") != strings.TrimPrefix(r.ETag, "W/")
	if resp.StatusCode == http.StatusOK && resp.ContentLength >= 0 && resp.ContentLength != r.Size {
		changed = true
	}
	if !changed {
		return nil
	}
	return fmt.Errorf("%s: %w: it was %s with %d bytes; remove the model with `shoal rm` and pull again", hostOf(r.URL), ErrChanged, r.ETag, r.Size)
}

// parseRange reads a Content-Range; a total of -1 is not said.
func parseRange(text string) (first, last, total int64, ok bool) {
	rest, ok := strings.CutPrefix(text, "bytes ")
	if !ok {
		return 0, 0, 0, false
	}
	span, all, ok := strings.Cut(rest, "/")
	a, b, ok2 := strings.Cut(span, "-")
	if !ok || !ok2 {
		return 0, 0, 0, false
	}
	first, err1 := strconv.ParseInt(a, 10, 64)
	last, err2 := strconv.ParseInt(b, 10, 64)
	total = -1
	var err3 error
	if all != "*" {
		total, err3 = strconv.ParseInt(all, 10, 64)
	}
	ok = err1 == nil && err2 == nil && err3 == nil && first >= 0 && last >= first && total < maxSize
	return first, last, total, ok
}

// stream reads a file from front to back and gives the spans that are wanted to sink.
// What is between them is read and forgotten.
func (f *Fetcher) stream(ctx context.Context, r Remote, spans []Span, sink func(Span, []byte) error) error {
	buf := make([]byte, largest(spans))
	bad := 0
	return f.again(ctx, func() (progress bool, err error) {
		if len(spans) == 0 {
			return true, nil
		}
		ctx, w := f.watch(ctx)
		defer w.stop()
		resp, err := f.request(ctx, http.MethodGet, r.URL, 0, 0, "")
		if err != nil {
			return false, err
		}
		defer resp.Body.Close()
		if err := sameFile(resp, r); err != nil {
			return false, err
		}
		body := w.reader(resp.Body)
		at := int64(0)
		for len(spans) > 0 {
			s := spans[0]
			if _, err := io.CopyN(io.Discard, body, s.Offset-at); err != nil {
				return progress, f.bodyError(ctx, r.URL, err)
			}
			if _, err := io.ReadFull(body, buf[:s.Size]); err != nil {
				return progress, f.bodyError(ctx, r.URL, err)
			}
			at = s.Offset + int64(s.Size)
			err := sink(s, buf[:s.Size])
			if errors.Is(err, ErrBad) {
				if bad++; bad < mostBad {
					return progress, temporary{error: err}
				}
			}
			if err != nil {
				return progress, err
			}
			spans, progress, bad = spans[1:], true, 0
		}
		return true, nil
	})
}

// watch ends a request when too little has come for too long.
type watch struct {
	read   atomic.Int64
	cancel context.CancelCauseFunc
	done   chan struct{}
}

func (f *Fetcher) watch(ctx context.Context) (context.Context, *watch) {
	ctx, cancel := context.WithCancelCause(ctx)
	w := &watch{cancel: cancel, done: make(chan struct{})}
	least := max(1, int64(float64(f.o.MinRate)*f.o.Stall.Seconds()))
	go func() {
		ticker := time.NewTicker(f.o.Stall)
		defer ticker.Stop()
		for before := int64(0); ; {
			select {
			case <-w.done:
				return
			case <-ticker.C:
			}
			now := w.read.Load()
			if now-before < least {
				cancel(fmt.Errorf("%w: %d bytes in %v, at least %d are wanted", ErrStalled, now-before, f.o.Stall, least))
				return
			}
			before = now
		}
	}()
	return ctx, w
}

// stop ends the watch and its request.
func (w *watch) stop() {
	close(w.done)
	w.cancel(nil)
}

func (w *watch) reader(r io.Reader) io.Reader { return watched{r, w} }

type watched struct {
	io.Reader
	w *watch
}

// Read counts what it reads.
func (r watched) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.w.read.Add(int64(n))
	return n, err
}
