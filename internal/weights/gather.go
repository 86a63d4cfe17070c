package weights

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/shoal-llm/shoal/internal/fetch"
	"github.com/shoal-llm/shoal/internal/store"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// ErrStalled says that nothing has come for too long.
var ErrStalled = errors.New("the weights do not come")

// Peer is a node that may have segments.
type Peer struct {
	Node string
	Dial func() (*grpc.ClientConn, error) // a new connection, which the caller closes
}

// Order is which segments are to be here, and who else may have them.
type Order struct {
	Segments []int
	Peers    []Peer
	// Turn names the node that takes a segment from the origin; "" is this one. Nil:
	// this one takes all.
	Turn func(segment int) string
	// Report hears how far it is, from one goroutine at a time. It may be nil.
	Report func(Progress)
}

// Patience is how long a gathering waits.
type Patience struct {
	Peer  time.Duration // for what is another node's turn, while that brings nothing
	Stall time.Duration // for any byte
	Rate  int64         // bytes a second that all of it must come at, five minutes aside
}

// DefaultPatience suits networks between machines.
func DefaultPatience() Patience {
	return Patience{Peer: 20 * time.Second, Stall: 2 * time.Minute, Rate: 64 << 10}
}

// Deadline is how long a gathering of so many bytes may take.
func (p Patience) Deadline(bytes int64) time.Duration {
	return grace + time.Duration(float64(bytes)/float64(max(1, p.Rate))*float64(time.Second))
}

const (
	askWait     = 2 * time.Second // that a peer may take to answer whether it has anything
	reportEvery = 100 * time.Millisecond
	grace       = 5 * time.Minute
	maxBatch    = 8 // segments asked of a peer at once
	maxStrikes  = 3 // faults in a row after which a peer is not asked any more
	originBatch = 64 << 20
)

// Gather brings segments into the store: from other nodes where they have them, else
// from the origin. Where the origin fails, and there are other nodes, they are asked
// until nothing has come for too long. Of a model one gathering runs at a time; another waits for it and
// then brings what is still missing.
func (k *Keeper) Gather(ctx context.Context, m *store.Model, o Order, p Patience) error {
	free, err := k.begin(ctx, m.ID)
	if err != nil {
		return err
	}
	defer free()
	missing, bytes := m.Missing(o.Segments)
	if len(missing) == 0 {
		return nil
	}
	s, err := k.Store()
	if err != nil {
		return err
	}
	if err := s.CheckRoom(bytes); err != nil {
		return err
	}
	g := newGathering(k, m, o, p, missing, bytes)
	return g.run(ctx)
}

