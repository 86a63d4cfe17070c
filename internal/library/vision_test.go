package library

import (
	"encoding/binary"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/shoal-llm/shoal/internal/golden"
	"github.com/shoal-llm/shoal/models/tiny"
	"github.com/shoal-llm/shoal/pkg/compute/cpu"
	"github.com/shoal-llm/shoal/pkg/engine"
	"github.com/shoal-llm/shoal/pkg/frame"
	"github.com/shoal-llm/shoal/pkg/model"
	"github.com/shoal-llm/shoal/pkg/sample"
	"github.com/shoal-llm/shoal/pkg/vision"
	"github.com/shoal-llm/shoal/pkg/vision/visiontest"
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

// asked is a prompt with a picture and its answer, in the reference data.
type asked struct {
	Image  string
	IDs    []int32
	Logits golden.Tensor `json:"last_logits"`
	Greedy []int32
	Gaps   []float64 `json:"greedy_top2_gap"`
}

// TestFixturePictureAnswers: answers about pictures are those of the reference, from
// either kind of file; and with prompts cut into any chunks and layers over any stages
// they have the same bits.
func TestFixturePictureAnswers(t *testing.T) {
	dir := filepath.Join(golden.Dir(t), "llava")
	if !exists(filepath.Join(dir, "text-f16.gguf")) {
		t.Skip("these reference data have no LLaVA model")
	}
	var g struct{ Cases []asked }
	golden.JSON(t, "llava/golden.json", &g)
	if len(g.Cases) == 0 {
		t.Fatal("no cases")
	}
	for _, name := range []string{"model", "text-f16.gguf"} {
		m, err := Library{Dir: dir}.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		for _, c := range g.Cases {
			rows := picture(t, m, filepath.Join(dir, "images", c.Image))
			var first []float32
			for _, way := range []struct {
				stages, chunk int
				exact         bool
			}{{1, 64, true}, {1, 64, false}, {2, 64, false}, {2, 7, false}, {1, 1, false}} {
				logits, ids := answer(t, m, way.stages, way.chunk, way.exact, c.IDs, rows)
				switch {
				case way.exact:
					checkReference(t, name+" "+c.Image, c, logits, ids)
				case first == nil:
					first = logits
				case !slices.Equal(first, logits):
					t.Errorf("%s %s: %+v gives other bits", name, c.Image, way)
				}
			}
		}
	}
}

// picture returns the rows of a picture as they travel.
func picture(t *testing.T, m *Model, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	rows, err := m.Vision.Encode(t.Context(), data)
	if err != nil {
		t.Fatal(err)
	}
	var out []byte
	for _, v := range rows {
		out = binary.LittleEndian.AppendUint32(out, math.Float32bits(v))
	}
	return out
}

// answer computes a prompt, in which the placeholders are rows of a picture, and
// greedy ids behind it. It returns the logits of the prompt's end, too.
func answer(t *testing.T, m *Model, stages, chunk int, exact bool, ids []int32, rows []byte) (logits []float32, answer []int32) {
	t.Helper()
	var parts []*engine.Stage
	for i := range stages {
		be, err := cpu.Open(cpu.Config{Threads: 2, Reference: exact})
		if err != nil {
			t.Fatal(err)
		}
		defer be.Close()
		first, end := i*m.Spec.Layers/stages, (i+1)*m.Spec.Layers/stages
		st, err := engine.Open(be, m.Arch, m.Source, m.Spec, engine.Config{
			Epoch: 1, Stage: uint32(i), Part: model.Part{First: first, End: end, Embed: first == 0, Head: end == m.Spec.Layers},
			Pages: 16, Slots: 2, Rows: chunk, Context: 512,
		})
		if err != nil {
			t.Fatal(err)
		}
		parts = append(parts, st)
	}
	l := engine.NewLocal(parts...)
	defer l.Close()
	start := int32(slices.Index(ids, 508))
	shown := []frame.Picture{{Start: start, Count: int32(m.Vision.Rows())}}
	l.Rows = func([32]byte) []byte { return rows }
	open := &frame.Open{Attempt: 1, Pictures: shown}
	ops := []frame.Op{{Open: open}}
	for at := 0; at < len(ids); at += chunk {
		n := min(chunk, len(ids)-at)
		span := frame.Span{Attempt: 1, Start: int32(at), Tokens: ids[at : at+n]}
		if at+n == len(ids) {
			span.Output = frame.OutputLogits
		}
		r, err := l.Step(ops, []frame.Span{span})
		if err != nil {
			t.Fatal(err)
		}
		ops = nil
		if span.Output != frame.OutputNone {
			logits = slices.Clone(r.Sampled[0].Logits)
		}
	}
	again := &frame.Open{Slot: 1, Attempt: 2, Pictures: shown, Sampling: sample.Spec{MaxTokens: 24, IgnoreEOS: true}}
	for s, err := range l.Generate(t.Context(), again, ids) {
		if err != nil {
			t.Fatal(err)
		}
		answer = append(answer, s.IDs...)
	}
	return logits, answer
}

func checkReference(t *testing.T, what string, c asked, logits []float32, ids []int32) {
	t.Helper()
	const most = 1e-3
	worst := 0.0
	for i, want := range c.Logits.Float32(t) {
		worst = max(worst, math.Abs(float64(logits[i])-float64(want)))
	}
	if !(worst <= most) {
		t.Errorf("%s: logits are %g off, at most %g", what, worst, most)
	}
	for i, want := range c.Greedy {
		if c.Gaps[i] < 2*most {
			return
		}
		if ids[i] != want {
			t.Errorf("%s: id %d is %d, want %d", what, i, ids[i], want)
			return
		}
	}
}

// TestEncodersFindTheirModels: an encoder belongs to the model of its name, or to the
// only one beside it; one that does not fit is refused.
func TestEncodersFindTheirModels(t *testing.T) {
	text := tiny.Files()[0].Data
	m, err := Library{}.Open(Default)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	fits, narrow := visiontest.File(m.Spec.Hidden, 1, 1, nil), visiontest.File(m.Spec.Hidden/2, 1, 1, nil)
	for name, c := range map[string]struct {
		files map[string][]byte
		sees  bool
		err   error
	}{
		"alone":              {map[string][]byte{}, false, nil},
		"of its name":        {map[string][]byte{"mmproj-a.gguf": fits, "b.gguf": text, "mmproj-b.gguf": narrow}, true, nil},
		"the only one":       {map[string][]byte{"mmproj-f16.gguf": fits, "note.txt": nil}, true, nil},
		"one for two models": {map[string][]byte{"mmproj-f16.gguf": fits, "b.gguf": text}, false, nil},
		"two for one model":  {map[string][]byte{"mmproj-f16.gguf": fits, "mmproj-q8.gguf": fits}, false, nil},
		"of another width":   {map[string][]byte{"mmproj-a.gguf": narrow}, false, vision.ErrEncoder},
		"no encoder":         {map[string][]byte{"mmproj-a.gguf": text}, false, vision.ErrEncoder},
	} {
		dir := t.TempDir()
		c.files["a.gguf"] = text
		for file, data := range c.files {
			if err := os.WriteFile(filepath.Join(dir, file), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		got, err := Library{Dir: dir}.Open("a")
		if !errors.Is(err, c.err) {
			t.Errorf("%s: %v, want %v", name, err, c.err)
		}
		if err != nil {
			continue
		}
		if (got.Vision != nil) != c.sees || (got.Digest == m.Digest) == c.sees {
			t.Errorf("%s: encoder %v, digest %x", name, got.Vision, got.Digest[:4])
		}
		if err := got.Close(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
