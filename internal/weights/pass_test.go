package weights

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/internal/store"
)

// fetched brings all of tiny into a keeper's store, whose hashes are learnt as it comes,
// and returns what brings segments again and counts them.
func fetched(t *testing.T, k *Keeper) (m *store.Model, again func(context.Context, []int) error, brought *[]int) {
	t.Helper()
	m = learn(t, k, serveTiny(t))
	brought = &[]int{}
	again = func(ctx context.Context, segments []int) error {
		*brought = append(*brought, segments...)
		return k.Gather(ctx, m, Order{Segments: segments}, DefaultPatience())
	}
	if err := k.Gather(t.Context(), m, Order{Segments: m.All()}, DefaultPatience()); err != nil {
		t.Fatal(err)
	}
	return m, again, brought
}

// flip changes a bit of a file and leaves its times.
func flip(t *testing.T, name string, at int64) {
	t.Helper()
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	data[at] ^= 1
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(name, info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
}

// flipSegment changes a bit of a segment in the store.
func flipSegment(t *testing.T, k *Keeper, m *store.Model, i int) {
	t.Helper()
	h, ok := m.Known(i)
	if !ok {
		t.Fatalf("the hash of segment %d is unknown", i)
	}
	flip(t, filepath.Join(inStore(t, k).Dir(), "segments", h.String()[:2], h.String()), 0)
}

func standing(t *testing.T, p *Pass, want string) {
	t.Helper()
	got, err := p.Standing()
	if got != want {
		t.Fatalf("the model counts as %s (%v), want %s", got, err, want)
	}
}

// TestPassVerifies: what was learnt counts as verified after a pass and not before,
// however much of one there was; segments that came later do not count.
func TestPassVerifies(t *testing.T) {
	k := newKeeper(t, t.TempDir())
	m, again, _ := fetched(t, k)
	p := k.StoredPass(m, m.All(), again)
	standing(t, p, Unverified)
	if got, err := k.StandingOf(m); got != Unverified || err != nil {
		t.Fatal(got, err)
	}
	half := k.StoredPass(m, m.All()[:len(m.All())/2], again)
	if err := half.Run(t.Context(), Pace{}, nil); err != nil {
		t.Fatal(err)
	}
	standing(t, half, Verified)
	standing(t, p, Unverified)
	var last Progress
	if err := p.Run(t.Context(), Pace{Gentle: true}, func(got Progress) {
		if got.Done < last.Done || got.Total != m.Size() || got.Phase != PhaseVerify {
			t.Errorf("progress %+v after %+v", got, last)
		}
		last = got
	}); err != nil {
		t.Fatal(err)
	}
	if last.Done != m.Size() {
		t.Errorf("the pass ended at %d of %d bytes", last.Done, m.Size())
	}
	standing(t, p, Verified)
	if got, err := k.StandingOf(m); got != Verified || err != nil {
		t.Fatal(got, err)
	}
}

// TestPassFindsFlippedSegments: each segment of which a bit has changed is found, thrown
// away and fetched again, also in a model that counts as verified.
func TestPassFindsFlippedSegments(t *testing.T) {
	dir := t.TempDir()
	k := newKeeper(t, dir)
	m, again, brought := fetched(t, k)
	for round := range 2 {
		p := newKeeper(t, dir).StoredPass(m, m.All(), again)
		bad := []int{round, len(m.All()) / 2, len(m.All()) - 1}
		for _, i := range bad {
			flipSegment(t, k, m, i)
		}
		*brought = nil
		if err := p.Run(t.Context(), Pace{}, nil); err != nil {
			t.Fatal(err)
		}
		if fmt.Sprint(*brought) != fmt.Sprint(bad) {
			t.Errorf("segments %v were fetched again, %v had changed", *brought, bad)
		}
		standing(t, p, Verified)
	}
	for i, seg := range m.Segments() {
		data, err := m.Get(i)
		if err != nil || string(data) != string(tinyFile()[seg.Offset:seg.Offset+int64(seg.Size)]) {
			t.Fatalf("segment %d is not that of the origin: %v", i, err)
		}
	}
	flipSegment(t, k, m, 1)
	if err := newKeeper(t, dir).StoredPass(m, m.All(), nil).Run(t.Context(), Pace{}, nil); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("without a way to fetch it again: %v, want %v", err, store.ErrCorrupt)
	}
}

