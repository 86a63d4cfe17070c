package coordinator

import (
	"context"
	"sync"
)

// mailbox is the bounded queue between the owner, which never waits, and the
// goroutine that sends what it takes. It may be used from any goroutine.
type mailbox[T any] struct {
	limit int
	ready chan struct{} // holds a token while something may wait

	mu     sync.Mutex // guards following
	items  []T
	closed bool
}

func newMailbox[T any](limit int) *mailbox[T] {
	return &mailbox[T]{limit: limit, ready: make(chan struct{}, 1)}
}

// put queues items in order. It reports false, and queues nothing, when they do
// not fit or the mailbox is closed.
func (m *mailbox[T]) put(items ...T) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed || len(m.items)+len(items) > m.limit {
		return false
	}
	m.items = append(m.items, items...)
	m.wake()
	return true
}

// close lets take return what waits and then nothing.
func (m *mailbox[T]) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	m.wake()
}

func (m *mailbox[T]) wake() {
	select {
	case m.ready <- struct{}{}:
	default:
	}
}

// take waits for items and returns all of them; none says that the mailbox is
// closed. It has one caller.
func (m *mailbox[T]) take(ctx context.Context) ([]T, error) {
	for {
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-m.ready:
		}
		m.mu.Lock()
		items, closed := m.items, m.closed
		m.items = nil
		m.mu.Unlock()
		if closed {
			m.wake() // the next call finds it closed too
		}
		if len(items) > 0 || closed {
			return items, nil
		}
	}
}
