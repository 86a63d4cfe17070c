package gateway

import "sync"

// occasion is something that happens once, like the end of serving. Thousands
// of sockets wait for it by a function each, which costs no goroutine. It is
// safe for concurrent use.
type occasion struct {
	done chan struct{} // closed when it has happened

	mu       sync.Mutex // guards following
	watchers map[*func()]struct{}
}

func newOccasion() *occasion {
	return &occasion{done: make(chan struct{}), watchers: map[*func()]struct{}{}}
}

// happen lets it happen. It is called once.
func (o *occasion) happen() {
	o.mu.Lock()
	defer o.mu.Unlock()
	close(o.done)
	for f := range o.watchers {
		go (*f)()
	}
	o.watchers = nil
}

// watch runs f in a goroutine of its own when the occasion happens, at once if
// it has happened. stop gives up watching; it reports whether f never runs.
func (o *occasion) watch(f func()) (stop func() bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.watchers == nil {
		go f()
		return func() bool { return false }
	}
	key := &f
	o.watchers[key] = struct{}{}
	return func() bool {
		o.mu.Lock()
		defer o.mu.Unlock()
		_, waiting := o.watchers[key]
		delete(o.watchers, key)
		return waiting
	}
}
