package library

import (
	"context"
	"runtime"
	"runtime/debug"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/filemap"
	"github.com/shoal-llm/shoal/pkg/model"
)

// Bounds of what is read ahead: bytes that nobody has taken yet, of mapped files and of
// others, which are copied into memory; and tensors at once.
const (
	aheadMapped  = 64 << 20
	aheadCopied  = 32 << 20
	aheadReaders = 2
)

// maxGarbage is how many bytes of copies that nobody needs any more may wait for the
// collector: weights lie outside its heap, and beside them it would let half as much
// again grow.
const maxGarbage = 32 << 20

// Ahead is a source that reads the tensors of a part, and checks their hashes where
// they have any, before they are asked for: the disk does not wait while a device
// packs what came before. One goroutine asks for tensors, in any order.
type Ahead struct {
	model.Source
	ctx  context.Context
	room *semaphore.Weighted // bytes
	work errgroup.Group
	stop context.CancelFunc

	copies  bool
	garbage int // bytes of copies given out since the collector ran

	mu      sync.Mutex
	tensors map[string]*early // guarded by mu; those to come
}

var _ model.Source = (*Ahead)(nil)

// early is a tensor that is read before it is asked for.
type early struct {
	size  int64 // of room
	bytes int
	begun bool
	read  chan struct{} // closed when the rest is there
	m     compute.Matrix
	ok    bool
}

// Ahead begins to read a part in the order in which it is loaded. The caller closes it
// before the model.
func (m *Model) Ahead(p model.Part) *Ahead {
	room := int64(aheadMapped)
	if m.copies {
		room = aheadCopied
		debug.FreeOSMemory() // of what was fetched before
	}
	a := &Ahead{Source: m.Source, room: semaphore.NewWeighted(room), copies: m.copies, tensors: map[string]*early{}}
	a.ctx, a.stop = context.WithCancel(context.Background())
	var names []string
	for _, name := range m.Arch.Tensors(m.Spec, p) {
		t, ok := m.file.Describe(name)
		if !ok || a.tensors[name] != nil {
			continue
		}
		a.tensors[name] = &early{size: min(int64(t.size), room), bytes: int(t.size), read: make(chan struct{})}
		names = append(names, name)
	}
	a.work.Go(func() error { a.run(names); return nil })
	return a
}

// Close ends it and waits until nothing is read any more.
func (a *Ahead) Close() {
	a.stop()
	_ = a.work.Wait()
}

// run reads what nobody has asked for yet, as long as there is room.
func (a *Ahead) run(names []string) {
	var readers errgroup.Group
	readers.SetLimit(aheadReaders)
	for _, name := range names {
		a.mu.Lock()
		t := a.tensors[name]
		a.mu.Unlock()
		if t == nil { // it was asked for first
			continue
		}
		if a.room.Acquire(a.ctx, t.size) != nil {
			break
		}
		a.mu.Lock()
		t.begun = a.tensors[name] != nil
		a.mu.Unlock()
		if !t.begun {
			a.room.Release(t.size)
			continue
		}
		readers.Go(func() error {
			t.m, t.ok = a.Source.Tensor(name)
			filemap.Need(t.m.Data)
			close(t.read)
			return nil
		})
	}
	_ = readers.Wait()
}

// Outline is that of the source.
func (a *Ahead) Outline() model.Source { return model.Outline(a.Source) }

// Tensor returns a tensor, once it is there. What it returned before may be needed no
// longer than until now.
func (a *Ahead) Tensor(name string) (compute.Matrix, bool) {
	a.mu.Lock()
	t := a.tensors[name]
	delete(a.tensors, name)
	begun := t != nil && t.begun
	a.mu.Unlock()
	if !begun {
		return a.Source.Tensor(name)
	}
	if a.garbage += t.bytes; a.copies && a.garbage > maxGarbage {
		a.garbage = 0
		runtime.GC()
	}
	<-t.read
	a.room.Release(t.size)
	return t.m, t.ok
}