// begin waits for its turn at a model.
func (k *Keeper) begin(ctx context.Context, id store.Hash) (end func(), err error) {
	for {
		k.mu.Lock()
		running := k.jobs[id]
		if running == nil {
			done := make(chan struct{})
			k.jobs[id] = done
			k.mu.Unlock()
			return func() {
				k.mu.Lock()
				delete(k.jobs, id)
				delete(k.dry, id)
				k.mu.Unlock()
				close(done)
			}, nil
		}
		k.mu.Unlock()
		select {
		case <-running:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// gathering is one run of Gather.
type gathering struct {
	k     *Keeper
	m     *store.Model
	o     Order
	p     Patience
	began time.Time
	total int64

	finish context.CancelFunc // ends what waits for nothing any more

	mu     sync.Mutex
	todo   map[int]bool         // guarded by mu; nobody brings them now
	taken  int                  // guarded by mu; being brought
	done   int64                // guarded by mu; bytes
	origin int64                // guarded by mu; of them, from the origin
	heard  map[string]time.Time // guarded by mu; when a node last brought something, or was asked first
	gone   map[string]bool      // guarded by mu; nodes that are not asked any more
	first  map[string]bool      // guarded by mu; nodes that have answered, or failed to, once
	has    map[string]bits      // guarded by mu; of what was to do, what a node said last that it has
	why    error                // guarded by mu; the last fault of a source
	last   time.Time            // guarded by mu; when a byte came
	change chan struct{}        // guarded by mu; closed when any of it changes

	reporting sync.Mutex
	reported  time.Time // guarded by reporting
	rate      rate      // guarded by reporting
}

func newGathering(k *Keeper, m *store.Model, o Order, p Patience, missing []int, bytes int64) *gathering {
	g := &gathering{
		k: k, m: m, o: o, p: p, began: time.Now(), total: bytes, last: time.Now(),
		todo: map[int]bool{}, heard: map[string]time.Time{}, gone: map[string]bool{}, first: map[string]bool{}, has: map[string]bits{}, change: make(chan struct{}),
	}
	for _, i := range missing {
		g.todo[i] = true
	}
	if g.o.Turn == nil {
		g.o.Turn = func(int) string { return "" }
	}
	return g
}

// run works until all is there, or nothing comes any more.
func (g *gathering) run(ctx context.Context) error {
	group, inner := errgroup.WithContext(ctx)
	inner, g.finish = context.WithCancel(inner)
	defer g.finish()
	for _, p := range g.o.Peers {
		group.Go(func() error { return g.from(inner, p) })
	}
	group.Go(func() error { return g.fromOrigin(inner) })
	group.Go(func() error { return g.watch(inner) })
	g.report("", true)
	err := group.Wait()
	if err == nil {
		err = ctx.Err() // without one all is there
	}
	g.mu.Lock()
	g.k.cfg.Log.Info("weights fetched", "model", g.m.Manifest.Source, "bytes", g.done, "origin", g.origin, "took", time.Since(g.began))
	g.mu.Unlock()
	if err != nil {
		return err
	}
	g.report("", true)
	return nil
}

// complete reports whether nothing is left to do; mu is held.
func (g *gathering) complete() bool { return len(g.todo) == 0 && g.taken == 0 }

// changed wakes everybody; mu is held.
func (g *gathering) changed() {
	close(g.change)
	g.change = make(chan struct{})
}

// take marks segments as being brought and returns those that were to do.
func (g *gathering) take(segments []int) (out []int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, i := range segments {
		if g.todo[i] {
			delete(g.todo, i)
			out = append(out, i)
		}
	}
	g.taken += len(out)
	return out
}

// giveBack says that segments were not brought.
func (g *gathering) giveBack(segments []int, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, i := range segments {
		g.todo[i] = true
	}
	g.taken -= len(segments)
	if err != nil {
		g.why = err
	}
	g.changed()
}

// put stores a segment that a node, or with "" the origin, has brought.
func (g *gathering) put(node string, i int, data []byte) error {
	if err := g.m.Put(i, data); err != nil {
		return err
	}
	g.mu.Lock()
	g.taken--
	g.done += int64(len(data))
	if node == "" {
		g.origin += int64(len(data))
		g.k.setDry(g.m.ID, false)
	}
	now := time.Now()
	g.heard[node], g.last = now, now
	if g.complete() {
		g.finish()
	}
	g.changed()
	g.mu.Unlock()
	g.k.told()
	g.report("", false)
	return nil
}

// from brings what a peer has, until nothing is left or it fails too often.
func (g *gathering) from(ctx context.Context, p Peer) error {
	defer g.lose(p.Node)
	conn, err := p.Dial()
	if err != nil {
		g.k.cfg.Log.Warn("cannot ask a node for weights", "peer", p.Node, "err", err)
		return nil
	}
	defer conn.Close()
	client := pb.NewWeightServiceClient(conn)
	for strikes := 0; strikes < maxStrikes; {
		g.mu.Lock()
		over, wanted, wait := g.complete(), g.wanted(), g.first[p.Node]
		g.mu.Unlock()
		if over || ctx.Err() != nil {
			return nil
		}
		wait = wait && !g.k.isDry(g.m.ID)
		held, busy, err := g.ask(ctx, client, wanted, wait)
		g.answered(p.Node, held, busy)
		var full *store.FullError
		if err == nil && len(held) > 0 {
			if err = g.bring(ctx, client, p.Node, held, false); errors.As(err, &full) {
				return err
			}
		}
		if err == nil && len(held) == 0 && g.k.isDry(g.m.ID) {
			switch failed := g.bring(ctx, client, p.Node, g.turned(), true); {
			case errors.As(failed, &full):
				return failed
			case errors.Is(failed, store.ErrCorrupt):
				err = failed
			case failed != nil && ctx.Err() == nil:
				g.k.cfg.Log.Warn("a node cannot bring what the origin does not give here", "peer", p.Node, "err", failed)
				g.pause(ctx)
			}
		}
		switch {
		case errors.Is(err, store.ErrCorrupt):
			g.k.cfg.Log.Error("a node sends wrong weights and is not asked any more", "peer", p.Node, "err", err)
			return nil
		case err != nil:
			strikes++
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond << strikes):
			}
		default:
			strikes = 0
		}
	}
	return nil
}

// lose says that a node is not asked any more.
func (g *gathering) lose(node string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.gone[node], g.first[node] = true, true
	delete(g.has, node)
	g.changed()
}

// answered notes what a node has answered: what it has, and whether it brings
// segments itself.
func (g *gathering) answered(node string, held []int, busy bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.has[node] = newBits(len(g.m.Segments()))
	for _, i := range held {
		g.has[node].set(i)
	}
	if !g.first[node] {
		g.first[node] = true
		g.changed()
	}
	if _, ok := g.heard[node]; !ok || busy {
		g.heard[node] = time.Now()
	}
}

// wanted are the segments to do; mu is held.
func (g *gathering) wanted() bits {
	b := newBits(len(g.m.Segments()))
	for i := range g.todo {
		b.set(i)
	}
	return b
}

// ask asks a peer what it has; with wait, until it has something.
func (g *gathering) ask(ctx context.Context, c pb.WeightServiceClient, wanted bits, wait bool) (held []int, busy bool, err error) {
	req := &pb.HaveRequest{Manifest: g.m.ID[:], Wanted: wanted}
	if wait {
		req.WaitMs = uint32(askWait.Milliseconds())
	}
	ctx, cancel := context.WithTimeout(ctx, 2*askWait)
	defer cancel()
	r, err := c.Have(ctx, req)
	if err != nil {
		return nil, false, err
	}
	held = bits(r.GetHeld()).list()
	return slices.DeleteFunc(held, func(i int) bool { return !wanted.has(i) || i >= len(g.m.Segments()) }), r.GetBusy(), nil
}

// turned are the segments that this node would take from its origin.
func (g *gathering) turned() []int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.mine()
}

