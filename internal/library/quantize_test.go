package library

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/shoal-llm/shoal/internal/golden"
	"github.com/shoal-llm/shoal/pkg/gguf"
	"github.com/shoal-llm/shoal/pkg/gguf/gguftest"
	"github.com/shoal-llm/shoal/pkg/quant/formats"
)

// TestQuantizedModelsOpen: fewer bits take fewer bytes and err more; the file is a
// model of that precision whose ends are finer, and nothing else has changed.
func TestQuantizedModelsOpen(t *testing.T) {
	in, err := gguf.Open(filepath.Join(golden.Root(), "models", "tiny", "tiny-q8_0.gguf"), gguf.Options{Formats: formats.All()})
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	was, lastError := int64(math.MaxInt64), -1.0
	for _, precision := range Precisions() {
		var out bytes.Buffer
		total := Quantized{}
		recipe, err := Uniform(precision)
		if err != nil {
			t.Fatal(err)
		}
		err = Quantize(t.Context(), &out, in, recipe, nil, func(q Quantized) {
			total.Error, total.Size = total.Error+q.Error, total.Size+q.Size
			if q.Finer {
				t.Errorf("%s: %s is %s", precision, q.Name, q.To.Name)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "model.gguf")
		if err := os.WriteFile(path, out.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		m, err := Library{}.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if m.Precision != precision || m.Size >= was || total.Error <= lastError {
			t.Errorf("%s: a model of %s, %d bytes after %d, error %g after %g", precision, m.Precision, m.Size, was, total.Error, lastError)
		}
		embedding, _ := m.Source.Tensor("token_embd.weight")
		if finer := map[bool]string{true: "int8", false: "int6"}[precision == "int8"]; embedding.Format.Precision != finer {
			t.Errorf("%s: an embedding of %s", precision, embedding.Format.Name)
		}
		was, lastError = m.Size, total.Error
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := Quantize(t.Context(), &bytes.Buffer{}, in, Recipe{}, nil, nil); !errors.Is(err, ErrPrecision) {
		t.Errorf("no precision: %v", err)
	}
	int4, _ := Uniform("int4")
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Quantize(ended, &bytes.Buffer{}, in, int4, nil, func(Quantized) {}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestQuantizeChoosesByRows: rows that are no whole blocks become the next finer
// format, and it is said; vectors and routers stay; weights that are not numbers
// are refused.
func TestQuantizeChoosesByRows(t *testing.T) {
	f32, _ := formats.ByName("F32")
	data := func(n int, v float32) (out []byte) {
		for range n {
			out = binary.LittleEndian.AppendUint32(out, math.Float32bits(v))
		}
		return out
	}
	open := func(v float32) *gguf.File {
		f, err := gguf.Parse(gguftest.New().
			Tensor("blk.0.wide.weight", []uint64{256, 2}, f32.GGML, data(512, v)).Tensor("blk.0.narrow.weight", []uint64{96, 2}, f32.GGML, data(192, 1)).
			Tensor("blk.0.odd.weight", []uint64{30, 2}, f32.GGML, data(60, 1)).Tensor("blk.0.norm.weight", []uint64{256}, f32.GGML, data(256, 1)).
			Tensor("blk.0.ffn_gate_inp.weight", []uint64{256, 8}, f32.GGML, data(2048, 1)).Tensor("output.weight", []uint64{256, 4}, f32.GGML, data(1024, 1)).Bytes(),
			gguf.Options{Formats: formats.All()})
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	type outcome struct {
		precision string
		finer     bool
	}
	got := map[string]outcome{}
	int3, _ := Uniform("int3")
	if err := Quantize(t.Context(), &bytes.Buffer{}, open(1), int3, nil, func(q Quantized) { got[q.Name] = outcome{q.To.Precision, q.Finer} }); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]outcome{
		"blk.0.wide.weight": {"int3", false}, "blk.0.narrow.weight": {"int4", true}, "blk.0.odd.weight": {"fp32", true},
		"blk.0.norm.weight": {"fp32", false}, "blk.0.ffn_gate_inp.weight": {"fp32", false}, "output.weight": {"int6", false},
	} {
		if got[name] != want {
			t.Errorf("%s became %+v, want %+v", name, got[name], want)
		}
	}
	if err := Quantize(t.Context(), &bytes.Buffer{}, open(float32(math.NaN())), int3, nil, func(Quantized) {}); err == nil {
		t.Error("weights that are not numbers are rounded")
	}
}
