package weights

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/internal/store"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// Verify says when the bytes of a model are read back.
type Verify string

// When bytes are read back.
const (
	VerifyOff        Verify = "off"        // only as they are loaded
	VerifyBackground Verify = "background" // besides, all of them while the model serves
	VerifyRequire    Verify = "require"    // all of them before it is loaded
)

// ParseVerify reads off, background or require.
func ParseVerify(text string) (Verify, error) {
	switch v := Verify(text); v {
	case VerifyOff, VerifyBackground, VerifyRequire:
		return v, nil
	}
	return "", fmt.Errorf("%q: want off, background or require", text)
}

// What is known of the bytes of a model on this machine.
const (
	Unverified = "unverified" // not all of them have been read back
	Verified   = "verified"   // all were what they are to be
	Damaged    = "damaged"    // of a local file: some are not what they had been
)

// PhaseVerify is what progress says while bytes are read back.
const PhaseVerify = "verify"

// ErrDamaged says that bytes of a file of this machine are not what they had been.
var ErrDamaged = errors.New("the file is damaged")

// How a pass in the background yields.
const (
	passShare = 4               // of its time it works one part
	passWait  = 5 * time.Second // that it waits for a pause of what is more urgent, for each segment
	passLook  = 50 * time.Millisecond
)

// Pace says how a pass gets on beside other work.
type Pace struct {
	// Gentle has it rest for three quarters of its time.
	Gentle bool
	// Busy reports whether something more urgent is being done: the pass waits, for five
	// seconds at most with each segment. Nil: never.
	Busy func() bool
}

// Pass reads back bytes of a model and holds them to what they are to be. It is used by
// one goroutine.
type Pass struct {
	k        *Keeper
	name     string
	checks   *store.Checks
	stamp    string // of local files: their sizes and times
	segments []int
	all      []store.Segment
	files    []*pb.ManifestFile
	read     func(i int, into []byte) error // checks the hash, if it knows it
	known    func(i int) (store.Hash, bool)
	bring    func(ctx context.Context, segments []int) error // nil: of a local file nothing can be brought
	path     string                                          // of a local file; empty: it is in the store
}

// StoredPass returns a pass over segments of a model of the store. What has changed
// there is thrown away and brought by bring, as Open has it; nil: it stays away.
func (k *Keeper) StoredPass(m *store.Model, segments []int, bring func(ctx context.Context, segments []int) error) *Pass {
	segments = slices.Clone(segments)
	slices.Sort(segments)
	return &Pass{
		k: k, name: NameOf(m), checks: m.Checks(), segments: slices.Compact(segments), all: m.Segments(), files: m.Manifest.Files,
		read: m.Read, known: m.Known, bring: bring,
	}
}

// LocalPass returns a pass over all bytes of a model whose files are this machine's
// own. The first one keeps their hashes, others hold them to those. A model that the
// program brings along has no files, and no pass: nil.
func (k *Keeper) LocalPass(m *library.Model) (*Pass, error) {
	encoded, err := k.Lend(m)
	if err != nil || encoded == nil {
		return nil, err
	}
	manifest, segments, err := store.Decode(encoded)
	if err != nil {
		return nil, err
	}
	k.mu.Lock()
	l := k.lent[store.HashOf(encoded)]
	k.mu.Unlock()
	if l == nil {
		return nil, fmt.Errorf("%s: %w", m.Path, fs.ErrClosed)
	}
	path, err := filepath.Abs(m.Path)
	if err != nil {
		return nil, err
	}
	s, err := k.Store()
	if err != nil {
		return nil, fmt.Errorf("keep the hashes of %s: %w", path, err)
	}
	p := &Pass{k: k, name: m.Name, all: segments, files: manifest.Files, path: path}
	for i := range segments {
		p.segments = append(p.segments, i)
	}
	if p.checks, err = s.LentChecks(path, encoded); err != nil {
		return nil, err
	}
	var stamp strings.Builder
	for i, f := range l.files {
		info, err := f.Stat()
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&stamp, "%s %d %d\n", manifest.Files[i].Name, info.Size(), info.ModTime().UnixNano())
	}
	p.stamp = stamp.String()
	p.read = func(i int, into []byte) error {
		s := segments[i]
		if _, err := l.files[s.File].ReadAt(into, s.Offset); err != nil {
			return fmt.Errorf("read %s at %d: %w", manifest.Files[s.File].Name, s.Offset, err)
		}
		return nil
	}
	p.known = func(int) (store.Hash, bool) { return store.Hash{}, false }
	return p, nil
}

