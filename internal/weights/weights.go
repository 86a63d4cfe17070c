// Package weights brings weights to where they are needed: from the origin of a model,
// which an operator names, into the store of this machine, and from there, from other
// nodes or from the origin into a stage that is being loaded.
//
// A model is learnt by the heads of its files alone: metadata, vocabulary and the
// places of all tensors. From these a manifest is made, which cuts files into segments
// at the bounds of tensors, so that a stage can fetch what it needs and nothing else.
// The coordinator sends the manifest with its plans. Every node sees by the plan which
// of them is the first that needs a segment: that one takes it from the origin, all
// others take it from a node that has it.
package weights

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/shoal-llm/shoal/internal/fetch"
	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/internal/store"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// ErrOffline says that something would have to be fetched, and must not.
var ErrOffline = errors.New("fetching is switched off")

// Config says what a keeper works with.
type Config struct {
	// Open opens the store; it is called when the store is first needed, and the
	// keeper closes what it returns.
	Open    func() (*store.Store, error)
	Fetcher *fetch.Fetcher
	Hub     Hub
	Offline bool   // nothing is asked of origins
	Verify  Verify // empty is VerifyOff
	Log     *slog.Logger
}

// Keeper brings weights. It is safe for concurrent use.
type Keeper struct {
	cfg   Config
	began time.Time

	opening sync.Mutex
	opened  *store.Store // guarded by opening; nil before it is needed

	mu     sync.Mutex
	models map[store.Hash]used          // guarded by mu; by this process
	lent   map[store.Hash]*lent         // guarded by mu; files of this machine that others may have
	jobs   map[store.Hash]chan struct{} // guarded by mu; gatherings that run, closed at their end
	dry    map[store.Hash]bool          // guarded by mu; of them, those that the origin fails
	news   chan struct{}                // guarded by mu; closed when a segment has come
}

// used is a model that this process uses until it is released.
type used struct {
	*store.Model
	release func()
}

// New returns a keeper. The caller closes it.
func New(cfg Config) *Keeper {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Keeper{
		cfg: cfg, began: time.Now(), models: map[store.Hash]used{}, lent: map[store.Hash]*lent{},
		jobs: map[store.Hash]chan struct{}{}, dry: map[store.Hash]bool{}, news: make(chan struct{}),
	}
}

// Close gives back what the keeper holds, the store and idle connections included.
func (k *Keeper) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, u := range k.models {
		u.release()
	}
	clear(k.models)
	var errs []error
	for _, l := range k.lent {
		errs = append(errs, l.close())
	}
	clear(k.lent)
	k.cfg.Fetcher.Close()
	k.opening.Lock()
	defer k.opening.Unlock()
	if k.opened != nil {
		errs = append(errs, k.opened.Close())
		k.opened = nil
	}
	return errors.Join(errs...)
}

// Verify says when the bytes of models are to be read back.
func (k *Keeper) Verify() Verify { return cmp.Or(k.cfg.Verify, VerifyOff) }

// Store returns the keeper's store, which is opened now if it was not needed before.
func (k *Keeper) Store() (*store.Store, error) {
	k.opening.Lock()
	defer k.opening.Unlock()
	if k.opened == nil {
		s, err := k.cfg.Open()
		if err != nil {
			return nil, err
		}
		k.opened = s
	}
	return k.opened, nil
}

// Progress is how far something is.
type Progress struct {
	Phase string // find, fetch, verify
	Done  int64  // bytes of the phase; never fewer than before
	Total int64
	Rate  float64 // bytes a second of late
	Note  string  // what it waits for, in words; empty while it goes on
}

// Learn returns what the store knows of a source. If that is nothing, the heads of the
// files are fetched and a manifest is made of them; a source that cannot be read in
// parts is fetched whole. Report may be nil.
func (k *Keeper) Learn(ctx context.Context, source Source, report func(Progress)) (*store.Model, error) {
	s, err := k.Store()
	if err != nil {
		return nil, err
	}
	if m, err := s.Find(source.Text); err == nil {
		return k.adopt(m)
	}
	if k.cfg.Offline {
		return nil, fmt.Errorf("%w, and %s is not in the store %s", ErrOffline, source.Text, s.Dir())
	}
	if report == nil {
		report = func(Progress) {}
	}
	report(Progress{Phase: "find"})
	m, err := k.learn(ctx, s, source, report)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", source.Text, err)
	}
	return k.adopt(m)
}

