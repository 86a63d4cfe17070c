package cpu

import (
	"bufio"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/quant/formats"
)

// flagsOf returns the flags that the kernel keeps of the mapping that holds b.
func flagsOf(t *testing.T, b []byte) []string {
	t.Helper()
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Skip(err)
	}
	defer f.Close()
	at, inside := uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b)))), false
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var from, to uint64
		if n, _ := fmt.Sscanf(lines.Text(), "%x-%x ", &from, &to); n == 2 {
			inside = from <= at && at < to
		}
		if flags, ok := strings.CutPrefix(lines.Text(), "VmFlags:"); ok && inside {
			return strings.Fields(flags)
		}
	}
	t.Skip("the kernel tells no flags of mappings")
	return nil
}

// TestWeightsAskForHugePages: a matrix beyond a huge page asks for them, which
// raises the bandwidth of reading it.
func TestWeightsAskForHugePages(t *testing.T) {
	if _, err := os.Stat("/sys/kernel/mm/transparent_hugepage"); err != nil {
		t.Skip("the kernel has no transparent huge pages")
	}
	be := open(t, Config{Threads: 1})
	f, _ := formats.ByName("Q4_0")
	for _, c := range []struct {
		rows int
		want bool
	}{{16, false}, {4096, true}} {
		const cols = 2048
		row, err := f.RowBytes(cols)
		if err != nil {
			t.Fatal(err)
		}
		w, err := be.NewArena().Load(compute.Matrix{Name: "w", Format: f, Rows: c.rows, Cols: cols, Data: make([]byte, c.rows*row)})
		if err != nil {
			t.Fatal(err)
		}
		if got := slices.Contains(flagsOf(t, w.(*weight).data), "hg"); got != c.want {
			t.Errorf("%d rows ask for huge pages: %t", c.rows, got)
		}
	}
}
