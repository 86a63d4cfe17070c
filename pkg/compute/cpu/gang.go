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
	be      *Backend
	gang    *gang
	spins   int // how long to spin at the next barrier
	scratch scratch
	_       cacheLine
}

func newGang(be *Backend, threads int) *gang {
	g := &gang{workers: make([]*worker, threads)}
	g.barrier.init(threads)
	for i := range g.workers {
		g.workers[i] = &worker{be: be, gang: g, spins: maxSpins}
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
		w.gang.barrier.wait(w.spins)
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
		g.barrier.wait(maxSpins)
		g.workers[0].run(p)
	}
	p.read()
	return compute.Completion{Tag: p.tag, Elapsed: time.Since(start), NotFinite: p.notFinite()}
}

// prepare sees to it that working memory suffices for the pass. It allocates
// only when a pass is larger than all before.
func (g *gang) prepare(p *pass) {
	bytes := g.tiles.grow(&p.need)
	for _, w := range g.workers {
		bytes += w.scratch.grow(&p.need)
	}
	g.workers[0].be.scratch.Store(uint64(bytes))
}

// stop ends all workers but the caller and waits for them.
func (g *gang) stop() {
	g.pass = nil
	g.barrier.wait(maxSpins)
	g.stopped.Wait()
}

// run takes tasks of each step until the pass is done.
func (w *worker) run(p *pass) {
	clears, steps := p.clears, p.steps // after the last barrier p may be recorded anew
	w.runSteps(p, clears)
	w.runSteps(p, steps)
}

func (w *worker) runSteps(p *pass, steps []step) {
	for i := range steps {
		s := &steps[i]
		for {
			task := int(atomic.AddInt64(&s.taken, 1)) - 1
			if task >= s.tasks {
				break
			}
			w.do(p, s, task)
		}
		w.wait()
	}
}

// The length of a worker's spin at a barrier, in reads of the barrier's count.
// It shrinks where spinning was in vain: another process has the core.
const (
	maxSpins = 1 << 15
	minSpins = 1 << 7
)

// wait waits at the barrier for all other workers.
func (w *worker) wait() {
	if w.gang.barrier.wait(w.spins) {
		w.spins = min(2*w.spins, maxSpins)
	} else {
		w.spins = max(w.spins/2, minSpins)
	}
}

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

// wait returns when all have called it; it spins at most spins reads before it
// parks, and reports whether that was enough.
func (b *barrier) wait(spins int) bool {
	round := b.round.Load()
	if b.arrived.Add(1) == b.size {
		b.arrived.Store(0)
		b.round.Add(1)
		if b.parked.Load() > 0 {
			b.mu.Lock()
			b.opened.Broadcast()
			b.mu.Unlock()
		}
		return true
	}
	for range spins {
		if b.round.Load() != round {
			return true
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.parked.Add(1)
	defer b.parked.Add(-1)
	for b.round.Load() == round {
		b.opened.Wait()
	}
	return false
}
