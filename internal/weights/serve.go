package weights

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/internal/store"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// Bounds of what a caller may ask for.
const (
	maxWait     = 10 * time.Second
	maxAsked    = 1 << 10 // segments of one call
	maxBitBytes = 1 << 20 // of segments asked for
)

// holder has segments of a model.
type holder interface {
	Segments() []store.Segment
	Has(i int) bool
	Get(i int) ([]byte, error)
}

// lent is a model whose files lie outside the store. Its bytes are not checked: the
// file's owner answers for them, as when the file is loaded here.
type lent struct {
	path     string
	encoded  []byte
	segments []store.Segment
	files    []*os.File
}

func (l *lent) Segments() []store.Segment { return l.segments }
func (l *lent) Has(int) bool              { return true }
func (l *lent) Get(i int) ([]byte, error) {
	s := l.segments[i]
	data := make([]byte, s.Size)
	_, err := l.files[s.File].ReadAt(data, s.Offset)
	return data, err
}

func (l *lent) close() error {
	var errs []error
	for _, f := range l.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// Lend offers the files of a model on this machine to nodes that lack them, and
// returns the manifest that describes them. A model that the program brings along has
// no files, and every node has it: its manifest is nil.
func (k *Keeper) Lend(m *library.Model) (manifest []byte, err error) {
	if m.Path == "" {
		return nil, nil
	}
	return k.lend(m.Name, m.Path, m)
}

// LendAdapter is Lend for an adapter at path.
func (k *Keeper) LendAdapter(a *library.Adapter, path string) (manifest []byte, err error) {
	return k.lend(a.Name, path, a)
}

// Lent returns the path of the files of this machine that a manifest of Lend describes.
func (k *Keeper) Lent(manifest []byte) (path string, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if l := k.lent[store.HashOf(manifest)]; l != nil {
		return l.path, true
	}
	return "", false
}

func (k *Keeper) lend(name, path string, m places) (manifest []byte, err error) {
	dir := path
	if info, err := os.Stat(dir); err == nil && !info.IsDir() {
		dir = filepath.Dir(dir)
	}
	l := &lent{path: path}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("offer %s to other nodes: %w", path, err), l.close())
		}
	}()
	var files []file
	for _, h := range m.Heads() {
		f, err := os.Open(filepath.Join(dir, h.File))
		if err != nil {
			return nil, err
		}
		l.files = append(l.files, f)
		info, err := f.Stat()
		if err != nil {
			return nil, err
		}
		one := file{name: h.File}
		one.Size = info.Size()
		files = append(files, one)
	}
	if l.encoded, err = describe(name, m, files); err != nil {
		return nil, err
	}
	if _, l.segments, err = store.Decode(l.encoded); err != nil {
		return nil, err
	}
	id := store.HashOf(l.encoded)
	k.mu.Lock()
	defer k.mu.Unlock()
	if old := k.lent[id]; old != nil {
		return old.encoded, l.close()
	}
	k.lent[id] = l
	return l.encoded, nil
}

// Hashed describes a model of this machine with the hashes of all its bytes, which are
// read now, as an origin may serve it beside the file.
func (k *Keeper) Hashed(m *library.Model) (*pb.Manifest, error) {
	encoded, err := k.Lend(m)
	if err == nil && encoded == nil {
		err = errors.New("it is part of the program, and has no file")
	}
	if err != nil {
		return nil, err
	}
	out, segments, err := store.Decode(encoded)
	if err != nil {
		return nil, err
	}
	h := k.holder(store.HashOf(encoded))
	sums := make([]hash.Hash, len(out.Files))
	for i, s := range segments {
		data, err := h.Get(i)
		if err != nil {
			return nil, err
		}
		if sums[s.File] == nil {
			sums[s.File] = sha256.New()
		}
		sums[s.File].Write(data)
		sum := store.HashOf(data)
		f := out.Files[s.File]
		f.Hashes = append(f.Hashes, sum[:]...)
	}
	for i, sum := range sums {
		if sum != nil {
			out.Files[i].Sha256 = sum.Sum(nil)
		}
	}
	return out, nil
}

// holder returns what this node has of a model; nil when it does not know it.
func (k *Keeper) holder(id store.Hash) holder {
	k.mu.Lock()
	l, u := k.lent[id], k.models[id]
	k.mu.Unlock()
	if l != nil {
		return l
	}
	if u.Model != nil {
		return u.Model
	}
	s, err := k.Store()
	if err != nil {
		return nil
	}
	m, err := s.Model(id) // from before this process began
	if err != nil {
		return nil
	}
	return m
}

// busy reports whether segments of a model are being brought, and the origin does not
// fail.
func (k *Keeper) busy(id store.Hash) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.jobs[id] != nil && !k.dry[id]
}

// isDry reports whether the origin fails the gathering of a model.
func (k *Keeper) isDry(id store.Hash) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.dry[id]
}

// setDry says whether the origin fails the gathering of a model.
func (k *Keeper) setDry(id store.Hash, dry bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if dry {
		k.dry[id] = true
	} else {
		delete(k.dry, id)
	}
}

