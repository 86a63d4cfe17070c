package shard

import (
	"container/list"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/shoal-llm/shoal/internal/pki"
	"github.com/shoal-llm/shoal/pkg/frame"
	"github.com/shoal-llm/shoal/pkg/vision"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// maxLooking bounds the pictures that wait for their rows to be computed.
const maxLooking = 64

// Encoder turns pictures into rows. A *vision.Encoder is one.
type Encoder interface {
	Rows() int      // that stand for a picture
	Width() int     // of a row
	Memory() uint64 // bytes of its weights and of the rows that are kept
	// Encode returns the rows of a picture's file. An error for which
	// vision.Refused holds is the picture's.
	Encode(ctx context.Context, file []byte) ([]float32, error)
}

// sight turns pictures into rows for the sessions of pipelines that begin on this
// node, one picture at a time, and keeps the rows of the latest. It computes on the
// processor beside the devices. Its methods may be called from any goroutine.
type sight struct {
	turn chan struct{} // holds a token while a picture is computed or the model changes

	mu      sync.Mutex // guards following
	model   *Model     // kept open; nil is none
	waiting int        // for turn
	shown   map[[32]byte]*shown
	order   *list.List // of *shown, least recently used first
}

// shown are the rows of a picture.
type shown struct {
	hash  [32]byte
	rows  []byte // little-endian float32
	users int    // sessions that have not computed them all
	at    *list.Element
}

var (
	errNoSight = errors.New("the model reads no pictures")
	errCrowded = errors.New("too many pictures at once")
	errUnseen  = errors.New("the rows of a picture are not there any more")
)

func newSight() *sight {
	return &sight{turn: make(chan struct{}, 1), shown: map[[32]byte]*shown{}, order: list.New()}
}

// open makes the encoder of a model the one in use. A model that is in use stays; of
// another, nothing is kept. The model is closed when it is not needed any more.
func (s *sight) open(digest [32]byte, open func() (*Model, error)) error {
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.model != nil && s.model.File == digest {
		return nil
	}
	m, err := open()
	if err != nil {
		return err
	}
	return s.replace(m)
}

// close forgets everything.
func (s *sight) close() error {
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.replace(nil)
}

func (s *sight) replace(m *Model) (err error) {
	if s.model != nil {
		err = s.model.Close()
	}
	s.model = m
	clear(s.shown)
	s.order.Init()
	return err
}

// find returns the rows of a picture that was seen lately, or nil.
func (s *sight) find(hash [32]byte) *shown {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.shown[hash]
	if p != nil {
		s.order.MoveToBack(p.at)
	}
	return p
}

// see makes the rows of a picture, unless they are there, and returns how many. An
// empty file only asks: then 0 says that they are not there.
func (s *sight) see(ctx context.Context, hash [32]byte, file []byte) (rows int, err error) {
	if p := s.find(hash); p != nil {
		return s.count(p), nil
	}
	if len(file) == 0 {
		return 0, nil
	}
	if err := s.wait(ctx); err != nil {
		return 0, err
	}
	defer func() { <-s.turn }()
	if p := s.find(hash); p != nil { // another has asked for it meanwhile
		return s.count(p), nil
	}
	s.mu.Lock()
	m := s.model
	s.mu.Unlock()
	if m == nil || m.Vision == nil {
		return 0, errNoSight
	}
	values, err := m.Vision.Encode(ctx, file)
	if err != nil {
		return 0, err
	}
	out := make([]byte, 0, 4*len(values))
	for _, v := range values {
		if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
			return 0, fmt.Errorf("%w: the rows of the picture are not finite", vision.ErrDamaged)
		}
		out = binary.LittleEndian.AppendUint32(out, math.Float32bits(v))
	}
	return m.Vision.Rows(), s.keep(&shown{hash: hash, rows: out})
}

// wait takes the turn.
func (s *sight) wait(ctx context.Context) error {
	s.mu.Lock()
	full := s.waiting >= maxLooking
	if !full {
		s.waiting++
	}
	s.mu.Unlock()
	if full {
		return errCrowded
	}
	defer func() {
		s.mu.Lock()
		s.waiting--
		s.mu.Unlock()
	}()
	select {
	case s.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *sight) count(p *shown) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.model == nil {
		return 0
	}
	return len(p.rows) / 4 / s.model.Vision.Width()
}

