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

	"github.com/google/go-cmp/cmp"

	"github.com/shoal-llm/shoal/internal/golden"
	"github.com/shoal-llm/shoal/pkg/compute"
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

// TestRoundedAsReadIsRoundedAhead: matrices that are rounded as they are read have the
// bytes of a file that was rounded ahead, and take what the footprint says; the float32
// values that are felt are theirs.
func TestRoundedAsReadIsRoundedAhead(t *testing.T) {
	const recipe = "int4,attention=int3,0.ffn_down=int6,lmhead=int8"
	path := filepath.Join(golden.Dir(t), "models", "llama", "model-f16.gguf")
	in, err := gguf.Open(path, gguf.Options{Formats: formats.All()})
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	r, err := ParseRecipe(recipe)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := Quantize(t.Context(), &out, in, r, nil, func(Quantized) {}); err != nil {
		t.Fatal(err)
	}
	ahead := filepath.Join(t.TempDir(), "ahead.gguf")
	if err := os.WriteFile(ahead, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := Library{}.Open(ahead)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	m, err := Library{}.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	read, err := m.Rounded(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	felt, err := m.Felt(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if file.Precision != Adaptive || read.Precision != Adaptive || read.Digest == m.Digest || read.FileDigest != m.Digest {
		t.Errorf("precisions %s and %s", file.Precision, read.Precision)
	}
	want, err := file.Footprint(compute.KVClass{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := read.Footprint(compute.KVClass{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the file (-) and what is read (+) take\n%s", diff)
	}
	for _, info := range in.Tensors() {
		a, _ := file.Source.Tensor(info.Name)
		b, _ := read.Source.Tensor(info.Name)
		if a.Format.Name != b.Format.Name || !bytes.Equal(a.Data, b.Data) {
			t.Errorf("%s: %s of %d bytes in the file, %s of %d as it is read", info.Name, a.Format.Name, len(a.Data), b.Format.Name, len(b.Data))
		}
		c, _ := felt.Source.Tensor(info.Name)
		if !bytes.Equal(c.Data, widen(a.Format, a.Data, a.Rows*a.Cols)) {
			t.Errorf("%s: the float32 values are others", info.Name)
		}
	}
}

// TestImportanceMovesErrors: columns that matter are rounded closer, at the cost of the
// others.
func TestImportanceMovesErrors(t *testing.T) {
	const cols, rows = 256, 8
	f32, _ := formats.ByName("F32")
	var data []byte
	for i := range cols * rows {
		data = binary.LittleEndian.AppendUint32(data, math.Float32bits(float32(math.Sin(float64(i*i)))))
	}
	d := description{name: "blk.0.attn_q.weight", format: f32, rows: rows, cols: cols, size: uint64(len(data))}
	importance := make([]float32, cols)
	for i := range importance {
		importance[i] = 0.01
		if i%8 == 0 {
			importance[i] = 10
		}
	}
	for _, precision := range []string{"int4", "int3", "int2"} {
		to, _ := encoderOf(precision, cols)
		errorOf := func(importance []float32) (heavy float64) {
			packed, err := round(t.Context(), nil, d, data, to, importance, &Quantized{})
			if err != nil {
				t.Fatal(err)
			}
			back := make([]float32, cols*rows)
			to.Decode(back, packed)
			for i := 0; i < len(back); i += 8 {
				e := float64(back[i]) - math.Sin(float64(i*i))
				heavy += e * e
			}
			return heavy
		}
		if weighted, plain := errorOf(importance), errorOf(nil); weighted > 0.7*plain {
			t.Errorf("%s: errors of columns that matter are %g, without weights %g", precision, weighted, plain)
		}
	}
}
