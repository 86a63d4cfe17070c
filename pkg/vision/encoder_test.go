package vision_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/gguf"
	"github.com/shoal-llm/shoal/pkg/model"
	"github.com/shoal-llm/shoal/pkg/quant/formats"
	"github.com/shoal-llm/shoal/pkg/vision"
	"github.com/shoal-llm/shoal/pkg/vision/visiontest"
)

// file is a GGUF file as encoders read it.
type file struct{ *gguf.File }

func (f file) Meta() model.Meta { return metadata{f.File.Meta()} }

func (f file) Tensor(name string) (compute.Matrix, bool) {
	t, ok := f.File.Tensor(name)
	if !ok {
		return compute.Matrix{}, false
	}
	return compute.Matrix{Name: name, Format: t.Format, Rows: int(t.Rows()), Cols: int(t.Dims[0]), Data: t.Data}, true
}

type metadata struct{ gguf.Metadata }

func (m metadata) String(k string) (string, bool) {
	v, err := m.Metadata.String(k)
	return v, err == nil
}
func (m metadata) Uint64(k string) (uint64, bool) {
	v, err := m.Metadata.Uint64(k)
	return v, err == nil
}
func (m metadata) Bool(k string) (bool, bool)      { v, err := m.Metadata.Bool(k); return v, err == nil }
func (m metadata) Uint64s(string) ([]uint64, bool) { return nil, false }

func (m metadata) Float64(k string) (float64, bool) {
	v, err := m.Float32(k)
	return float64(v), err == nil
}

func (m metadata) Float64s(k string) (out []float64, ok bool) {
	v, err := m.Float32s(k)
	for _, x := range v {
		out = append(out, float64(x))
	}
	return out, err == nil
}

func open(t *testing.T, data []byte) (*vision.Encoder, error) {
	t.Helper()
	f, err := gguf.Parse(data, gguf.Options{Formats: formats.All()})
	if err != nil {
		t.Fatal(err)
	}
	plain, _ := formats.ByGGML(0)
	return vision.New(file{f}, plain)
}

// TestEncoder: rows are a function of the picture alone, one picture's differ from
// another's, and the end of the context ends the work.
func TestEncoder(t *testing.T) {
	const width = 48
	e, err := open(t, visiontest.File(width, 1, 1, nil))
	if err != nil {
		t.Fatal(err)
	}
	if e.Rows() != visiontest.Rows || e.Width() != width || e.Memory() < 4*vision.Kept*visiontest.Rows*width {
		t.Errorf("%d rows of %d, %d bytes", e.Rows(), e.Width(), e.Memory())
	}
	first, err := e.Encode(t.Context(), visiontest.Picture(1))
	if err != nil || len(first) != e.Rows()*e.Width() {
		t.Fatalf("%d values, %v", len(first), err)
	}
	again, err := e.Encode(t.Context(), visiontest.Picture(1))
	if err != nil || !slices.Equal(first, again) {
		t.Errorf("the same picture has other rows, %v", err)
	}
	other, err := e.Encode(t.Context(), visiontest.Picture(2))
	if err != nil || slices.Equal(first, other) {
		t.Errorf("another picture has the same rows, %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := e.Encode(ended, visiontest.Picture(1)); !errors.Is(err, context.Canceled) || vision.Refused(err) {
		t.Errorf("after the end: %v", err)
	}
	if _, err := e.Encode(t.Context(), []byte("no picture")); !vision.Refused(err) {
		t.Errorf("no picture: %v", err)
	}
}

// TestEncodersAreChecked: what makes no sense is refused by name.
func TestEncodersAreChecked(t *testing.T) {
	for says, change := range map[string]map[string]any{
		"projector of type":  {"clip.projector_type": "ldp"},
		"block_count":        {"clip.vision.block_count": nil},
		"image_size":         {"clip.vision.image_size": uint32(1 << 20)},
		"in patches of 15":   {"clip.vision.patch_size": uint32(15)},
		"for 3 heads":        {"clip.vision.attention.head_count": uint32(3)},
		"epsilon":            {"clip.vision.attention.layer_norm_epsilon": nil},
		"SiLU":               {"clip.use_silu": true},
		"image_mean":         {"clip.vision.image_mean": []float32{1, 2}},
		"standard deviation": {"clip.vision.image_std": []float32{1, 0, 1}},
		"v.blk.2.":           {"clip.vision.block_count": uint32(3)},
		"v.position_embd":    {"clip.vision.image_size": uint32(42)},
		"want 128 × 32":      {"clip.vision.feed_forward_length": uint32(128)},
	} {
		if _, err := open(t, visiontest.File(48, 1, 1, change)); !errors.Is(err, vision.ErrEncoder) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", says, err)
		}
	}
}