// bring fetches some of the segments that a peer has, or, where the origin fails here,
// that it is to take from the origin.
func (g *gathering) bring(ctx context.Context, c pb.WeightServiceClient, node string, held []int, anew bool) error {
	batch := g.take(g.share(held))
	if len(batch) == 0 {
		g.pause(ctx) // others were faster
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, g.p.Stall, ErrStalled)
	defer cancel()
	req := &pb.SegmentsRequest{Manifest: g.m.ID[:], Bring: anew}
	for _, i := range batch {
		req.Segments = append(req.Segments, uint32(i))
	}
	stream, err := c.Segments(ctx, req)
	for err == nil && len(batch) > 0 {
		var r *pb.SegmentsResponse
		if r, err = stream.Recv(); err != nil {
			break
		}
		if int(r.GetSegment()) != batch[0] {
			err = fmt.Errorf("%w: segment %d in the place of %d", store.ErrCorrupt, r.GetSegment(), batch[0])
			break
		}
		if err = g.put(node, batch[0], r.GetData()); err == nil {
			batch = batch[1:]
		}
	}
	if len(batch) == 0 {
		return nil
	}
	g.giveBack(batch, fmt.Errorf("from %s: %w", node, err))
	if errors.Is(err, io.EOF) {
		return nil // it has not got all of them any more
	}
	return err
}

// share is what one peer brings of what it has: peers that have the same bring
// different parts.
func (g *gathering) share(held []int) []int {
	g.mu.Lock()
	peers := max(1, len(g.o.Peers)-len(g.gone))
	g.mu.Unlock()
	return held[:min(len(held), max(1, min(maxBatch, (len(held)+peers-1)/peers)))]
}

// pause waits until something changes, for a moment.
func (g *gathering) pause(ctx context.Context) {
	g.mu.Lock()
	change := g.change
	g.mu.Unlock()
	select {
	case <-change:
	case <-time.After(time.Second):
	case <-ctx.Done():
	}
}

