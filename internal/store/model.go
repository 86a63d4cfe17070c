package store

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// Model is a model that the store knows: all of it may be there, or a part, or
// nothing but the description. It is safe for concurrent use.
type Model struct {
	ID       Hash
	Manifest *pb.Manifest // not to be changed
	Encoded  []byte       // the manifest as its hash has it; not to be changed

	store    *Store
	segments []Segment
	first    []int // of each file, the number of its first segment; one more at the end

	mu      sync.Mutex
	learned map[int]Hash // guarded by mu
	journal int64        // guarded by mu; bytes of the file of learned hashes that were read
}

func modelDir(id Hash) string { return path.Join(modelsDir, id.String()) }

// Add makes a model known, if it is not.
func (s *Store) Add(encoded []byte) (*Model, error) {
	m, segments, err := Decode(encoded)
	if err != nil {
		return nil, err
	}
	id := HashOf(encoded)
	if _, err := s.Model(id); err != nil { // unknown, or changed on the disk
		if err := s.write(path.Join(modelDir(id), "manifest"), encoded); err != nil {
			return nil, fmt.Errorf("store a manifest: %w", err)
		}
	}
	return s.model(id, m, encoded, segments), nil
}

func (s *Store) model(id Hash, m *pb.Manifest, encoded []byte, segments []Segment) *Model {
	out := &Model{ID: id, Manifest: m, Encoded: encoded, store: s, segments: segments, learned: map[int]Hash{}}
	for i, seg := range segments {
		for len(out.first) <= seg.File {
			out.first = append(out.first, i)
		}
	}
	for len(out.first) <= len(m.Files) {
		out.first = append(out.first, len(segments))
	}
	return out
}

// Model returns a model by its identity. One whose manifest has changed on the disk
// is not known.
func (s *Store) Model(id Hash) (*Model, error) {
	encoded, err := s.root.ReadFile(path.Join(modelDir(id), "manifest"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s", ErrNoModel, id)
	}
	if err != nil {
		return nil, fmt.Errorf("read a manifest: %w", err)
	}
	if HashOf(encoded) != id {
		return nil, fmt.Errorf("%w: the manifest of %s has changed on the disk", ErrCorrupt, id)
	}
	m, segments, err := Decode(encoded)
	if err != nil {
		return nil, err
	}
	return s.model(id, m, encoded, segments), nil
}

// Models returns all models whose manifests can be read, those used last first.
func (s *Store) Models() []*Model {
	type known struct {
		m  *Model
		at time.Time
	}
	var all []known
	for _, e := range s.list(modelsDir) {
		id, err := ParseHash(e.Name())
		if err != nil {
			continue
		}
		if m, err := s.Model(id); err == nil {
			all = append(all, known{m, m.Used()})
		}
	}
	sort.SliceStable(all, func(i, j int) bool { return all[i].at.After(all[j].at) })
	out := make([]*Model, len(all))
	for i, k := range all {
		out[i] = k.m
	}
	return out
}

// Find returns the model of a source, the one that was used last of several.
func (s *Store) Find(source string) (*Model, error) {
	for _, m := range s.Models() {
		if m.Manifest.Source == source {
			return m, nil
		}
	}
	return nil, fmt.Errorf("%w: %s", ErrNoModel, source)
}

// Remove forgets a model and the segments that no other has. A model in use is not
// removed.
func (s *Store) Remove(id Hash) (freed int64, err error) {
	m, err := s.Model(id)
	if err != nil && !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrManifest) {
		return 0, err
	}
	if m != nil {
		release, err := m.lock(true)
		if err != nil {
			return 0, err
		}
		defer release()
	}
	if err := s.root.RemoveAll(modelDir(id)); err != nil {
		return 0, fmt.Errorf("remove a model: %w", err)
	}
	return s.Collect()
}

// Segments returns the segments of all files in order. The caller must not change
// them.
func (m *Model) Segments() []Segment { return m.segments }

// Size returns the bytes of all files.
func (m *Model) Size() (n int64) {
	for _, f := range m.Manifest.Files {
		n += int64(f.Size)
	}
	return n
}

// Covering returns the numbers [from, to) of the segments that hold n bytes of a file
// from an offset on.
func (m *Model) Covering(file int, offset, n uint64) (from, to int) {
	lo, hi := m.first[file], m.first[file+1]
	from = lo + sort.Search(hi-lo, func(i int) bool {
		s := m.segments[lo+i]
		return uint64(s.Offset)+uint64(s.Size) > offset
	})
	to = from
	for to < hi && uint64(m.segments[to].Offset) < offset+n {
		to++
	}
	return from, to
}

// Sealed reports whether the hashes of all segments were known before their bytes
// came. Without them a segment is what its first source said.
func (m *Model) Sealed() bool {
	for _, f := range m.Manifest.Files {
		if len(f.Hashes) == 0 && len(f.Segments) > 0 {
			return false
		}
	}
	return true
}

// promised returns the hash that the manifest has for a segment.
func (m *Model) promised(i int) (h Hash, ok bool) {
	s := m.segments[i]
	hashes := m.Manifest.Files[s.File].Hashes
	if len(hashes) == 0 {
		return h, false
	}
	return Hash(hashes[len(h)*(i-m.first[s.File]):]), true
}

