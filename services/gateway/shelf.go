package gateway

import "sync"

// shelfKey names a resumable recording: the id alone would let one tenant ask
// for another's.
type shelfKey struct{ tenant, id string }

// shelf holds the resumable recordings of this gateway, a bounded number.
type shelf struct {
	limit int
	work  sync.WaitGroup // goroutines that fill recordings, these and others

	mu     sync.Mutex // guards following; taken before a recording's
	held   map[shelfKey]*recording
	closed bool
}

func newShelf(limit int) *shelf {
	return &shelf{limit: limit, held: map[shelfKey]*recording{}}
}

var errSameID = &problem{code: codeBusy, param: "id", message: "Another generation has that id; every generation needs an id of its own."}

// add takes a recording in. When the shelf is full, one that has ended and that
// nobody reads makes room.
func (s *shelf) add(r *recording) *problem {
	evicted, p := s.place(r)
	if evicted != nil {
		evicted.discard()
	}
	return p
}

func (s *shelf) place(r *recording) (evicted *recording, p *problem) {
	key := shelfKey{r.tenant, r.id}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return nil, errDraining
	case s.held[key] != nil:
		return nil, errSameID
	}
	if len(s.held) >= s.limit {
		for k, old := range s.held {
			if old.idle() {
				evicted = old
				delete(s.held, k)
				break
			}
		}
		if evicted == nil {
			return nil, errLimit
		}
	}
	r.resumable = true
	r.forget = func() { s.remove(key, r) }
	s.held[key] = r
	return evicted, nil
}

// find returns the recording that a tenant knows by that id, nil if there is
// none.
func (s *shelf) find(tenant, id string) *recording {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held[shelfKey{tenant, id}]
}

func (s *shelf) remove(key shelfKey, r *recording) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held[key] == r {
		delete(s.held, key)
	}
}

// size is how many recordings are held.
func (s *shelf) size() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.held)
}

// close ends recordings that nobody reads, and those whose reader is lost later.
func (s *shelf) close() {
	s.mu.Lock()
	s.closed = true
	list := make([]*recording, 0, len(s.held))
	for _, r := range s.held {
		list = append(list, r)
	}
	s.mu.Unlock()
	for _, r := range list {
		r.close()
	}
}

// clear forgets everything that is left and waits until no goroutine fills a
// recording any more.
func (s *shelf) clear() {
	s.mu.Lock()
	list := make([]*recording, 0, len(s.held))
	for _, r := range s.held {
		list = append(list, r)
	}
	s.mu.Unlock()
	for _, r := range list {
		r.discard()
	}
	s.work.Wait()
}
