package store

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestDiskFull: a full disk is an error that names the bytes needed, what was stored
// stays, and once there is room the rest follows.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("a small file system cannot be mounted here: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, content(600<<10, 60), 0o644); err != nil {
		t.Fatal(err)
	}
	s := open(t, filepath.Join(dir, "store"), Options{})
	data := content(800<<10, 61)
	m := add(t, s, describe("m", 64<<10, false, data))
	var f *FullError
	if err := s.CheckRoom(m.Size()); !errors.As(err, &f) || f.Need != m.Size() {
		t.Errorf("there is said to be room: %v", err)
	}
	stored := 0
	for i, seg := range m.Segments() {
		err := m.Put(i, data[seg.Offset:][:seg.Size])
		if errors.As(err, &f) {
			if f.Need <= 0 || f.Free >= f.Need {
				t.Errorf("%+v", f)
			}
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		stored++
	}
	if missing, _ := m.Missing(m.All()); stored == 0 || len(missing) != len(m.Segments())-stored {
		t.Errorf("%d stored, %d missing of %d", stored, len(missing), len(m.Segments()))
	}
	if left := s.list(tmpDir); len(left) > 0 {
		t.Errorf("%d unfinished files were left", len(left))
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	fill(t, m, data)
	if missing, _ := m.Missing(m.All()); len(missing) > 0 {
		t.Errorf("%d segments are missing after there was room", len(missing))
	}
}
