package shard

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/shoal-llm/shoal/pkg/frame"
	"github.com/shoal-llm/shoal/pkg/vision"
)

// fakeEncoder makes two rows of a value: the first byte of a file.
type fakeEncoder struct {
	made atomic.Int32
	gate chan struct{} // nil: it makes them at once
}

func (e *fakeEncoder) Rows() int      { return 2 }
func (e *fakeEncoder) Width() int     { return 1 }
func (e *fakeEncoder) Memory() uint64 { return 8 }

func (e *fakeEncoder) Encode(ctx context.Context, file []byte) ([]float32, error) {
	if e.gate != nil {
		select {
		case <-e.gate:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if file[0] == '?' {
		return nil, vision.ErrDamaged
	}
	e.made.Add(1)
	return []float32{float32(file[0]), 1}, nil
}

// newSeeing returns a sight of a model and whether that is closed.
func newSeeing(t *testing.T, e *fakeEncoder) (*sight, *atomic.Bool) {
	t.Helper()
	s, closed := newSight(), &atomic.Bool{}
	open := func() (*Model, error) {
		return &Model{Digest: [32]byte{1}, Vision: e, Close: func() error { closed.Store(true); return nil }}, nil
	}
	if err := s.open([32]byte{1}, open); err != nil {
		t.Fatal(err)
	}
	return s, closed
}

func hashed(text string) (hash [32]byte, file []byte) {
	return sha256.Sum256([]byte(text)), []byte(text)
}

// TestSightKeepsTheLatest: rows are made once and kept, those that sessions need
// longest.
func TestSightKeepsTheLatest(t *testing.T) {
	e := &fakeEncoder{}
	s, closed := newSeeing(t, e)
	see := func(text string) error {
		hash, file := hashed(text)
		n, err := s.see(t.Context(), hash, file)
		if err == nil && n != e.Rows() {
			t.Errorf("%d rows of %s", n, text)
		}
		return err
	}
	first, _ := hashed("first")
	if n, err := s.see(t.Context(), first, nil); n != 0 || err != nil {
		t.Errorf("unseen: %d rows, %v", n, err)
	}
	for range 2 {
		if err := see("first"); err != nil {
			t.Fatal(err)
		}
	}
	if n := e.made.Load(); n != 1 {
		t.Errorf("rows were made %d times", n)
	}
	held, err := s.take([]frame.Picture{{Count: 2, Hash: first}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.take([]frame.Picture{{Count: 3, Hash: first}}); err == nil || errors.Is(err, errUnseen) {
		t.Errorf("of other rows: %v", err)
	}
	for i := range 3 * vision.Kept {
		if err := see(fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	if s.find(first) == nil || len(s.shown) != vision.Kept {
		t.Errorf("%d pictures are kept, with the one that is needed: %t", len(s.shown), s.find(first) != nil)
	}
	old, _ := hashed("0")
	if _, err := s.take([]frame.Picture{{Count: 2, Hash: first}, {Count: 2, Hash: old}}); !errors.Is(err, errUnseen) {
		t.Errorf("what was seen long ago: %v", err)
	}
	s.give(held)
	var all []frame.Picture
	for hash := range s.shown {
		all = append(all, frame.Picture{Count: 2, Hash: hash})
	}
	taken, err := s.take(all)
	if err != nil {
		t.Fatal(err)
	}
	if err := see("one more"); !errors.Is(err, errCrowded) {
		t.Errorf("while all are needed: %v", err)
	}
	s.give(taken)
	if err := see("one more"); err != nil {
		t.Errorf("when they are not: %v", err)
	}
	if err := see("?"); !vision.Refused(err) {
		t.Errorf("a damaged picture: %v", err)
	}
	if err := s.close(); err != nil || !closed.Load() || len(s.shown) != 0 {
		t.Errorf("closed %t, %v, %d pictures are kept", closed.Load(), err, len(s.shown))
	}
	if err := see("first"); !errors.Is(err, errNoSight) {
		t.Errorf("without a model: %v", err)
	}
}

// TestSightTakesTurns: one picture is computed at a time, so many may wait, and nobody
// waits longer than he wants. A model is not closed under one.
func TestSightTakesTurns(t *testing.T) {
	e := &fakeEncoder{gate: make(chan struct{})}
	s, closed := newSeeing(t, e)
	ended, cancel := context.WithCancel(t.Context())
	results := make(chan error, maxLooking+1)
	for i := range maxLooking + 1 {
		hash, file := hashed(fmt.Sprint(i))
		go func() {
			_, err := s.see(ended, hash, file)
			results <- err
		}()
	}
	for { // one computes, the others wait
		s.mu.Lock()
		n := s.waiting
		s.mu.Unlock()
		if n == maxLooking {
			break
		}
	}
	hash, file := hashed("one too many")
	if _, err := s.see(t.Context(), hash, file); !errors.Is(err, errCrowded) {
		t.Errorf("one too many: %v", err)
	}
	shut := make(chan error, 1)
	go func() { shut <- s.close() }()
	if closed.Load() {
		t.Error("the model was closed while a picture was computed")
	}
	e.gate <- struct{}{}
	cancel()
	var outcomes []bool
	for range maxLooking + 1 {
		err := <-results
		if err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, errNoSight) {
			t.Errorf("%v", err)
		}
		outcomes = append(outcomes, err == nil)
	}
	if !slices.Contains(outcomes, true) {
		t.Error("no picture was computed")
	}
	if err := <-shut; err != nil || !closed.Load() {
		t.Errorf("closed %t, %v", closed.Load(), err)
	}
}