// TestPassGoesOn: a pass that was cut off, goes on where it was in the next process and
// counts for nothing before.
func TestPassGoesOn(t *testing.T) {
	dir := t.TempDir()
	k := newKeeper(t, dir)
	m, _, _ := fetched(t, k)
	ctx, cut := context.WithCancel(t.Context())
	p := k.StoredPass(m, m.All(), nil)
	at, before := int64(0), 0
	err := p.Run(ctx, Pace{Busy: func() bool {
		if at > m.Size()/2 {
			cut()
		}
		return false
	}}, func(g Progress) { at, before = g.Done, before+1 })
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	standing(t, p, Unverified)

	again := newKeeper(t, dir)
	same, err := inStore(t, again).Model(m.ID)
	if err != nil {
		t.Fatal(err)
	}
	reads := 0
	q := again.StoredPass(same, same.All(), nil)
	q.read = func(i int, into []byte) error { reads++; return same.Read(i, into) }
	if err := q.Run(t.Context(), Pace{}, nil); err != nil {
		t.Fatal(err)
	}
	if before == 0 || before+reads != len(same.All()) {
		t.Errorf("of %d segments %d were read before the pass was cut off and %d after", len(same.All()), before, reads)
	}
	standing(t, q, Verified)
	reads = 0
	if err := q.Run(t.Context(), Pace{}, nil); err != nil || reads != 0 {
		t.Errorf("%d segments were read again in the same process: %v", reads, err)
	}
	q.k = newKeeper(t, dir)
	if err := q.Run(t.Context(), Pace{}, nil); err != nil || reads != len(same.All()) {
		t.Errorf("%d of %d segments were read by a new pass: %v", reads, len(same.All()), err)
	}
}

func localTiny(t *testing.T, k *Keeper, name string) *Pass {
	t.Helper()
	m, err := library.Library{}.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	p, err := k.LocalPass(m)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestPassNamesDamage: a local file is held to the hashes that the first pass kept; what
// has changed is named by file and offset, in later processes too, until there is a good
// copy or somebody says that it is meant.
func TestPassNamesDamage(t *testing.T) {
	dir, name := t.TempDir(), filepath.Join(t.TempDir(), "tiny.gguf")
	if err := os.WriteFile(name, tinyFile(), 0o600); err != nil {
		t.Fatal(err)
	}
	p := localTiny(t, newKeeper(t, dir), name)
	standing(t, p, Unverified)
	if err := p.Run(t.Context(), Pace{}, nil); err != nil {
		t.Fatal(err)
	}
	standing(t, p, Verified)

	const inside = 100
	s := p.all[len(p.all)/2]
	flip(t, name, s.Offset+inside)
	p = localTiny(t, newKeeper(t, dir), name)
	for range 2 {
		err := p.Run(t.Context(), Pace{}, nil)
		if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), fmt.Sprintf("%s at offset %d ", name, s.Offset)) {
			t.Fatalf("a flipped bit at %d: %v", s.Offset+inside, err)
		}
		standing(t, p, Damaged)
	}
	flip(t, name, s.Offset+inside)
	if err := p.Run(t.Context(), Pace{}, nil); err != nil {
		t.Fatal(err)
	}
	standing(t, p, Verified)

	flip(t, name, s.Offset+inside)
	p = localTiny(t, newKeeper(t, dir), name)
	if err := p.Renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	standing(t, p, Unverified)
	if err := p.Run(t.Context(), Pace{}, nil); err != nil {
		t.Fatal(err)
	}
	standing(t, p, Verified)
}

// TestPassOfAnotherFile: a file that was written since is not verified before it is
// read again.
func TestPassOfAnotherFile(t *testing.T) {
	dir, name := t.TempDir(), filepath.Join(t.TempDir(), "tiny.gguf")
	if err := os.WriteFile(name, tinyFile(), 0o600); err != nil {
		t.Fatal(err)
	}
	p := localTiny(t, newKeeper(t, dir), name)
	if err := p.Run(t.Context(), Pace{}, nil); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	later := info.ModTime().Add(1e9)
	if err := os.Chtimes(name, later, later); err != nil {
		t.Fatal(err)
	}
	p = localTiny(t, newKeeper(t, dir), name)
	standing(t, p, Unverified)
	if err := p.Run(t.Context(), Pace{}, nil); err != nil {
		t.Fatal(err)
	}
	standing(t, p, Verified)
}

// TestPassOfPartOfTheProgram: what the program brings along has no files to read.
func TestPassOfPartOfTheProgram(t *testing.T) {
	m, err := library.Library{}.Open(library.Default)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if p, err := newKeeper(t, t.TempDir()).LocalPass(m); p != nil || err != nil {
		t.Errorf("a pass over it: %v, %v", p, err)
	}
}

// TestPassYields: nothing is read while something more urgent is done, and a pass that
// waits ends with its context.
func TestPassYields(t *testing.T) {
	k := newKeeper(t, t.TempDir())
	m, _, _ := fetched(t, k)
	p := k.StoredPass(m, m.All(), nil)
	read, asked := 0, 0
	p.read = func(i int, into []byte) error { read++; return m.Read(i, into) }
	ctx, cancel := context.WithCancel(t.Context())
	err := p.Run(ctx, Pace{Busy: func() bool {
		if asked++; asked == 3 {
			cancel()
		}
		return true
	}}, nil)
	if !errors.Is(err, context.Canceled) || read != 0 {
		t.Errorf("%v, after %d segments that were read beside more urgent work", err, read)
	}
	asked = 0
	if err := p.Run(t.Context(), Pace{Busy: func() bool {
		if asked++; asked < 3 && read > 0 {
			t.Errorf("%d segments were read while something more urgent was done", read)
		}
		return asked < 3
	}}, nil); err != nil || read != len(m.All()) {
		t.Errorf("%v, after %d of %d segments", err, read, len(m.All()))
	}
}
