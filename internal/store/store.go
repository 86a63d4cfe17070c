// Package store keeps weights of models on this machine's disk: segments of at most
// 4 MiB under the SHA-256 of their bytes, shared by all models and by all processes
// of the machine.
//
// What is read is hashed again, so that a bit which has changed on the disk is found
// and the segment removed, never loaded. Files appear by a rename once their bytes
// are on the disk: a process that is killed leaves what it had finished, and nothing
// half done. Names of files are made of hashes alone and opened below a root that
// nothing leads out of.
//
//	segments/ab/ab12…   the bytes
//	models/ID/manifest  what a model consists of; ID is the SHA-256 of it
//	models/ID/learned   hashes of segments that the manifest does not know
//	models/ID/lock      held by those who use the model
//	models/ID/checked   hashes of segments that a pass has read back; passing: those of a
//	                    pass that is not through; passed: those of the last one
//	lent/ID/            the same of files that lie elsewhere; ID is of their path and manifest
//	tmp/                being written
package store

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sync"
	"time"
)

// MaxSegment is the most bytes of a segment.
const MaxSegment = 4 << 20

// Errors of the store.
var (
	// ErrMissing says that a segment is not in the store.
	ErrMissing = errors.New("segment is not in the store")
	// ErrCorrupt says that bytes are not those that were stored or promised.
	ErrCorrupt = errors.New("bytes do not have the hash that they should")
	// ErrNoModel says that the store does not know a model.
	ErrNoModel = errors.New("no such model in the store")
	// ErrInUse says that a process uses a model.
	ErrInUse = errors.New("the model is in use")
)

// FullError says that there is no room for what is to be stored.
type FullError struct {
	Dir   string
	Need  int64 // bytes that are to be stored
	Free  int64 // bytes that there is room for
	Quota int64 // of the store, if that is what is full; else 0
}

// Error names the bytes that are missing and what can be done.
func (e *FullError) Error() string {
	if e.Quota > 0 {
		return fmt.Sprintf("the store %s is full: %d bytes are needed, its quota of %d has room for %d and the rest is in use; raise --store-quota or remove a model with `shoal rm`",
			e.Dir, e.Need, e.Quota, e.Free)
	}
	return fmt.Sprintf("the disk is full: %d bytes are needed and %d are free in %s; free some, or name another folder with --store", e.Need, e.Free, e.Dir)
}

// Hash is a SHA-256.
type Hash [sha256.Size]byte

// ParseHash reads a hash from 64 lower-case hexadecimal digits, and nothing else:
// a hash becomes the name of a file.
func ParseHash(s string) (Hash, error) {
	var h Hash
	if len(s) != 2*len(h) {
		return h, fmt.Errorf("%.80q is no SHA-256: 64 hexadecimal digits are wanted", s)
	}
	for _, c := range s {
		if !(c >= '0' && c <= '9' || c >= 'a' && c <= 'f') {
			return h, fmt.Errorf("%.80q is no SHA-256: digits are 0 to 9 and a to f", s)
		}
	}
	_, err := hex.Decode(h[:], []byte(s))
	return h, err
}

// String writes a hash in hexadecimal.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// HashOf returns the hash of bytes.
func HashOf(b []byte) Hash { return sha256.Sum256(b) }

// Options say how a store behaves.
type Options struct {
	// Quota is the most bytes of segments; those used least recently make room, but
	// for models in use. 0 is no limit but the disk's.
	Quota int64
}

// Store is a folder of segments. It is safe for concurrent use, also by several
// processes.
type Store struct {
	dir   string
	quota int64
	root  *os.Root

	mu   sync.Mutex
	used int64 // guarded by mu; bytes of segments as far as this process knows; -1 is unknown
}

const (
	segmentsDir = "segments"
	modelsDir   = "models"
	lentDir     = "lent"
	tmpDir      = "tmp"
	touchAfter  = time.Minute // between two notes that a segment was used
	staleAfter  = time.Hour   // after which what is being written was given up
)

