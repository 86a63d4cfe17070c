package gguf

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/shoal-llm/shoal/internal/golden"
	"github.com/shoal-llm/shoal/pkg/gguf/gguftest"
	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/quant/formats"
)

func sameFormat(t Tensor) quant.Format                  { return t.Format }
func sameData(t Tensor, _ quant.Format) ([]byte, error) { return t.Data, nil }

// TestCopyOfRealFiles: a copy without changes describes itself as the file does,
// and holds the same bytes.
func TestCopyOfRealFiles(t *testing.T) {
	for _, name := range []string{"tiny-q4_0.gguf", "tiny-q8_0.gguf"} {
		data, err := os.ReadFile(filepath.Join(golden.Root(), "models", "tiny", name))
		if err != nil {
			t.Fatal(err)
		}
		f, err := Parse(data, Options{Formats: formats.All()})
		if err != nil {
			t.Fatal(err)
		}
		fileType, err := f.Meta().Uint32("general.file_type")
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := Copy(&out, f, Changes{FileType: fileType, Format: sameFormat, Encode: sameData}); err != nil {
			t.Fatal(err)
		}
		g, err := Parse(out.Bytes(), Options{Formats: formats.All()})
		if err != nil {
			t.Fatal(err)
		}
		if describe(t, f) != describe(t, g) {
			t.Errorf("%s: the copy says something else", name)
		}
	}
}

// TestCopyChangesFormats: tensors of other sizes find their places at the file's
// alignment; what cannot be is refused.
func TestCopyChangesFormats(t *testing.T) {
	f32, _ := formats.ByName("F32")
	f16, _ := formats.ByName("F16")
	f, err := Parse(gguftest.New().Align(64).KV("general.file_type", uint32(0)).KV("name", "it").
		Tensor("a", []uint64{3, 2}, f32.GGML, make([]byte, 24)).Tensor("b", []uint64{5}, f32.GGML, bytes.Repeat([]byte{7}, 20)).Bytes(),
		Options{Formats: formats.All()})
	if err != nil {
		t.Fatal(err)
	}
	half := func(t Tensor) quant.Format {
		if t.Name == "a" {
			return f16
		}
		return t.Format
	}
	var out bytes.Buffer
	halves := func(t Tensor, to quant.Format) ([]byte, error) {
		if to.GGML == f16.GGML {
			return bytes.Repeat([]byte{9}, 12), nil
		}
		return t.Data, nil
	}
	if err := Copy(&out, f, Changes{FileType: 1, Format: half, Encode: halves}); err != nil {
		t.Fatal(err)
	}
	g, err := Parse(out.Bytes(), Options{Formats: formats.All()})
	if err != nil {
		t.Fatal(err)
	}
	a, _ := g.Tensor("a")
	b, _ := g.Tensor("b")
	if a.Format.GGML != f16.GGML || !bytes.Equal(a.Data, bytes.Repeat([]byte{9}, 12)) || !bytes.Equal(b.Data, bytes.Repeat([]byte{7}, 20)) || b.Offset%64 != 0 {
		t.Errorf("%+v, %+v", a, b)
	}
	if n, err := g.Meta().Uint32("general.file_type"); n != 1 || err != nil {
		t.Errorf("file type %d, %v", n, err)
	}
	if err := Copy(&out, f, Changes{FileType: 1, Format: half, Encode: sameData}); err == nil {
		t.Error("data of another size are written")
	}
	broken := errors.New("broken")
	if err := Copy(&out, f, Changes{FileType: 1, Format: sameFormat, Encode: func(Tensor, quant.Format) ([]byte, error) { return nil, broken }}); !errors.Is(err, broken) {
		t.Errorf("an error of a tensor: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := Copy(&out, f, Changes{FileType: 1, Format: sameFormat, Encode: sameData}); !errors.Is(err, ErrNoCopy) {
		t.Errorf("a closed file: %v", err)
	}
}
