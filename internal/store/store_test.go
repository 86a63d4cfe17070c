package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// content makes bytes that look like weights: the same for the same seed.
func content(n int, seed uint64) []byte {
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	b := make([]byte, n)
	r.Read(b)
	return b
}

func open(t *testing.T, dir string, o Options) *Store {
	t.Helper()
	s, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// describe makes a manifest of files that are cut every so many bytes.
func describe(source string, every int, sealed bool, files ...[]byte) *pb.Manifest {
	m := &pb.Manifest{Version: 1, Source: source}
	for i, data := range files {
		f := &pb.ManifestFile{Name: fmt.Sprint("part", i), Size: uint64(len(data))}
		for at := 0; at < len(data); at += every {
			piece := data[at:min(at+every, len(data))]
			f.Segments = append(f.Segments, uint32(len(piece)))
			if h := HashOf(piece); sealed {
				f.Hashes = append(f.Hashes, h[:]...)
			}
		}
		m.Files = append(m.Files, f)
	}
	return m
}

func add(t *testing.T, s *Store, m *pb.Manifest) *Model {
	t.Helper()
	encoded, err := Encode(m)
	if err != nil {
		t.Fatal(err)
	}
	out, err := s.Add(encoded)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// fill puts all segments of the files.
func fill(t *testing.T, m *Model, files ...[]byte) {
	t.Helper()
	for i, seg := range m.Segments() {
		if err := m.Put(i, files[seg.File][seg.Offset:][:seg.Size]); err != nil {
			t.Fatal(err)
		}
	}
}

func TestModelsComeBack(t *testing.T) {
	dir := t.TempDir()
	one, two := content(10_000, 1), content(3_000, 2)
	for _, sealed := range []bool{true, false} {
		source := fmt.Sprint("model-", sealed)
		m := add(t, open(t, dir, Options{}), describe(source, 777, sealed, one, two))
		if missing, n := m.Missing(m.All()); len(missing) != len(m.Segments()) && !sealed || n == 0 && !sealed {
			t.Errorf("%d segments with %d bytes are missing of a new model", len(missing), n)
		}
		fill(t, m, one, two)
		again, err := open(t, dir, Options{}).Find(source)
		if err != nil || again.ID != m.ID || again.Size() != 13_000 || again.Sealed() != sealed {
			t.Fatalf("found %+v, %v", again, err)
		}
		for i, want := range [][]byte{one, two} {
			if got, err := io.ReadAll(again.NewReader(i)); err != nil || !bytes.Equal(got, want) {
				t.Errorf("file %d comes back as %d bytes, %v", i, len(got), err)
			}
		}
		from, to := again.Covering(1, 700, 200) // of segments of 777
		if first := again.Segments()[from]; first.File != 1 || first.Offset != 0 || to-from != 2 {
			t.Errorf("bytes [700, 900) of file 1 are in segments [%d, %d)", from, to)
		}
	}
	// Models share what is the same.
	if n := open(t, dir, Options{}).Used(); n != 13_000 {
		t.Errorf("two models of the same bytes take %d bytes", n)
	}
}

// TestSegmentsAreWhatTheyShouldBe: bytes of another length or hash are refused.
func TestSegmentsAreWhatTheyShouldBe(t *testing.T) {
	data := content(2000, 3)
	m := add(t, open(t, t.TempDir(), Options{}), describe("m", 1000, true, data))
	wrong := bytes.Clone(data[:1000])
	wrong[500] ^= 1
	for _, bad := range [][]byte{wrong, data[:999], data[:1001], nil, data[1000:]} {
		if err := m.Put(0, bad); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%d bytes: %v", len(bad), err)
		}
	}
	if m.Has(0) {
		t.Error("a refused segment is there")
	}
	if _, err := m.Get(0); !errors.Is(err, ErrMissing) {
		t.Error(err)
	}
}

// TestBitFlipsAreNeverLoaded: of 1,000 models with one changed bit on the disk, none
// gives the changed segment; it is removed, and can be put again.
func TestBitFlipsAreNeverLoaded(t *testing.T) {
	dir := t.TempDir()
	data := content(64_000, 4)
	s := open(t, dir, Options{})
	r := rand.New(rand.NewPCG(1, 2))
	for _, sealed := range []bool{true, false} {
		m := add(t, s, describe("m", 4000, sealed, data))
		fill(t, m, data)
		loaded := 0
		for range 500 {
			at := r.IntN(len(data))
			i, _ := m.Covering(0, uint64(at), 1)
			h, _ := m.hash(i)
			path := filepath.Join(dir, filepath.FromSlash(segmentPath(h)))
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			b[at-int(m.Segments()[i].Offset)] ^= 1 << r.IntN(8)
			if err := os.WriteFile(path, b, 0o644); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadAll(m.NewReader(0)); !errors.Is(err, ErrCorrupt) {
				loaded++
			}
			if m.Has(i) {
				t.Fatal("a changed segment is still there")
			}
			seg := m.Segments()[i]
			if err := m.Put(i, data[seg.Offset:][:seg.Size]); err != nil {
				t.Fatal(err)
			}
		}
		if loaded > 0 {
			t.Errorf("%d of 500 models with a changed bit were loaded", loaded)
		}
	}
}

func TestVerifyFindsWhatChanged(t *testing.T) {
	dir := t.TempDir()
	data := content(10_000, 5)
	m := add(t, open(t, dir, Options{}), describe("m", 1000, true, data))
	fill(t, m, data)
	h, _ := m.hash(7)
	if err := os.Truncate(filepath.Join(dir, filepath.FromSlash(segmentPath(h))), 10); err != nil {
		t.Fatal(err)
	}
	var told int64
	bad, err := m.Verify(t.Context(), func(n int64) { told = n })
	if err != nil || len(bad) != 1 || bad[0] != 7 || told != 10_000 {
		t.Errorf("%v of %d bytes, %v", bad, told, err)
	}
	if missing, _ := m.Missing(m.All()); len(missing) != 1 || missing[0] != 7 {
		t.Errorf("missing afterwards: %v", missing)
	}
}

func TestBadManifests(t *testing.T) {
	data := content(3000, 6)
	good := func() *pb.Manifest { return describe("m", 1000, true, data, data) }
	s := open(t, t.TempDir(), Options{})
	for name, spoil := range map[string]func(m *pb.Manifest){
		"version":     func(m *pb.Manifest) { m.Version = 2 },
		"no file":     func(m *pb.Manifest) { m.Files = nil },
		"up":          func(m *pb.Manifest) { m.Files[0].Name = "../x" },
		"absolute":    func(m *pb.Manifest) { m.Files[0].Name = "/etc/x" },
		"backslash":   func(m *pb.Manifest) { m.Files[0].Name = `a\b` },
		"unclean":     func(m *pb.Manifest) { m.Files[0].Name = "a//b" },
		"twice":       func(m *pb.Manifest) { m.Files[0].Name = m.Files[1].Name },
		"control":     func(m *pb.Manifest) { m.Files[0].Name = "a\nb" },
		"empty":       func(m *pb.Manifest) { m.Files[0].Segments[0] = 0 },
		"large":       func(m *pb.Manifest) { m.Files[0].Segments[0] = MaxSegment + 1 },
		"sum":         func(m *pb.Manifest) { m.Files[0].Size++ },
		"hashes":      func(m *pb.Manifest) { m.Files[0].Hashes = m.Files[0].Hashes[1:] },
		"file's hash": func(m *pb.Manifest) { m.Files[0].Sha256 = []byte{1} },
	} {
		m := good()
		spoil(m)
		encoded, err := Encode(m)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Add(encoded); !errors.Is(err, ErrManifest) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := s.Add([]byte("no manifest")); !errors.Is(err, ErrManifest) {
		t.Error(err)
	}
	if len(s.Models()) != 0 {
		t.Error("a refused manifest is known")
	}
}

// TestHashesAreNoPaths: what names a file is 64 lower-case hexadecimal digits.
func TestHashesAreNoPaths(t *testing.T) {
	good := HashOf(nil).String()
	for _, bad := range []string{"", good[1:], good + "0", strings.ToUpper(good), "../../../../../../../../../../../../../../../../../../../../etc/x", "sha256:" + good, good[:63] + "/", good[:63] + "g"} {
		if _, err := ParseHash(bad); err == nil {
			t.Errorf("%q is taken for a hash", bad)
		}
	}
	if h, err := ParseHash(good); err != nil || h != HashOf(nil) {
		t.Error(h, err)
	}
}

func TestCut(t *testing.T) {
	got := Cut(10<<20, []uint64{100, 100, 5 << 20, 9 << 20, 20 << 20})
	want := []uint32{100, MaxSegment, 5<<20 - 100 - MaxSegment, MaxSegment, 1 << 20}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// TestQuotaEvictsTheOldest: what was used least recently makes room, and what is in
// use does not.
func TestQuotaEvictsTheOldest(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{Quota: 10_000})
	models := make([]*Model, 3)
	for i := range models {
		data := content(3000, uint64(10+i))
		models[i] = add(t, s, describe(fmt.Sprint("m", i), 1000, true, data))
		fill(t, models[i], data)
		for k := range models[i].Segments() { // as if it had been an hour apart
			h, _ := models[i].hash(k)
			at := time.Now().Add(time.Duration(i-10) * time.Hour)
			if err := os.Chtimes(filepath.Join(dir, filepath.FromSlash(segmentPath(h))), at, at); err != nil {
				t.Fatal(err)
			}
		}
	}
	release, err := models[0].Use()
	if err != nil {
		t.Fatal(err)
	}
	held := func() (out []int) {
		for _, m := range models {
			missing, _ := m.Missing(m.All())
			out = append(out, 3-len(missing))
		}
		return out
	}
	more := content(3000, 20)
	last := add(t, s, describe("last", 1000, true, more))
	fill(t, last, more)
	if got := held(); got[0] != 3 || got[1] != 1 || got[2] != 3 {
		t.Errorf("segments left %v: want all of the one in use, and the oldest of the others gone", got)
	}
	var f *FullError
	if err := s.CheckRoom(8000); !errors.As(err, &f) || f.Need != 8000 || f.Free != 7000 || f.Quota != 10_000 {
		t.Errorf("there is room for 8000 bytes: %v", err)
	}
	if err := s.CheckRoom(7000); err != nil {
		t.Error(err)
	}
	if _, err := s.Remove(models[0].ID); !errors.Is(err, ErrInUse) {
		t.Errorf("a model in use was removed: %v", err)
	}
	release()
	if freed, err := s.Remove(models[0].ID); err != nil || freed != 3000 {
		t.Errorf("%d bytes freed, %v", freed, err)
	}
	if _, err := s.Model(models[0].ID); !errors.Is(err, ErrNoModel) {
		t.Error(err)
	}
}

// TestSealing: once all bytes are there their hashes become the manifest's; a file
// that is not what its origin says is not sealed.
func TestSealing(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	data := content(5000, 30)
	sum := HashOf(data)
	wish := describe("m", 900, false, data)
	wish.Files[0].Sha256 = sum[:]
	m := add(t, s, wish)
	if _, err := m.Seal(); !errors.Is(err, ErrMissing) {
		t.Errorf("sealed with nothing there: %v", err)
	}
	fill(t, m, data)
	sealed, err := m.Seal()
	if err != nil || !sealed.Sealed() {
		t.Fatal(err)
	}
	if missing, _ := sealed.Missing(sealed.All()); len(missing) > 0 {
		t.Errorf("%d segments got lost", len(missing))
	}
	if all := s.Models(); len(all) != 1 || all[0].ID != sealed.ID {
		t.Errorf("%d models are known", len(all))
	}
	other := proto.Clone(wish).(*pb.Manifest)
	other.Source, other.Files[0].Sha256 = "other", make([]byte, 32)
	m = add(t, s, other)
	fill(t, m, data)
	if _, err := m.Seal(); !errors.Is(err, ErrCorrupt) {
		t.Errorf("another file was sealed: %v", err)
	}
}

// TestUnfinishedNotes: what a killed process left of the learned hashes spoils no
// other.
func TestUnfinishedNotes(t *testing.T) {
	dir := t.TempDir()
	data := content(3000, 40)
	m := add(t, open(t, dir, Options{}), describe("m", 1000, false, data))
	if err := m.Put(0, data[:1000]); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, modelsDir, m.ID.String(), "learned")
	f, err := os.OpenFile(name, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("1 0123abc"); err != nil {
		t.Fatal(err)
	}
	f.Close()
	again, err := open(t, dir, Options{}).Model(m.ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Put(2, data[2000:]); err != nil {
		t.Fatal(err)
	}
	last, err := open(t, dir, Options{}).Model(m.ID)
	if err != nil {
		t.Fatal(err)
	}
	if missing, _ := last.Missing(last.All()); fmt.Sprint(missing) != "[1]" {
		t.Errorf("missing %v", missing)
	}
}

// TestChangedNotesAreNone: a bit that changes in what the store has noted down of a
// model never makes other bytes of it: they are right, or missing.
func TestChangedNotesAreNone(t *testing.T) {
	dir := t.TempDir()
	data := content(8000, 45) // segments of one size, which could stand for each other
	r := rand.New(rand.NewPCG(5, 6))
	for _, sealed := range []bool{false, true} {
		m := add(t, open(t, dir, Options{}), describe("m", 1000, sealed, data))
		fill(t, m, data)
		for _, name := range []string{"learned", "manifest"} {
			path := filepath.Join(dir, modelsDir, m.ID.String(), name)
			text, err := os.ReadFile(path)
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			for range 250 {
				changed := bytes.Clone(text)
				changed[r.IntN(len(changed))] ^= 1 << r.IntN(8)
				if err := os.WriteFile(path, changed, 0o644); err != nil {
					t.Fatal(err)
				}
				again, err := open(t, dir, Options{}).Model(m.ID)
				if err != nil {
					continue // it is not known any more
				}
				for i, seg := range again.Segments() {
					if got, err := again.Get(i); err == nil && !bytes.Equal(got, data[seg.Offset:][:seg.Size]) {
						t.Fatalf("%s: segment %d is other bytes", name, i)
					}
				}
			}
			// Made known anew it is whole again.
			encoded, err := Encode(describe("m", 1000, sealed, data))
			if err != nil {
				t.Fatal(err)
			}
			if m, err = open(t, dir, Options{}).Add(encoded); err != nil {
				t.Fatal(err)
			}
			fill(t, m, data)
			if _, err := open(t, dir, Options{}).Model(m.ID); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestProcessesExclude: another process that fetches is waited for, and one that
// uses a model keeps it from being removed.
func TestProcessesExclude(t *testing.T) {
	if dir := os.Getenv("STORE_TEST_DIR"); dir != "" {
		holdForParent(t, dir)
		return
	}
	dir := t.TempDir()
	s := open(t, dir, Options{})
	m := add(t, s, describe("m", 1000, true, content(3000, 50)))
	child := exec.Command(os.Args[0], "-test.run", "^TestProcessesExclude$")
	child.Env = append(os.Environ(), "STORE_TEST_DIR="+dir)
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 4)); err != nil { // "held"
		t.Fatal(err)
	}
	if _, err := s.Remove(m.ID); !errors.Is(err, ErrInUse) {
		t.Errorf("removed while another process uses it: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 150*time.Millisecond)
	defer cancel()
	waited := false
	if _, err := m.Alone(ctx, func() { waited = true }); !errors.Is(err, context.DeadlineExceeded) || !waited {
		t.Errorf("two processes fetch at once: %v", err)
	}
	if err := child.Process.Kill(); err != nil { // a killed process holds nothing
		t.Fatal(err)
	}
	in.Close()
	_ = child.Wait()
	release, err := m.Alone(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	release()
	if _, err := s.Remove(m.ID); err != nil {
		t.Error(err)
	}
}

func holdForParent(t *testing.T, dir string) {
	s := open(t, dir, Options{})
	m, err := s.Find("m")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Use(); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Alone(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	fmt.Print("held")
	_, _ = io.Copy(io.Discard, os.Stdin)
}