func (k *Keeper) learn(ctx context.Context, s *store.Store, source Source, report func(Progress)) (*store.Model, error) {
	if source.pip != "" {
		return k.fromPip(ctx, s, source, report)
	}
	origin, err := k.origin(ctx, source)
	if err != nil {
		return nil, err
	}
	if origin.manifest != nil {
		return s.Add(origin.manifest)
	}
	heads := &heads{ctx: ctx, k: k, files: origin.files, have: map[string][]byte{}}
	m, err := library.OpenFiles(source.Name(), heads)
	if err != nil {
		return nil, err
	}
	encoded, err := describe(source.Text, m, origin.files)
	if err != nil {
		return nil, err
	}
	if err := m.Close(); err != nil {
		return nil, err
	}
	out, err := s.Add(encoded)
	if err != nil {
		return nil, err
	}
	return out, heads.keep(out)
}

// file is a file of an origin.
type file struct {
	fetch.Remote
	name string
	sum  []byte // SHA-256 of it, when the origin says so
}

// origin is where the files of a model are.
type origin struct {
	files    []file
	manifest []byte // that the origin itself offers; nil is none
}

// places says where the tensors of files lie.
type places interface {
	Heads() []library.Range
	Bounds() map[string][]uint64
}

// describe makes the manifest of a model: files are cut where tensors begin.
func describe(source string, m places, files []file) ([]byte, error) {
	bounds, heads := m.Bounds(), map[string]uint64{}
	for _, h := range m.Heads() {
		heads[h.File] = h.Size
	}
	out := &pb.Manifest{Version: 1, Source: source}
	for _, f := range files {
		head, ok := heads[f.name]
		if !ok {
			continue // nothing reads it
		}
		out.Files = append(out.Files, &pb.ManifestFile{
			Name: f.name, Size: uint64(f.Size), Url: f.URL, Etag: f.ETag, Sha256: f.sum, Head: head,
			Segments: store.Cut(uint64(f.Size), append([]uint64{head}, bounds[f.name]...)),
		})
	}
	slices.SortFunc(out.Files, func(a, b *pb.ManifestFile) int { return strings.Compare(a.Name, b.Name) })
	return store.Encode(out)
}

// heads are the beginnings of files at an origin, kept in memory.
type heads struct {
	ctx   context.Context
	k     *Keeper
	files []file
	have  map[string][]byte
}

var _ library.Files = (*heads)(nil)

func (h *heads) find(name string) *file {
	i := slices.IndexFunc(h.files, func(f file) bool { return f.name == name })
	if i < 0 {
		return nil
	}
	return &h.files[i]
}

// Names returns the names of the files.
func (h *heads) Names() []string {
	var out []string
	for _, f := range h.files {
		out = append(out, f.name)
	}
	return out
}

// Size returns the bytes of a file.
func (h *heads) Size(name string) uint64 {
	if f := h.find(name); f != nil {
		return uint64(f.Size)
	}
	return 0
}

// Head fetches more of a file, if need be.
func (h *heads) Head(name string, n uint64) ([]byte, error) {
	f := h.find(name)
	if f == nil {
		return nil, fmt.Errorf("there is no %s", name)
	}
	data, err := h.k.cfg.Fetcher.Prefix(h.ctx, f.Remote, h.have[name], int64(n))
	h.have[name] = data
	return data, err
}

// Read is not called: a model that is learnt is not loaded.
func (h *heads) Read(r library.Range) ([]byte, error) {
	return nil, fmt.Errorf("bytes of %s at %d have not been fetched", r.File, r.Offset)
}

// keep stores the segments that came with the heads.
func (h *heads) keep(m *store.Model) error {
	for i, seg := range m.Segments() {
		data := h.have[m.Manifest.Files[seg.File].Name]
		if end := seg.Offset + int64(seg.Size); end <= int64(len(data)) {
			if err := m.Put(i, data[seg.Offset:end]); err != nil {
				return err
			}
		}
	}
	return nil
}

// adopt marks a model as in use by this process.
func (k *Keeper) adopt(m *store.Model) (*store.Model, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if u, ok := k.models[m.ID]; ok {
		return u.Model, nil
	}
	release, err := m.Use()
	if err != nil {
		return nil, err
	}
	k.models[m.ID] = used{m, release}
	return m, nil
}

// Know makes a model known that a plan describes.
func (k *Keeper) Know(manifest []byte) (*store.Model, error) {
	k.mu.Lock()
	u, ok := k.models[store.HashOf(manifest)]
	k.mu.Unlock()
	if ok {
		return u.Model, nil
	}
	s, err := k.Store()
	if err != nil {
		return nil, err
	}
	m, err := s.Add(manifest)
	if err != nil {
		return nil, err
	}
	return k.adopt(m)
}

