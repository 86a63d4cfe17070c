package coordinator

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/shoal-llm/shoal/internal/golden"
	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/gguf"
	"github.com/shoal-llm/shoal/pkg/quant/formats"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// toRound is a model of the reference data, small enough to be rounded often, and its
// folder.
func toRound(t *testing.T) (dir, name string) {
	return filepath.Join(golden.Dir(t), "models", "llama"), "model-f16"
}

// rounded opens it with weights rounded by a recipe.
func rounded(t *testing.T, recipe string) *library.Model {
	t.Helper()
	dir, name := toRound(t)
	m, err := library.Library{Dir: dir}.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	r, err := library.ParseRecipe(recipe)
	if err != nil {
		t.Fatal(err)
	}
	if m, err = m.Rounded(r, nil); err != nil {
		t.Fatal(err)
	}
	return m
}

// TestRoundedAsItIsLoaded: shards that round weights while they load them give the
// answer of a file that was rounded ahead, over any number of stages; the answer says
// the precision, and another recipe gives another answer and fingerprint.
func TestRoundedAsItIsLoaded(t *testing.T) {
	const recipe = "int4,embedding=int8,attention=int3,1.ffn_down=int5"
	origin, name := toRound(t)
	in, err := gguf.Open(filepath.Join(origin, name+".gguf"), gguf.Options{Formats: formats.All()})
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	var ahead bytes.Buffer
	r, _ := library.ParseRecipe(recipe)
	if err := library.Quantize(t.Context(), &ahead, in, r, nil, func(library.Quantized) {}); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "ahead.gguf"), ahead.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	ask := func(t *testing.T, rig *rig) *answer {
		t.Helper()
		a := rig.told(&pb.Generation{Input: &pb.Generation_Raw{Raw: "one two three"}, Sampling: &pb.Sampling{MaxTokens: 24, IgnoreEos: true}})
		if p := a.accepted.Precision; p != library.Adaptive && p != "int4" {
			t.Errorf("the answer's precision is %q", p)
		}
		return a
	}
	var want *answer
	t.Run("ahead", func(t *testing.T) {
		file, _ := newSeeing(t, dir, "ahead", nil, "a")
		want = ask(t, file)
	})
	for _, shards := range [][]string{{"a"}, {"a", "b", "c"}} {
		t.Run(fmt.Sprint(len(shards), " stages"), func(t *testing.T) {
			rig, _ := newServing(t, origin, rounded(t, recipe), nil, shards...)
			if got := ask(t, rig); !slices.Equal(got.ids, want.ids) {
				t.Errorf("%v, of the file %v", got.ids, want.ids)
			}
		})
	}
	t.Run("another", func(t *testing.T) {
		other, _ := newServing(t, origin, rounded(t, "int4"), nil, "a")
		if got := ask(t, other); slices.Equal(got.ids, want.ids) || got.accepted.Fingerprint == want.accepted.Fingerprint || got.accepted.Precision != "int4" {
			t.Errorf("%v, fingerprint %q, precision %s", got.ids, got.accepted.Fingerprint, got.accepted.Precision)
		}
	})
}

// TestPrecisionsArePlannedAndNamed: fewer bits are planned with fewer bytes; shards are
// told the recipe and the file's digest; a request for another precision is refused with
// what is served; int2 of a small model is warned about with every answer.
func TestPrecisionsArePlannedAndNamed(t *testing.T) {
	var was uint64
	for _, recipe := range []string{"int2", "int3", "int4", "int4,lmhead=int8", "int8"} {
		file := rounded(t, recipe)
		defer file.Close()
		m, err := NewModel(file, compute.KVClass{}, Default().Wishes)
		if err != nil {
			t.Fatal(err)
		}
		bytes := m.Facts.EmbedBytes + m.Facts.HeadBytes
		for _, l := range m.Facts.LayerBytes {
			bytes += l
		}
		if bytes <= was {
			t.Errorf("%s: %d bytes are planned, %d of fewer bits", recipe, bytes, was)
		}
		was = bytes
		told := m.proto()
		if told.GetRecipe() != recipe || !slices.Equal(told.GetDigest(), file.FileDigest[:]) || file.Digest == file.FileDigest {
			t.Errorf("%s: shards are told %v", recipe, told)
		}
		var p *problem
		if err := m.checkOptions(&pb.Generation{Precision: "int5"}); !errors.As(err, &p) || p.Param != "precision" || !strings.Contains(p.Message, m.Precision) {
			t.Errorf("%s: int5 is refused with %v", recipe, err)
		}
		if err := m.checkOptions(&pb.Generation{Precision: m.Precision}); err != nil {
			t.Errorf("%s: its own precision is refused: %v", recipe, err)
		}
		for component, precision := range m.Parts {
			wish := &pb.Generation{LayerPrecisions: map[string]string{component: precision}}
			if err := m.checkOptions(wish); err != nil {
				t.Errorf("%s: %s of its own: %v", recipe, component, err)
			}
			wish.LayerPrecisions[component] = "int5"
			if err := m.checkOptions(wish); !errors.As(err, &p) || p.Param != "layer_precisions" || !strings.Contains(p.Message, component+" "+precision) {
				t.Errorf("%s: int5 of %s: %v", recipe, component, err)
			}
		}
		if len(m.Parts) != len(library.Components()) {
			t.Errorf("%s: components %v", recipe, m.Parts)
		}
		if notes := m.warned(nil); (recipe == "int2") != (len(notes) == 1 && strings.Contains(notes[0], "int3")) {
			t.Errorf("%s: notes %q", recipe, notes)
		}
	}
}
