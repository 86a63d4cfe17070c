package library

import (
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/shoal-llm/shoal/internal/golden"
)

// seen is what the reference data say of a picture.
type seen struct {
	File     string
	Features golden.Tensor `json:"image_features"`
}

// TestFixturePictures: a picture's rows are those of the reference, whether the model
// is a folder of safetensors or a GGUF file with its encoder beside it, and the two
// have the same bits.
func TestFixturePictures(t *testing.T) {
	dir := filepath.Join(golden.Dir(t), "llava")
	if !exists(filepath.Join(dir, "text-f16.gguf")) {
		t.Skip("these reference data have no LLaVA model")
	}
	var g struct{ Images []seen }
	golden.JSON(t, "llava/golden.json", &g)
	var before [][]float32
	for _, name := range []string{"model", "text-f16.gguf"} {
		m, err := Library{Dir: dir}.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		if m.Vision == nil || m.Vision.Rows() != 16 || m.Vision.Width() != m.Spec.Hidden {
			t.Fatalf("%s: the encoder is %+v", name, m.Vision)
		}
		v, err := m.Vocab()
		if err != nil {
			t.Fatal(err)
		}
		if id := m.Placeholder(v); id != 508 {
			t.Errorf("%s: the placeholder is %d", name, id)
		}
		for i, img := range g.Images {
			data, err := os.ReadFile(filepath.Join(dir, img.File))
			if err != nil {
				t.Fatal(err)
			}
			got, err := m.Vision.Encode(t.Context(), data)
			if err != nil {
				t.Fatal(err)
			}
			worst := 0.0
			for j, want := range img.Features.Float32(t) {
				worst = max(worst, math.Abs(float64(got[j])-float64(want)))
			}
			t.Logf("%s %s: %.2g", name, img.File, worst)
			if !(worst <= 1e-3) {
				t.Errorf("%s, %s: %g off, at most 1e-3", name, img.File, worst)
			}
			if len(before) == len(g.Images) && !slices.Equal(before[i], got) {
				t.Errorf("%s: the folder and the GGUF file give other rows", img.File)
			} else if len(before) < len(g.Images) {
				before = append(before, got)
			}
		}
	}
}
