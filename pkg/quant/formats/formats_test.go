package formats

import (
	"testing"

	"github.com/shoal-llm/shoal/internal/golden"
)

// TestFixtureFormats names the formats of the reference data that this build
// does not read; the others are tested in their folders.
func TestFixtureFormats(t *testing.T) {
	var manifest struct {
		Formats []struct {
			Type string `json:"type"`
		} `json:"formats"`
	}
	golden.JSON(t, "quants/manifest.json", &manifest)
	if len(manifest.Formats) == 0 {
		t.Fatal("the manifest lists no formats")
	}
	for _, f := range manifest.Formats {
		t.Run(f.Type, func(t *testing.T) {
			format, ok := ByName(f.Type)
			if !ok {
				t.Skipf("not built yet: weight format %s", f.Type)
			}
			if format.CPU == nil {
				t.Errorf("%s has no CPU kernels", f.Type)
			}
		})
	}
}

func TestLookups(t *testing.T) {
	seenID, seenName := map[uint32]bool{}, map[string]bool{}
	for _, f := range All() {
		if seenID[f.GGML] || seenName[f.Name] {
			t.Errorf("%s (%d) is listed twice", f.Name, f.GGML)
		}
		seenID[f.GGML], seenName[f.Name] = true, true
		if got, ok := ByGGML(f.GGML); !ok || got.Name != f.Name {
			t.Errorf("ByGGML(%d) = %q, %v; want %q", f.GGML, got.Name, ok, f.Name)
		}
		if got, ok := ByName(f.Name); !ok || got.GGML != f.GGML {
			t.Errorf("ByName(%q) = %d, %v; want %d", f.Name, got.GGML, ok, f.GGML)
		}
		if f.Precision == "" || f.Decode == nil {
			t.Errorf("%s lacks a precision class or a decoder", f.Name)
		}
	}
	if f, ok := ByGGML(255); ok {
		t.Errorf("ByGGML(255) = %q, want none", f.Name)
	}
	if f, ok := ByName("q4_0"); ok {
		t.Errorf("ByName is not exact: found %q", f.Name)
	}
}