// Run makes the pass, or goes on with one that did not end. What was read since the
// keeper was made is not read again, here or in another process. What is not through
// when ctx ends is gone on with the next time. Report may be nil. An error that wraps
// ErrDamaged names the file, the offset and what to do.
func (p *Pass) Run(ctx context.Context, pace Pace, report func(Progress)) error {
	if report == nil {
		report = func(Progress) {}
	}
	total := int64(0)
	for _, i := range p.segments {
		total += int64(p.all[i].Size)
	}
	release, err := p.checks.Alone(ctx, func() { report(Progress{Phase: PhaseVerify, Total: total, Note: "another process verifies it"}) })
	if err != nil {
		return err
	}
	defer release()
	read, err := p.checks.Begin(p.stamp, p.k.began)
	if err != nil {
		return err
	}
	checked, err := p.checks.Checked()
	if err != nil {
		return err
	}
	damaged, done, speed := map[int]store.Hash{}, int64(0), rate{}
	buf := make([]byte, store.MaxSegment)
	for _, i := range p.segments {
		want, kept := p.wanted(i, checked)
		if h, ok := read[i]; !ok || !kept || h != want { // else this pass, or one beside it, has read it
			if err := pace.yield(ctx); err != nil {
				return err
			}
			at := time.Now()
			h, err := p.segment(ctx, i, buf[:p.all[i].Size])
			if err != nil {
				return err
			}
			if p.path != "" && kept && h != want {
				damaged[i] = want
				p.k.cfg.Log.Error("bytes of a file have changed since they were hashed", "file", p.place(i), "offset", p.all[i].Offset, "bytes", p.all[i].Size)
			} else if err := p.checks.Read(i, h, checked[i] == h); err != nil {
				return err
			}
			if err := pace.rest(ctx, time.Since(at)); err != nil {
				return err
			}
		}
		done += int64(p.all[i].Size)
		report(Progress{Phase: PhaseVerify, Done: done, Total: total, Rate: speed.of(time.Now(), done)})
	}
	if err := p.checks.End(p.stamp, damaged); err != nil {
		return err
	}
	return p.damage(damaged)
}

// wanted returns the hash that a segment is to have, if anything says so.
func (p *Pass) wanted(i int, checked map[int]store.Hash) (store.Hash, bool) {
	if p.path == "" {
		return p.known(i)
	}
	h, ok := checked[i]
	return h, ok
}

// segment reads a segment. One of the store that has changed is brought anew.
func (p *Pass) segment(ctx context.Context, i int, into []byte) (store.Hash, error) {
	err := p.read(i, into)
	if p.path == "" && (errors.Is(err, store.ErrCorrupt) || errors.Is(err, store.ErrMissing)) {
		p.k.cfg.Log.Warn("a segment of the store has changed or is gone, and is fetched again", "model", p.name, "file", p.place(i), "offset", p.all[i].Offset, "err", err)
		if p.bring == nil {
			return store.Hash{}, err
		}
		before, had := p.known(i)
		if err := p.bring(ctx, []int{i}); err != nil {
			return store.Hash{}, err
		}
		if now, _ := p.known(i); had && now != before {
			return store.Hash{}, fmt.Errorf("%w: %s at offset %d came with other bytes than the first time: one of the two is wrong; remove the model with `shoal rm %s` and pull it again", store.ErrCorrupt, p.place(i), p.all[i].Offset, p.name)
		}
		err = p.read(i, into)
	}
	if err != nil {
		return store.Hash{}, err
	}
	return store.HashOf(into), nil
}