// Open opens the store in a folder, which is made if it is not there. The caller
// closes it.
func Open(dir string, o Options) (*Store, error) {
	if o.Quota < 0 {
		return nil, fmt.Errorf("a quota of %d bytes", o.Quota)
	}
	for _, sub := range []string{segmentsDir, modelsDir, tmpDir} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, fmt.Errorf("make the store: %w", full(err, dir, 0))
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open the store: %w", err)
	}
	s := &Store{dir: dir, quota: o.Quota, root: root, used: -1}
	s.clean()
	return s, nil
}

// Close releases the folder.
func (s *Store) Close() error { return s.root.Close() }

// Dir returns the folder.
func (s *Store) Dir() string { return s.dir }

// clean removes what processes that were killed had begun to write.
func (s *Store) clean() {
	for _, e := range s.list(tmpDir) {
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > staleAfter {
			_ = s.root.Remove(path.Join(tmpDir, e.Name()))
		}
	}
}

// list returns the entries of a folder of the store; none when there is none.
func (s *Store) list(dir string) []fs.DirEntry {
	entries, err := fs.ReadDir(s.root.FS(), dir)
	if err != nil {
		return nil
	}
	return entries
}

func segmentPath(h Hash) string {
	name := h.String()
	return path.Join(segmentsDir, name[:2], name)
}

// has reports whether a segment of that hash and size is there. Its bytes are not
// looked at.
func (s *Store) has(h Hash, size int) bool {
	info, err := s.root.Stat(segmentPath(h))
	return err == nil && info.Size() == int64(size)
}

// put stores a segment whose hash is h.
func (s *Store) put(h Hash, data []byte) error {
	if s.has(h, len(data)) {
		return nil
	}
	if err := s.makeRoom(int64(len(data))); err != nil {
		return err
	}
	if err := s.write(segmentPath(h), data); err != nil {
		return fmt.Errorf("store a segment: %w", err)
	}
	s.mu.Lock()
	if s.used >= 0 {
		s.used += int64(len(data))
	}
	s.mu.Unlock()
	return nil
}

// write makes a file of the store at once: others see all of it or nothing. Once it
// returns, the file is on the disk.
func (s *Store) write(name string, data []byte) (err error) {
	if err := s.root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return full(err, s.dir, int64(len(data)))
	}
	tmp := path.Join(tmpDir, rand.Text())
	f, err := s.root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return full(err, s.dir, int64(len(data)))
	}
	defer func() {
		if err != nil {
			err = errors.Join(full(err, s.dir, int64(len(data))), s.root.Remove(tmp))
		}
	}()
	if _, err := f.Write(data); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Sync(); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := s.root.Rename(tmp, name); err != nil {
		return err
	}
	return s.syncDir(path.Dir(name))
}

// syncDir brings the names in a folder to the disk.
func (s *Store) syncDir(dir string) error {
	f, err := s.root.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return syncFolder(f)
}

// get reads a segment into buf, which has its size, and checks its hash. One that is
// not what it should be is removed.
func (s *Store) get(h Hash, buf []byte) error {
	name := segmentPath(h)
	f, err := s.root.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return ErrMissing
	}
	if err != nil {
		return fmt.Errorf("read a segment: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("read a segment: %w", err)
	}
	ok := info.Size() == int64(len(buf))
	if ok {
		if _, err := f.ReadAt(buf, 0); err != nil {
			return fmt.Errorf("read segment %s: %w", h, err)
		}
		ok = HashOf(buf) == h
	}
	if !ok {
		return errors.Join(fmt.Errorf("%w: segment %s, which was removed", ErrCorrupt, h), s.drop(h, info.Size()))
	}
	if time.Since(info.ModTime()) > touchAfter {
		now := time.Now()
		_ = s.root.Chtimes(name, now, now) // only the order of eviction depends on it
	}
	return nil
}

// drop removes a segment.
func (s *Store) drop(h Hash, size int64) error {
	err := s.root.Remove(segmentPath(h))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove a segment: %w", err)
	}
	s.mu.Lock()
	if s.used >= 0 {
		s.used -= size
	}
	s.mu.Unlock()
	return nil
}
