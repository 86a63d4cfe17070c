package cpu

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/compute/cpu/floatmode"
)

// gang is the workers of a backend. Worker 0 is the goroutine that calls run.
//
// Workers take the tasks of a step one by one, and a step is over when its tasks
// are done, not when all workers have come: a worker whose core another program
// has got is never waited for unless it holds a task. It finds the steps it
// missed done and catches up.
type gang struct {
	workers []*worker
	current atomic.Pointer[pass] // to help with; nil between passes
	started atomic.Uint64        // number of the newest pass
	ending  atomic.Bool
	stopped sync.WaitGroup
	retired []*pass // done, but a late worker is still inside; of worker 0
	tiles   tiles

	parked atomic.Int32 // workers that sleep until something changes
	mu     sync.Mutex
	change sync.Cond
}

// worker is one thread of the gang with its working memory.
type worker struct {
	be       *Backend
	gang     *gang
	seen     uint64 // number of the last pass it worked on
	scratch  scratch
	own      tiles // activations of a step that has tiles of its own for each worker
	ownsThat *step // the step they belong to
	chosen   chosen
	_        cacheLine
}

// progress counts a step's tasks, on a cache line of its own.
type progress struct {
	taken, done atomic.Int64
	_           cacheLine
}

func newGang(be *Backend, threads int) *gang {
	g := &gang{workers: make([]*worker, threads)}
	g.change.L = &g.mu
	for i := range g.workers {
		g.workers[i] = &worker{be: be, gang: g}
	}
	for _, w := range g.workers[1:] {
		g.stopped.Go(w.serve)
	}
	return g
}

// serve helps with passes until the gang ends.
func (w *worker) serve() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	g := w.gang
	for {
		g.await(func() bool { return g.started.Load() != w.seen && g.current.Load() != nil || g.ending.Load() })
		if g.ending.Load() {
			return
		}
		if p := g.enter(); p != nil {
			w.seen = p.number
			w.run(p)
			p.inside.Add(-1)
		}
	}
}

// enter returns the current pass, which cannot be recorded anew before the
// worker has left it; nil if there is none.
func (g *gang) enter() *pass {
	p := g.current.Load()
	if p == nil {
		return nil
	}
	p.inside.Add(1)
	if g.current.Load() != p { // it ended meanwhile, and may be in use again
		p.inside.Add(-1)
		return nil
	}
	return p
}

// run runs a pass on all workers and returns its completion.
func (g *gang) run(p *pass) compute.Completion {
	start := time.Now()
	g.prepare(p)
	p.number = g.started.Add(1)
	g.current.Store(p)
	g.wake()
	g.workers[0].run(p)
	g.current.Store(nil)
	p.read()
	return compute.Completion{Tag: p.tag, Err: p.modeError(), Elapsed: time.Since(start), NotFinite: p.notFinite()}
}

// retire keeps a pass that is done until no worker is inside it, and returns
// those that may be recorded anew.
func (g *gang) retire(p *pass, free func(*pass)) {
	g.retired = append(g.retired, p)
	kept := g.retired[:0]
	for _, p := range g.retired {
		if p.inside.Load() > 0 {
			kept = append(kept, p)
			continue
		}
		free(p)
	}
	clear(g.retired[len(kept):])
	g.retired = kept
}

// prepare sees to it that working memory suffices for the pass. It allocates
// only when a pass is larger than all before.
func (g *gang) prepare(p *pass) {
	bytes := g.tiles.grow(&p.need.shared)
	for _, w := range g.workers {
		bytes += w.scratch.grow(&p.need) + w.own.grow(&p.need.own)
	}
	g.workers[0].be.scratch.Store(uint64(bytes))
}

// stop ends all workers but the caller and waits for them.
func (g *gang) stop() {
	g.ending.Store(true)
	g.wake()
	g.stopped.Wait()
}

// run takes tasks of each step until the pass is done. It looks at the mode of
// its thread first, which a library may have changed since the pass before.
func (w *worker) run(p *pass) {
	p.checkMode(floatmode.Read())
	w.ownsThat = nil
	for i := range p.steps {
		w.help(p, &p.steps[i], &p.progress[i], i+1 < len(p.steps) || w == w.gang.workers[0])
	}
}

// help takes tasks of a step until none is left, and then waits, if the worker
// has more to do, until those that others took are done.
func (w *worker) help(p *pass, s *step, at *progress, more bool) {
	tasks := int64(s.tasks)
	for at.done.Load() < tasks {
		task := at.taken.Add(1) - 1
		if task >= tasks {
			break
		}
		w.do(p, s, int(task))
		if at.done.Add(1) == tasks {
			w.gang.wake()
		}
	}
	if more && at.done.Load() < tasks {
		w.gang.await(func() bool { return at.done.Load() >= tasks })
	}
}

// How long a worker spins before it parks: long beside a step, because a worker
// that parks is late for the next one. From yieldAfter on it offers its core,
// now and then, to whoever waits for one.
const (
	maxSpins   = 1 << 14 // pauses of 15 to 50 ns
	yieldAfter = 1 << 6
	yieldEvery = 1 << 5
)

// await returns when ready does. It spins a bounded time and then parks until
// wake is called.
func (g *gang) await(ready func() bool) {
	for i := range maxSpins {
		if ready() {
			return
		}
		pause()
		if i >= yieldAfter && i%yieldEvery == 0 {
			yield()
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.parked.Add(1)
	defer g.parked.Add(-1)
	for !ready() {
		g.change.Wait()
	}
}

// wake lets parked workers look again.
func (g *gang) wake() {
	if g.parked.Load() > 0 {
		g.mu.Lock()
		g.change.Broadcast()
		g.mu.Unlock()
	}
}