// place names the file of a segment: its path, or its name in the store.
func (p *Pass) place(i int) string {
	name := p.files[p.all[i].File].Name
	switch {
	case p.path == "":
		return name
	case filepath.Base(p.path) == name:
		return p.path
	case len(p.files) > 1 && strings.HasSuffix(p.path, ".gguf"):
		return filepath.Join(filepath.Dir(p.path), name)
	}
	return filepath.Join(p.path, name)
}

// damage is the error that names segments of a local file.
func (p *Pass) damage(damaged map[int]store.Hash) error {
	if len(damaged) == 0 {
		return nil
	}
	var places []string
	for i := range p.all { // in order
		if _, ok := damaged[i]; !ok {
			continue
		}
		const most = 8
		if len(places) == most {
			places = append(places, fmt.Sprintf("and %d more", len(damaged)-most))
			break
		}
		places = append(places, fmt.Sprintf("%s at offset %d (%d bytes)", p.place(i), p.all[i].Offset, p.all[i].Size))
	}
	return fmt.Errorf("%w: what had been hashed is not there any more: %s; put a good copy in its place, or, if the file was changed on purpose, say so with `shoal verify --renew %s`",
		ErrDamaged, strings.Join(places, ", "), p.path)
}

// Standing says what is known of the bytes by now: Unverified, Verified or Damaged. The
// error of the last names where.
func (p *Pass) Standing() (string, error) {
	damaged, err := p.checks.Damaged()
	if err != nil {
		return Unverified, err
	}
	if len(damaged) > 0 {
		return Damaged, p.damage(damaged)
	}
	checked, err := p.checks.Checked()
	if err != nil {
		return Unverified, err
	}
	if p.path != "" && !p.checks.Done(p.stamp) {
		return Unverified, nil
	}
	for _, i := range p.segments {
		if want, ok := p.wanted(i, checked); !ok || checked[i] != want {
			return Unverified, nil
		}
	}
	return Verified, nil
}

// Renew forgets what earlier passes have kept: the next one is the first.
func (p *Pass) Renew(ctx context.Context) error {
	release, err := p.checks.Alone(ctx, nil)
	if err != nil {
		return err
	}
	defer release()
	return p.checks.Forget()
}

// StandingOf says what is known of the bytes of a model of the store, as far as they are
// here. Those of which an origin or a pull has said the hashes beforehand are held to
// them from the first one on.
func (k *Keeper) StandingOf(m *store.Model) (string, error) {
	missing, _ := m.Missing(m.All())
	here := slices.DeleteFunc(m.All(), func(i int) bool { _, gone := slices.BinarySearch(missing, i); return gone })
	switch {
	case len(here) == 0:
		return Unverified, nil
	case m.Sealed():
		return Verified, nil
	}
	return k.StoredPass(m, here, nil).Standing()
}

// ReadBack reads all segments of a model that are in the store, notes those that are what
// they are to be, and returns the others, which are removed. Report, if there is one,
// hears after each how many bytes were read.
func (k *Keeper) ReadBack(ctx context.Context, m *store.Model, report func(done int64)) (bad []int, err error) {
	checks := m.Checks()
	release, err := checks.Alone(ctx, nil)
	if err != nil {
		return nil, err
	}
	defer release()
	checked, err := checks.Checked()
	if err != nil {
		return nil, err
	}
	bad, err = m.Verify(ctx, report)
	if err != nil {
		return bad, err
	}
	for _, i := range m.All() {
		if h, ok := m.Known(i); ok && m.Has(i) && checked[i] != h {
			if err := checks.Note(i, h); err != nil {
				return bad, err
			}
		}
	}
	return bad, nil
}

// yield waits while something more urgent is done.
func (p Pace) yield(ctx context.Context) error {
	for end := time.Now().Add(passWait); p.Busy != nil && p.Busy() && time.Now().Before(end); {
		if err := pause(ctx, passLook); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// rest leaves the disk and a processor to others after some work.
func (p Pace) rest(ctx context.Context, worked time.Duration) error {
	if !p.Gentle {
		return nil
	}
	return pause(ctx, (passShare-1)*worked)
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