// hash returns the hash of a segment, promised or learned.
func (m *Model) hash(i int) (Hash, bool) {
	if h, ok := m.promised(i); ok {
		return h, true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if h, ok := m.learned[i]; ok {
		return h, true
	}
	m.study()
	h, ok := m.learned[i]
	return h, ok
}

// Known returns the hash that a segment must have: the manifest's, or the one that was
// learnt as it came.
func (m *Model) Known(i int) (Hash, bool) { return m.hash(i) }

// study reads what has been added to the file of learned hashes; mu is held. A line
// that a killed process left unfinished is no line.
func (m *Model) study() {
	name := path.Join(modelDir(m.ID), "learned")
	info, err := m.store.root.Stat(name)
	if err != nil || info.Size() <= m.journal {
		return
	}
	text, err := m.store.root.ReadFile(name)
	if err != nil {
		return
	}
	text = text[:bytes.LastIndexByte(text, '\n')+1]
	m.journal = int64(len(text))
	readNotes(text, len(m.segments), m.learned)
}

// readNotes adds the hashes that lines of notes have of n segments.
func readNotes(text []byte, n int, into map[int]Hash) {
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		if i, h, ok := parseNote(lines.Text()); ok && i < n {
			into[i] = h
		}
	}
}

// note is a line of learned hashes: a segment, its hash, and a hash of both, by which
// a line that has changed on the disk is none.
func note(i int, h Hash) string {
	line := fmt.Sprintf("%d %s", i, h)
	return line + " " + HashOf([]byte(line)).String()[:16]
}

// parseNote reads a line of learned hashes.
func parseNote(line string) (i int, h Hash, ok bool) {
	number, rest, _ := strings.Cut(line, " ")
	digits, _, _ := strings.Cut(rest, " ")
	i, err := strconv.Atoi(number)
	h, err2 := ParseHash(digits)
	return i, h, err == nil && err2 == nil && i >= 0 && line == note(i, h)
}

// learn notes the hash of a segment for good.
func (m *Model) learn(i int, h Hash) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.learned[i] == h {
		return nil
	}
	if err := m.store.addNote(path.Join(modelDir(m.ID), "learned"), i, h); err != nil {
		return err
	}
	m.learned[i] = h
	return nil
}

// addNote adds a line to a file of notes.
func (s *Store) addNote(name string, i int, h Hash) error {
	f, err := s.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return full(err, s.dir, 0)
	}
	// The empty line ends one that a killed process left unfinished.
	if _, err := fmt.Fprintf(f, "\n%s\n", note(i, h)); err != nil {
		return errors.Join(full(err, s.dir, 0), f.Close())
	}
	return f.Close()
}

// Has reports whether a segment is there, by its name and size.
func (m *Model) Has(i int) bool {
	h, ok := m.hash(i)
	return ok && m.store.has(h, m.segments[i].Size)
}

// Missing returns those of the segments that are not there, and their bytes.
func (m *Model) Missing(segments []int) (missing []int, bytes int64) {
	for _, i := range segments {
		if !m.Has(i) {
			missing = append(missing, i)
			bytes += int64(m.segments[i].Size)
		}
	}
	return missing, bytes
}

// All returns the numbers of all segments.
func (m *Model) All() []int {
	out := make([]int, len(m.segments))
	for i := range out {
		out[i] = i
	}
	return out
}

// Put stores a segment. Bytes that are not those of the manifest are refused; where
// the manifest does not know them, they are believed.
func (m *Model) Put(i int, data []byte) error {
	seg := m.segments[i]
	if len(data) != seg.Size {
		return fmt.Errorf("%w: %d bytes for segment %d, which has %d", ErrCorrupt, len(data), i, seg.Size)
	}
	h := HashOf(data)
	want, ok := m.promised(i)
	if ok && h != want {
		return fmt.Errorf("%w: segment %d of %s", ErrCorrupt, i, m.Manifest.Files[seg.File].Name)
	}
	if err := m.store.put(h, data); err != nil || ok {
		return err
	}
	return m.learn(i, h)
}

// Get reads a segment. Bytes that have changed on the disk are removed and not
// returned: the error wraps ErrCorrupt, or ErrMissing for one that is not there.
func (m *Model) Get(i int) ([]byte, error) {
	data := make([]byte, m.segments[i].Size)
	if err := m.Read(i, data); err != nil {
		return nil, err
	}
	return data, nil
}

// Read is Get into memory of the caller's, which has the size of the segment. After an
// error what is there means nothing.
func (m *Model) Read(i int, into []byte) error {
	h, ok := m.hash(i)
	if !ok {
		return fmt.Errorf("%w: segment %d", ErrMissing, i)
	}
	if err := m.store.get(h, into); err != nil {
		return fmt.Errorf("segment %d of %s: %w", i, m.Manifest.Files[m.segments[i].File].Name, err)
	}
	return nil
}

