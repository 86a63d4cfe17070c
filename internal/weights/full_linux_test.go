package weights

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/shoal-llm/shoal/internal/store"
)

// TestDiskFillsUp is row R09: a disk that becomes full in the middle of a pull is an
// error that names the bytes needed; once there is room the rest comes, and nothing
// twice.
func TestDiskFillsUp(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=12m"); err != nil {
		t.Skipf("a small file system cannot be mounted here: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	ballast := filepath.Join(dir, "ballast")
	fill := sync.OnceFunc(func() {
		if err := os.WriteFile(ballast, make([]byte, 8<<20), 0o600); err != nil && !errors.Is(err, unix.ENOSPC) {
			t.Error(err)
		}
	})
	o := serveTiny(t)
	o.Limit(8 << 20)
	k := newKeeper(t, filepath.Join(dir, "store"))
	s := source(t, o.URL+"/tiny.gguf")
	_, err := k.Pull(t.Context(), s, func(p Progress) {
		if p.Done > p.Total/4 {
			fill()
		}
	})
	var full *store.FullError
	if !errors.As(err, &full) || full.Need <= 0 {
		t.Fatalf("on a full disk: %v", err)
	}
	if _, err := k.Pull(t.Context(), s, nil); !errors.As(err, &full) {
		t.Errorf("on a disk that is still full: %v", err)
	}
	sent := o.Sent()
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	m, err := k.Pull(t.Context(), s, nil)
	if err != nil {
		t.Fatal(err)
	}
	sameAsTiny(t, open(t, k, m))
	const most = 16 << 20
	if all := sent + o.Sent(); all > m.Size()+most {
		t.Errorf("%d bytes were sent of a file of %d", all, m.Size())
	}
}
