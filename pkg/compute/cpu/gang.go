package cpu

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/shoal-llm/shoal/pkg/compute"
)

// gang is the workers of a backend. Worker 0 is the goroutine that calls run.
type gang struct {
	workers []*worker
	barrier barrier
	pass    *pass // the pass to run; nil stops the workers
	stopped sync.WaitGroup
	tiles   tiles
}

// worker is one thread of the gang with its working memory.
type worker struct {
	index    int
	be       *Backend
	gang     *gang
	scratch  scratch
	own      tiles // activations of a step that has tiles of its own for each worker
	ownsThat *step // the step they belong to
	_        cacheLine
}

func newGang(be *Backend, threads int) *gang {
	g := &gang{workers: make([]*worker, threads)}
	g.barrier.init(threads)
	for i := range g.workers {
		g.workers[i] = &worker{index: i, be: be, gang: g}
	}
	for _, w := range g.workers[1:] {
		g.stopped.Go(w.serve)
	}
	return g
}

// serve runs passes until the gang stops.
func (w *worker) serve() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for {
		w.wait()
		p := w.gang.pass
		if p == nil {
			return
		}
		w.run(p)
	}
}

// run runs a pass on all workers and returns its completion.
func (g *gang) run(p *pass) compute.Completion {
	start := time.Now()
	if len(p.clears)+len(p.steps) > 0 { // else nobody would wait for the others to leave p
		g.prepare(p)
		g.pass = p
		g.barrier.wait()
		g.workers[0].run(p)
	}
	p.read()
	return compute.Completion{Tag: p.tag, Elapsed: time.Since(start), NotFinite: p.notFinite()}
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
	g.pass = nil
	g.barrier.wait()
	g.stopped.Wait()
}

// run takes tasks of each step until the pass is done.
func (w *worker) run(p *pass) {
	clears, steps := p.clears, p.steps // after the last barrier p may be recorded anew
	w.runSteps(p, clears)
	w.runSteps(p, steps)
}

// runSteps runs steps one after the other. The first task of a worker is the one
// with its number, so that a small step costs no traffic between cores.
func (w *worker) runSteps(p *pass, steps []step) {
	w.ownsThat = nil
	for i := range steps {
		s := &steps[i]
		for task := w.index; task < s.tasks; {
			w.do(p, s, task)
			if task = len(w.gang.workers); task < s.tasks {
				task += int(atomic.AddInt64(&s.taken, 1)) - 1
			}
		}
		w.wait()
	}
}

// How long a worker spins at a barrier before it parks: long beside a step,
// because a worker that parks is late at the next barrier, and then others park.
// From yieldAfter on it offers its core, now and then, to whoever waits for one.
const (
	maxSpins   = 1 << 14 // pauses of 15 to 50 ns
	yieldAfter = 1 << 6
	yieldEvery = 1 << 5
)

// wait waits at the barrier for all other workers.
func (w *worker) wait() { w.gang.barrier.wait() }

// barrier lets size goroutines wait for each other, again and again.
type barrier struct {
	size    int32
	arrived atomic.Int32
	_       cacheLine
	round   atomic.Uint32
	parked  atomic.Int32
	mu      sync.Mutex
	opened  sync.Cond
}

func (b *barrier) init(size int) {
	b.size = int32(size)
	b.opened.L = &b.mu
}

// wait returns when all have called it. It spins a bounded time and then parks.
func (b *barrier) wait() {
	round := b.round.Load()
	if b.arrived.Add(1) == b.size {
		b.arrived.Store(0)
		b.round.Add(1)
		if b.parked.Load() > 0 {
			b.mu.Lock()
			b.opened.Broadcast()
			b.mu.Unlock()
		}
		return
	}
	for i := range maxSpins {
		if b.round.Load() != round {
			return
		}
		pause()
		if i >= yieldAfter && i%yieldEvery == 0 {
			yield()
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.parked.Add(1)
	defer b.parked.Add(-1)
	for b.round.Load() == round {
		b.opened.Wait()
	}
}
