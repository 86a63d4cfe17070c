package cpu

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/quant/formats"
)

// TestClassFingerprints: the fingerprint of each format is the one of the class
// on every processor, build and architecture. TestOneClass compares the levels
// of one machine. Another fingerprint needs another name of the class.
func TestClassFingerprints(t *testing.T) {
	b, err := os.ReadFile("testdata/class.json")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	if err := json.Unmarshal(b, &want); err != nil {
		t.Fatal(err)
	}
	be := open(t, Config{Threads: 1})
	for _, f := range formats.All() {
		print, err := compute.SelfTest(be, []quant.Format{f})
		if err != nil {
			t.Fatal(err)
		}
		if got := hex.EncodeToString(print[:]); got != want[f.Name] {
			t.Errorf("%s has the fingerprint %q, the class %q", f.Name, got, want[f.Name])
		}
	}
}