// fromOrigin brings what it is this node's turn to bring, once the peers have said
// what they have.
func (g *gathering) fromOrigin(ctx context.Context) error {
	for {
		g.mu.Lock()
		over, mine, ready := g.complete(), g.mine(), len(g.first) == len(g.o.Peers)
		g.mu.Unlock()
		switch {
		case over || ctx.Err() != nil:
			return nil
		case len(mine) == 0 || !ready:
			g.pause(ctx)
			continue
		}
		err := g.download(ctx, mine)
		var full *store.FullError
		if err != nil && (len(g.o.Peers) == 0 || errors.Is(err, ErrOffline) || errors.As(err, &full)) {
			return err
		}
		if err != nil && ctx.Err() == nil {
			g.withoutOrigin(ctx, err)
		}
	}
}

// withoutOrigin leaves the origin alone for a while: it may serve others, who take over
// what is this node's turn as soon as this one is not busy any more.
func (g *gathering) withoutOrigin(ctx context.Context, err error) {
	g.k.cfg.Log.Warn("the origin fails here; other nodes are asked", "model", g.m.Manifest.Source, "err", err)
	g.k.setDry(g.m.ID, true)
	select {
	case <-ctx.Done():
	case <-time.After(g.p.Peer):
	}
}

// mine are the segments that this node takes from the origin now: those of its turn,
// and those of nodes that bring nothing; mu is held.
func (g *gathering) mine() []int {
	var out []int
	for i := range g.todo {
		if g.m.Manifest.Files[g.m.Segments()[i].File].Url == "" || g.near(i) {
			continue
		}
		node := g.o.Turn(i)
		if node == "" || g.gone[node] || !g.isPeer(node) || time.Since(g.since(node)) > g.p.Peer {
			out = append(out, i)
		}
	}
	slices.Sort(out)
	bytes := 0
	for n, i := range out {
		if bytes += g.m.Segments()[i].Size; bytes > originBatch {
			return out[:n+1]
		}
	}
	return out
}

// near reports whether a node has a segment; mu is held.
func (g *gathering) near(i int) bool {
	for _, has := range g.has {
		if has.has(i) {
			return true
		}
	}
	return false
}

func (g *gathering) isPeer(node string) bool {
	return slices.ContainsFunc(g.o.Peers, func(p Peer) bool { return p.Node == node })
}

// since is when a node last brought something; mu is held.
func (g *gathering) since(node string) time.Time {
	if at, ok := g.heard[node]; ok {
		return at
	}
	return g.began
}

// download takes segments from the origin.
func (g *gathering) download(ctx context.Context, segments []int) error {
	if g.k.cfg.Offline {
		return fmt.Errorf("%w: %d segments of %s are on no node", ErrOffline, len(segments), g.m.Manifest.Source)
	}
	file := g.m.Segments()[segments[0]].File
	segments = slices.DeleteFunc(segments, func(i int) bool { return g.m.Segments()[i].File != file })
	segments = g.take(segments)
	at := map[int64]int{}
	var spans []fetch.Span
	for _, i := range segments {
		s := g.m.Segments()[i]
		at[s.Offset] = i
		spans = append(spans, fetch.Span{Offset: s.Offset, Size: s.Size})
	}
	if len(spans) == 0 {
		return nil
	}
	f := g.m.Manifest.Files[file]
	r := fetch.Remote{URL: f.Url, Size: int64(f.Size), ETag: f.Etag}
	var mu sync.Mutex
	err := g.k.cfg.Fetcher.Spans(ctx, r, spans, func(s fetch.Span, data []byte) error {
		mu.Lock()
		i := at[s.Offset]
		mu.Unlock()
		if err := g.put("", i, data); err != nil {
			if errors.Is(err, store.ErrCorrupt) {
				err = fmt.Errorf("%w: %w", fetch.ErrBad, err)
			}
			return err
		}
		mu.Lock()
		delete(at, s.Offset)
		mu.Unlock()
		return nil
	})
	if err != nil {
		var left []int
		for _, i := range at {
			left = append(left, i)
		}
		g.giveBack(left, err)
		return fmt.Errorf("fetch %s: %w", f.Name, err)
	}
	return nil
}