// told wakes those who wait for segments.
func (k *Keeper) told() {
	k.mu.Lock()
	defer k.mu.Unlock()
	close(k.news)
	k.news = make(chan struct{})
}

func (k *Keeper) waitNews() <-chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.news
}

// Service serves the segments that a keeper has.
type Service struct {
	pb.UnimplementedWeightServiceServer
	k *Keeper
}

// NewService returns the service of a keeper. That of none refuses everything.
func NewService(k *Keeper) *Service { return &Service{k: k} }

// bits are a set of segments.
type bits []byte

func newBits(n int) bits      { return make(bits, (n+7)/8) }
func (b bits) has(i int) bool { return i/8 < len(b) && b[i/8]>>(i%8)&1 == 1 }
func (b bits) set(i int)      { b[i/8] |= 1 << (i % 8) }
func (b bits) list() (out []int) {
	for i := range 8 * len(b) {
		if b.has(i) {
			out = append(out, i)
		}
	}
	return out
}

// Have says which segments this node has.
func (s *Service) Have(ctx context.Context, req *pb.HaveRequest) (*pb.HaveResponse, error) {
	id, err := s.idOf(req.GetManifest())
	if err != nil {
		return nil, err
	}
	if len(req.GetWanted()) > maxBitBytes {
		return nil, status.Errorf(codes.InvalidArgument, "%d bytes of wanted segments", len(req.GetWanted()))
	}
	over := time.NewTimer(min(time.Duration(req.GetWaitMs())*time.Millisecond, maxWait))
	defer over.Stop()
	for {
		news := s.k.waitNews()
		h := s.k.holder(id)
		if h == nil {
			select {
			case <-news:
				continue
			case <-over.C:
			case <-ctx.Done():
			}
			return &pb.HaveResponse{}, nil
		}
		held, any := heldOf(h, req.GetWanted())
		answer := &pb.HaveResponse{Held: held, Known: true, Busy: s.k.busy(id)}
		if any || req.GetWaitMs() == 0 {
			return answer, nil
		}
		select {
		case <-news:
		case <-over.C:
			return answer, nil
		case <-ctx.Done():
			return nil, status.FromContextError(ctx.Err()).Err()
		}
	}
}

func heldOf(h holder, wanted bits) (held bits, any bool) {
	n := len(h.Segments())
	held = newBits(n)
	for i := range n {
		if wanted.has(i) && h.Has(i) {
			held.set(i)
			any = true
		}
	}
	return held, any
}

func (s *Service) idOf(b []byte) (id store.Hash, err error) {
	if s.k == nil {
		return id, status.Error(codes.Unimplemented, "this node gives no weights")
	}
	if len(b) != len(id) {
		return id, status.Errorf(codes.InvalidArgument, "a manifest's hash of %d bytes", len(b))
	}
	return store.Hash(b), nil
}

// bring fetches what another node needs and its origin does not give it.
func (s *Service) bring(ctx context.Context, h holder, req *pb.SegmentsRequest) error {
	m, ok := h.(*store.Model)
	if !req.GetBring() || !ok {
		return nil
	}
	if s.k.isDry(m.ID) {
		return status.Error(codes.Unavailable, "the origin fails here too")
	}
	order := Order{}
	for _, i := range req.GetSegments() {
		order.Segments = append(order.Segments, int(i))
	}
	if err := s.k.Gather(ctx, m, order, DefaultPatience()); err != nil {
		s.k.cfg.Log.Warn("cannot bring segments that another node's origin does not give", "model", m.Manifest.Source, "err", err)
		return status.Error(codes.Unavailable, "the origin fails here too")
	}
	return nil
}

// Segments sends segments. Their hashes have been checked.
func (s *Service) Segments(req *pb.SegmentsRequest, stream pb.WeightService_SegmentsServer) error {
	id, err := s.idOf(req.GetManifest())
	if err != nil {
		return err
	}
	if len(req.GetSegments()) > maxAsked {
		return status.Errorf(codes.InvalidArgument, "%d segments at once, the most is %d", len(req.GetSegments()), maxAsked)
	}
	h := s.k.holder(id)
	if h == nil {
		return status.Error(codes.NotFound, "this node does not know the model")
	}
	for _, i := range req.GetSegments() {
		if int64(i) >= int64(len(h.Segments())) {
			return status.Errorf(codes.OutOfRange, "segment %d of %d", i, len(h.Segments()))
		}
	}
	if err := s.bring(stream.Context(), h, req); err != nil {
		return err
	}
	for _, i := range req.GetSegments() {
		data, err := h.Get(int(i))
		if errors.Is(err, store.ErrMissing) || errors.Is(err, store.ErrCorrupt) {
			return nil
		}
		if err != nil {
			s.k.cfg.Log.Error("read a segment for another node", "err", err)
			return status.Error(codes.Internal, "the segment cannot be read")
		}
		if err := stream.Send(&pb.SegmentsResponse{Segment: i, Data: data}); err != nil {
			return err
		}
	}
	return nil
}
