package store

import (
	"cmp"
	"io/fs"
	"path"
	"slices"
	"time"
)

// full names the bytes that are needed, if an error says that the disk is full.
func full(err error, dir string, need int64) error {
	if err == nil || !isFull(err) {
		return err
	}
	left, _ := free(dir)
	return &FullError{Dir: dir, Need: need, Free: left}
}

// CheckRoom says beforehand whether need more bytes can be stored. Segments that
// would make room for them count as room.
func (s *Store) CheckRoom(need int64) error {
	left, err := free(s.dir)
	if err == nil && left < need {
		return &FullError{Dir: s.dir, Need: need, Free: left}
	}
	if s.quota == 0 {
		return nil
	}
	all, _ := s.segments()
	pinned := s.pinned()
	room := s.quota
	for _, seg := range all {
		if pinned[seg.hash] {
			room -= seg.size
		}
	}
	if room < need {
		return &FullError{Dir: s.dir, Need: need, Free: max(room, 0), Quota: s.quota}
	}
	return nil
}

// stored is a segment on the disk.
type stored struct {
	hash Hash
	size int64
	used time.Time
}

// segments lists what is there, and adds up the bytes.
func (s *Store) segments() (all []stored, bytes int64) {
	for _, dir := range s.list(segmentsDir) {
		for _, e := range s.list(path.Join(segmentsDir, dir.Name())) {
			h, err := ParseHash(e.Name())
			if err != nil {
				continue
			}
			if info, err := e.Info(); err == nil && info.Mode()&fs.ModeType == 0 {
				all = append(all, stored{h, info.Size(), info.ModTime()})
				bytes += info.Size()
			}
		}
	}
	return all, bytes
}

// Used returns the bytes of all segments.
func (s *Store) Used() int64 {
	_, n := s.segments()
	return n
}

// makeRoom removes the segments that were used least recently, and that no process
// needs, until there is room for need bytes within the quota.
func (s *Store) makeRoom(need int64) error {
	if s.quota == 0 {
		return nil
	}
	s.mu.Lock()
	fits := s.used >= 0 && s.used+need <= s.quota
	s.mu.Unlock()
	if fits {
		return nil
	}
	all, used := s.segments() // others may have added and removed
	s.mu.Lock()
	s.used = used
	s.mu.Unlock()
	if used+need <= s.quota {
		return nil
	}
	pinned := s.pinned()
	slices.SortFunc(all, func(a, b stored) int {
		return cmp.Or(a.used.Compare(b.used), slices.Compare(a.hash[:], b.hash[:]))
	})
	for _, seg := range all {
		if used+need <= s.quota {
			return nil
		}
		if pinned[seg.hash] {
			continue
		}
		if err := s.drop(seg.hash, seg.size); err != nil {
			return err
		}
		used -= seg.size
	}
	if used+need <= s.quota {
		return nil
	}
	return &FullError{Dir: s.dir, Need: need, Free: max(s.quota-used, 0), Quota: s.quota}
}

// pinned are the segments of models that a process uses.
func (s *Store) pinned() map[Hash]bool {
	out := map[Hash]bool{}
	for _, m := range s.Models() {
		if release, err := m.lock(true); err == nil {
			release()
			continue
		}
		for i := range m.segments {
			if h, ok := m.hash(i); ok {
				out[h] = true
			}
		}
	}
	return out
}

// Collect removes the segments that no model has, and returns their bytes.
func (s *Store) Collect() (freed int64, err error) {
	needed := map[Hash]bool{}
	for _, m := range s.Models() {
		for i := range m.segments {
			if h, ok := m.hash(i); ok {
				needed[h] = true
			}
		}
	}
	all, _ := s.segments()
	for _, seg := range all {
		if needed[seg.hash] {
			continue
		}
		if err := s.drop(seg.hash, seg.size); err != nil {
			return freed, err
		}
		freed += seg.size
	}
	return freed, nil
}