// watch ends a gathering to which nothing comes, or too slowly.
func (g *gathering) watch(ctx context.Context) error {
	deadline := g.began.Add(g.p.Deadline(g.total))
	for {
		g.mu.Lock()
		over, last, why, left := g.complete(), g.last, g.why, len(g.todo)+g.taken
		waits := g.waits()
		g.mu.Unlock()
		now := time.Now()
		switch {
		case over || ctx.Err() != nil:
			return nil
		case now.Sub(last) > g.p.Stall:
			return g.stalled(fmt.Sprintf("no byte in %v", g.p.Stall), left, waits, why)
		case now.After(deadline):
			return g.stalled(fmt.Sprintf("%d bytes in %v, at least %d a second are wanted", g.doneBytes(), now.Sub(g.began).Round(time.Second), g.p.Rate), left, waits, why)
		case now.Sub(last) > 3*time.Second:
			if why != nil {
				waits = fmt.Sprintf("%s; the last fault: %v", waits, why)
			}
			g.report(waits, false)
		}
		g.pause(ctx)
	}
}

func (g *gathering) doneBytes() int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.done
}

func (g *gathering) stalled(what string, left int, waits string, why error) error {
	err := fmt.Errorf("%w: %s; %d segments are missing, waiting for %s", ErrStalled, what, left, waits)
	if why != nil {
		err = fmt.Errorf("%w; the last fault: %w", err, why)
	}
	return err
}

// waits names the nodes whose turn it is; mu is held.
func (g *gathering) waits() string {
	var nodes []string
	for i := range g.todo {
		node := g.o.Turn(i)
		if g.m.Manifest.Files[g.m.Segments()[i].File].Url == "" {
			node = "any node that has them"
		}
		if node != "" && !slices.Contains(nodes, node) {
			nodes = append(nodes, node)
		}
	}
	if len(nodes) == 0 {
		return "the origin"
	}
	slices.Sort(nodes)
	return strings.Join(nodes, ", ")
}

// report tells how far it is, not too often.
func (g *gathering) report(note string, always bool) {
	if g.o.Report == nil {
		return
	}
	g.reporting.Lock()
	defer g.reporting.Unlock()
	now := time.Now()
	if !always && now.Sub(g.reported) < reportEvery {
		return
	}
	g.reported = now
	done := g.doneBytes()
	g.o.Report(Progress{Phase: "fetch", Done: done, Total: g.total, Rate: g.rate.of(now, done), Note: note})
}

// rate is bytes a second over the last seconds.
type rate struct {
	at    []time.Time
	bytes []int64
}

func (r *rate) of(now time.Time, bytes int64) float64 {
	const span = 3 * time.Second
	r.at, r.bytes = append(r.at, now), append(r.bytes, bytes)
	for len(r.at) > 2 && now.Sub(r.at[1]) > span {
		r.at, r.bytes = r.at[1:], r.bytes[1:]
	}
	if t := now.Sub(r.at[0]).Seconds(); t > 0 {
		return float64(bytes-r.bytes[0]) / t
	}
	return 0
}

// Pull brings all of a model into the store and makes its hashes the manifest's.
// Report may be nil.
func (k *Keeper) Pull(ctx context.Context, source Source, report func(Progress)) (*store.Model, error) {
	if report == nil {
		report = func(Progress) {}
	}
	m, err := k.Learn(ctx, source, report)
	if err != nil {
		return nil, err
	}
	free, err := m.Alone(ctx, func() { report(Progress{Phase: "fetch", Note: "another process fetches it"}) })
	if err != nil {
		return nil, err
	}
	free = sync.OnceFunc(free)
	defer free()
	held := m.Size()
	if _, missing := m.Missing(m.All()); missing > 0 {
		held -= missing
	}
	order := Order{Segments: m.All(), Report: func(p Progress) {
		p.Done, p.Total = p.Done+held, m.Size()
		report(p)
	}}
	if err := k.Gather(ctx, m, order, DefaultPatience()); err != nil {
		return nil, fmt.Errorf("%s: %w", source.Text, err)
	}
	if m.Sealed() {
		return m, nil
	}
	free()
	report(Progress{Phase: "verify", Total: m.Size()})
	return k.seal(m)
}

// seal replaces a model that this process uses by its sealed one.
func (k *Keeper) seal(m *store.Model) (*store.Model, error) {
	k.mu.Lock()
	if u, ok := k.models[m.ID]; ok {
		u.release()
		delete(k.models, m.ID)
	}
	k.mu.Unlock()
	sealed, err := m.Seal()
	if err != nil {
		return nil, err
	}
	return k.adopt(sealed)
}