// Verify reads all segments that are there and returns those that had changed, which
// are removed. Report, if there is one, hears after each how many bytes were read.
func (m *Model) Verify(ctx context.Context, report func(done int64)) (bad []int, err error) {
	done := int64(0)
	for i, seg := range m.segments {
		if err := ctx.Err(); err != nil {
			return bad, err
		}
		h, ok := m.hash(i)
		if !ok || !m.present(h) {
			continue
		}
		switch _, err := m.Get(i); {
		case errors.Is(err, ErrCorrupt):
			bad = append(bad, i)
		case err != nil && !errors.Is(err, ErrMissing):
			return bad, err
		}
		if done += int64(seg.Size); report != nil {
			report(done)
		}
	}
	return bad, nil
}

// present reports whether there is a file for a hash, whatever its size.
func (m *Model) present(h Hash) bool {
	_, err := m.store.root.Stat(segmentPath(h))
	return err == nil
}

// Sums returns the SHA-256 of the files, which must all be there.
func (m *Model) Sums() ([]Hash, error) {
	out := make([]Hash, len(m.Manifest.Files))
	for f := range out {
		sum := sha256.New()
		for i := m.first[f]; i < m.first[f+1]; i++ {
			data, err := m.Get(i)
			if err != nil {
				return nil, err
			}
			sum.Write(data)
		}
		sum.Sum(out[f][:0])
	}
	return out, nil
}

// Seal makes a manifest with the hashes of what is there, all of which must be, and
// forgets the one without. A file whose SHA-256 is known and not this one ends it
// with ErrCorrupt.
func (m *Model) Seal() (*Model, error) {
	if m.Sealed() {
		return m, nil
	}
	sums, err := m.Sums()
	if err != nil {
		return nil, err
	}
	sealed := proto.Clone(m.Manifest).(*pb.Manifest)
	for f, file := range sealed.Files {
		if len(file.Sha256) > 0 && Hash(file.Sha256) != sums[f] {
			return nil, fmt.Errorf("%w: %s has the SHA-256 %s, its origin says %x; remove the model with `shoal rm` and pull again", ErrCorrupt, file.Name, sums[f], file.Sha256)
		}
		file.Sha256, file.Hashes = sums[f][:], nil
		for i := m.first[f]; i < m.first[f+1]; i++ {
			h, _ := m.hash(i)
			file.Hashes = append(file.Hashes, h[:]...)
		}
	}
	encoded, err := Encode(sealed)
	if err != nil {
		return nil, err
	}
	out, err := m.store.Add(encoded)
	if err != nil {
		return nil, err
	}
	if release, err := m.lock(true); err == nil { // else those who use it need it still
		release()
		if err := m.store.root.RemoveAll(modelDir(m.ID)); err != nil {
			return nil, fmt.Errorf("remove a manifest: %w", err)
		}
	}
	return out, nil
}

// Used returns when the model was last used or made known.
func (m *Model) Used() time.Time {
	for _, name := range []string{"lock", "manifest"} {
		if info, err := m.store.root.Stat(path.Join(modelDir(m.ID), name)); err == nil {
			return info.ModTime()
		}
	}
	return time.Time{}
}

// Use marks the model as in use by this process until release: its segments are not
// evicted and it is not removed.
func (m *Model) Use() (release func(), err error) {
	release, err = m.lock(false)
	if err == nil {
		now := time.Now()
		_ = m.store.root.Chtimes(path.Join(modelDir(m.ID), "lock"), now, now) // only an order depends on it
	}
	return release, err
}

func (m *Model) lock(alone bool) (release func(), err error) {
	f, err := m.store.root.OpenFile(path.Join(modelDir(m.ID), "lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock a model: %w", full(err, m.store.dir, 0))
	}
	ok, err := tryLock(f, alone)
	if err == nil && !ok {
		err = fmt.Errorf("%w: %s", ErrInUse, m.Manifest.Source)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() { f.Close() }, nil // closing gives the lock back
}

// Alone makes this process the only one that fetches the model, until release. It
// waits for another that does; waiting, if there is one, is called once before.
func (m *Model) Alone(ctx context.Context, waiting func()) (release func(), err error) {
	return m.store.alone(ctx, path.Join(modelDir(m.ID), "fetching"), waiting)
}

// alone holds a file of the store for one user alone, until release.
func (s *Store) alone(ctx context.Context, name string, waiting func()) (release func(), err error) {
	f, err := s.root.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock a model: %w", full(err, s.dir, 0))
	}
	for told := false; ; {
		ok, err := tryLock(f, true)
		if ok {
			return func() { f.Close() }, nil
		}
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		if !told && waiting != nil {
			waiting()
		}
		told = true
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), f.Close())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// NewReader reads a file of the model, all of whose segments must be there.
func (m *Model) NewReader(file int) io.Reader {
	return &reader{m: m, next: m.first[file], end: m.first[file+1]}
}

type reader struct {
	m         *Model
	next, end int
	rest      []byte
}

func (r *reader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		if r.next == r.end {
			return 0, io.EOF
		}
		data, err := r.m.Get(r.next)
		if err != nil {
			return 0, err
		}
		r.rest = data
		r.next++
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}
