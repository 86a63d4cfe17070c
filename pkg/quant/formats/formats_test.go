package formats

import "testing"

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