// NameOf is what a model of the store is called in short.
func NameOf(m *store.Model) string {
	if s, err := ParseSource(m.Manifest.Source); err == nil {
		return s.Name()
	}
	return path.Base(m.Manifest.Source)
}

// Open opens a model of the store; bytes that are missing or have changed are brought
// by again. Ctx and again are used until the model is closed. Again may be nil: what
// is missing is an error then.
func (k *Keeper) Open(ctx context.Context, m *store.Model, again func(ctx context.Context, segments []int) error) (*library.Model, error) {
	return library.OpenFiles(NameOf(m), k.Files(ctx, m, again))
}

// Files are the files of a model of the store, as Open reads them.
func (k *Keeper) Files(ctx context.Context, m *store.Model, again func(ctx context.Context, segments []int) error) library.Files {
	return &view{ctx: ctx, m: m, again: again}
}

// view is a model of the store as files.
type view struct {
	ctx   context.Context
	m     *store.Model
	again func(ctx context.Context, segments []int) error
}

var _ library.Files = (*view)(nil)

func (v *view) find(name string) int {
	return slices.IndexFunc(v.m.Manifest.Files, func(f *pb.ManifestFile) bool { return f.Name == name })
}

// Names returns the names of the files.
func (v *view) Names() []string {
	var out []string
	for _, f := range v.m.Manifest.Files {
		out = append(out, f.Name)
	}
	return out
}

// Size returns the bytes of a file.
func (v *view) Size(name string) uint64 {
	if i := v.find(name); i >= 0 {
		return v.m.Manifest.Files[i].Size
	}
	return 0
}

// Head returns what lies before the tensors, which may be less than n bytes: nothing
// else is needed.
func (v *view) Head(name string, _ uint64) ([]byte, error) {
	i := v.find(name)
	if i < 0 {
		return nil, fmt.Errorf("there is no %s", name)
	}
	return v.bytes(i, 0, v.m.Manifest.Files[i].Head)
}

// Read returns bytes of a file, whose hashes have been checked.
func (v *view) Read(r library.Range) ([]byte, error) {
	i := v.find(r.File)
	if i < 0 {
		return nil, fmt.Errorf("there is no %s", r.File)
	}
	return v.bytes(i, r.Offset, r.Size)
}

// readers is how many segments of a tensor are read and hashed at once.
const readers = 4

func (v *view) bytes(file int, offset, n uint64) ([]byte, error) {
	from, to := v.m.Covering(file, offset, n)
	if from == to {
		return nil, nil
	}
	segments := v.m.Segments()
	start, last := uint64(segments[from].Offset), segments[to-1]
	end := uint64(last.Offset) + uint64(last.Size)
	if offset+n > end {
		return nil, fmt.Errorf("bytes [%d, %d) lie beyond the file", offset, offset+n)
	}
	out := make([]byte, end-start)
	var group errgroup.Group
	group.SetLimit(readers)
	for i := from; i < to; i++ {
		at := uint64(segments[i].Offset) - start
		group.Go(func() error { return v.segment(i, out[at:at+uint64(segments[i].Size)]) })
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	skip := offset - start
	return out[skip : skip+n : skip+n], nil
}

// segment reads a segment; one that is missing or has changed is brought by again.
func (v *view) segment(i int, into []byte) error {
	err := v.m.Read(i, into)
	if err == nil || v.again == nil || !errors.Is(err, store.ErrCorrupt) && !errors.Is(err, store.ErrMissing) {
		return err
	}
	if err := v.again(v.ctx, []int{i}); err != nil {
		return err
	}
	return v.m.Read(i, into)
}

// Heads returns the segments that must be there before a model can be opened.
func Heads(m *store.Model) (out []int) {
	for i, f := range m.Manifest.Files {
		from, to := m.Covering(i, 0, f.Head)
		for s := from; s < to; s++ {
			out = append(out, s)
		}
	}
	return out
}

// Covering returns the segments that hold ranges of files, ascending, each once.
func Covering(m *store.Model, ranges []library.Range) []int {
	var out []int
	for _, r := range ranges {
		i := slices.IndexFunc(m.Manifest.Files, func(f *pb.ManifestFile) bool { return f.Name == r.File })
		if i < 0 {
			continue
		}
		from, to := m.Covering(i, r.Offset, r.Size)
		for s := from; s < to; s++ {
			out = append(out, s)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