// keep adds rows, in the place of those that were used least lately. Rows that
// sessions need stay.
func (s *sight) keep(p *shown) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for at := s.order.Front(); len(s.shown) >= vision.Kept; {
		if at == nil {
			return errCrowded
		}
		old, next := at.Value.(*shown), at.Next()
		if old.users == 0 {
			s.order.Remove(at)
			delete(s.shown, old.hash)
		}
		at = next
	}
	p.at = s.order.PushBack(p)
	s.shown[p.hash] = p
	return nil
}

// take returns the rows of pictures for a session, which gives them back.
func (s *sight) take(pictures []frame.Picture) ([]*shown, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*shown, len(pictures))
	for i, p := range pictures {
		out[i] = s.shown[p.Hash]
		if out[i] == nil {
			return nil, errUnseen
		}
		if rows := s.model.Vision.Rows(); int(p.Count) != rows {
			return nil, fmt.Errorf("picture %d takes %d positions, its rows are %d", i, p.Count, rows)
		}
	}
	for _, p := range out {
		p.users++
		s.order.MoveToBack(p.at)
	}
	return out, nil
}

// give takes rows back.
func (s *sight) give(rows []*shown) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range rows {
		p.users--
	}
}

// See makes the rows of a picture for the sessions of a pipeline that begins here.
func (s *server) See(ctx context.Context, req *pb.SeeRequest) (*pb.SeeResponse, error) {
	p, err := s.control.find(req.GetEpoch(), req.GetPipeline())
	if err != nil {
		return nil, err
	}
	if peer, err := pki.PeerFromContext(ctx); err != nil || !s.control.holds(peer.NodeID) {
		return nil, status.Error(codes.PermissionDenied, "only the coordinator that holds the lease may show pictures")
	}
	switch {
	case p.machine == nil:
		return nil, status.Errorf(codes.FailedPrecondition, "the first stage of pipeline %d is on node %s", req.GetPipeline(), p.plan.Stages[0].Node)
	case len(req.GetHash()) != sha256.Size:
		return nil, status.Errorf(codes.InvalidArgument, "a hash of %d bytes", len(req.GetHash()))
	case len(req.GetFile()) > 0 && sha256.Sum256(req.GetFile()) != [32]byte(req.GetHash()):
		return nil, status.Error(codes.InvalidArgument, "the hash is not that of the file")
	}
	rows, err := s.sight.see(ctx, [32]byte(req.GetHash()), req.GetFile())
	switch {
	case err == nil:
		return &pb.SeeResponse{Rows: uint32(rows)}, nil
	case vision.Refused(err):
		return &pb.SeeResponse{Refused: err.Error()}, nil
	case errors.Is(err, errCrowded):
		return nil, status.Error(codes.ResourceExhausted, err.Error())
	case errors.Is(err, errNoSight):
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	case ctx.Err() != nil:
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	return nil, status.Error(codes.Internal, err.Error())
}

// taken are the pictures of a session, until its prompt has been computed.
type taken struct {
	attempt  uint32
	pictures []frame.Picture
	rows     []*shown
}

// look takes the rows of a session's pictures.
func (d *drive) look(open *frame.Open) error {
	if len(open.Pictures) == 0 {
		return nil
	}
	rows, err := d.shard.sight.take(open.Pictures)
	if err != nil {
		return err
	}
	d.taken[open.Slot] = taken{open.Attempt, open.Pictures, rows}
	return nil
}

// show gives a step the rows of pictures that it takes.
func (d *drive) show(f *frame.Frame) {
	for i := range f.Spans {
		span := &f.Spans[i]
		t, ok := d.taken[span.Slot]
		if !ok || t.attempt != span.Attempt {
			continue
		}
		for i, p := range t.pictures {
			f.AddRows(p, span, t.rows[i].rows, len(t.rows[i].rows)/int(p.Count))
		}
	}
}

// looked gives the rows of a session's pictures back.
func (d *drive) looked(slot frame.Slot, attempt uint32) {
	if t, ok := d.taken[slot]; ok && t.attempt == attempt {
		d.shard.sight.give(t.rows)
		delete(d.taken, slot)
	}
}
