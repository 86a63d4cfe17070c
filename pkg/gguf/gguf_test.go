package gguf

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/shoal-llm/shoal/internal/golden"
	"github.com/shoal-llm/shoal/pkg/gguf/gguftest"
	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/quant/formats"
)

// TestRealFiles compares keys, values, tensors and their bytes with what the
// reference reader reads (testdata/README.md).
func TestRealFiles(t *testing.T) {
	tiny, fixtures := filepath.Join("models", "tiny"), filepath.Join("testdata", "fixtures")
	for name, path := range map[string]string{
		"tiny-q4_0.gguf":       filepath.Join(tiny, "tiny-q4_0.gguf"),
		"tiny-q8_0.gguf":       filepath.Join(tiny, "tiny-q8_0.gguf"),
		"llama-Q4_0.gguf":      filepath.Join(fixtures, "quant_models", "llama-Q4_0.gguf"),
		"llama-Q6_K.gguf":      filepath.Join(fixtures, "quant_models", "llama-Q6_K.gguf"),
		"llama-Q8_0.gguf":      filepath.Join(fixtures, "quant_models", "llama-Q8_0.gguf"),
		"llama-f16.gguf":       filepath.Join(fixtures, "models", "llama", "model-f16.gguf"),
		"llama3_rope-f16.gguf": filepath.Join(fixtures, "models", "llama3_rope", "model-f16.gguf"),
	} {
		t.Run(name, func(t *testing.T) {
			want, err := os.ReadFile(filepath.Join("testdata", name+".txt"))
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(golden.Root(), path)
			f, err := Open(path, Options{Formats: formats.All()})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), describe(t, f)); diff != "" {
				t.Errorf("the reference reader (-) and this one (+) differ:\n%s", diff)
			}
			if info, err := os.Stat(path); err != nil || f.Size() != info.Size() || f.Path() != path {
				t.Errorf("Size %d, Path %q (%v)", f.Size(), f.Path(), err)
			}
			if err := errors.Join(f.Close(), f.Close()); err != nil {
				t.Errorf("Close: %v", err)
			}
		})
	}
}

// describe prints a file as testdata/describe.py does, by the getters.
func describe(t *testing.T, f *File) string {
	t.Helper()
	var out strings.Builder
	for _, key := range f.Meta().Keys() {
		fmt.Fprintf(&out, "kv %s %s\n", key, describeValue(t, f.Meta(), key))
	}
	for _, tensor := range f.Tensors() {
		if found, ok := f.Tensor(tensor.Name); !ok || found.Offset != tensor.Offset {
			t.Errorf("Tensor(%q) finds %d, %v", tensor.Name, found.Offset, ok)
		}
		dims := strings.ReplaceAll(strings.Trim(fmt.Sprint(tensor.Dims), "[]"), " ", "x")
		fmt.Fprintf(&out, "tensor %s %s %s %d %d %s\n",
			tensor.Name, tensor.Format.Name, dims, tensor.Offset, tensor.Size, digest(tensor.Data))
	}
	return out.String()
}

func describeValue(t *testing.T, m Metadata, key string) string {
	t.Helper()
	v := m.values[key]
	name := kindNames[v.kind]
	var err error
	var text string
	switch v.kind {
	case kindArray:
		return describeArray(t, m, key, v)
	case kindString:
		s, serr := m.String(key)
		err, text = serr, fmt.Sprintf("%d %s", len(s), digest([]byte(s)))
	case kindFloat32:
		x, ferr := m.Float32(key)
		err, text = ferr, fmt.Sprintf("%08x", math.Float32bits(x))
	case kindBool:
		b, berr := m.Bool(key)
		err, text = berr, fmt.Sprint(b)
	case kindUint64:
		n, uerr := m.Uint64(key)
		err, text = uerr, fmt.Sprint(n)
	case kindInt8, kindInt16, kindInt32:
		n, ierr := m.Int32(key)
		err, text = ierr, fmt.Sprint(n)
	default:
		n, uerr := m.Uint32(key)
		err, text = uerr, fmt.Sprint(n)
	}
	if err != nil {
		t.Errorf("%s: %v", key, err)
	}
	return name + " " + text
}

func describeArray(t *testing.T, m Metadata, key string, v value) string {
	t.Helper()
	var raw []byte
	var n int
	switch v.elem {
	case kindString:
		list, err := m.Strings(key)
		if err != nil {
			t.Error(err)
		}
		for _, s := range list {
			raw = append(raw, gguftest.Text(s)...)
		}
		n = len(list)
	case kindFloat32:
		list, err := m.Float32s(key)
		if err != nil {
			t.Error(err)
		}
		for _, x := range list {
			raw = le.AppendUint32(raw, math.Float32bits(x))
		}
		n = len(list)
	default:
		list, err := m.Int32s(key)
		if err != nil {
			t.Error(err)
		}
		for _, x := range list {
			raw = append(raw, le.AppendUint64(nil, uint64(int64(x)))[:v.elem.size()]...)
		}
		n = len(list)
	}
	if got, err := m.Len(key); err != nil || got != n {
		t.Errorf("Len(%q) = %d, %v; want %d", key, got, err, n)
	}
	return fmt.Sprintf("array %s %d %s", kindNames[v.elem], n, digest(raw))
}

func digest(b []byte) string { return fmt.Sprintf("%x", sha256.Sum256(b))[:16] }

func TestBuiltFile(t *testing.T) {
	weights := bytes.Repeat([]byte{1, 2, 3, 4}, 24)
	for _, version := range []uint32{2, 3} {
		data := gguftest.New().Version(version).Align(64).
			Tensor("a", []uint64{3, 2, 4, 1}, f32, weights).
			Tensor("b", []uint64{5}, f16, weights[:10]).Bytes()
		f, err := Parse(data, Options{Formats: formats.All()})
		if err != nil {
			t.Fatalf("version %d: %v", version, err)
		}
		a, okA := f.Tensor("a")
		b, okB := f.Tensor("b")
		if !okA || !okB || !bytes.Equal(a.Data, weights) || !bytes.Equal(b.Data, weights[:10]) {
			t.Errorf("version %d: a %v %x, b %v %x", version, okA, a.Data, okB, b.Data)
		}
		if a.Rows() != 8 || b.Rows() != 1 || a.Offset%64 != 0 || b.Offset != a.Offset+128 {
			t.Errorf("version %d: rows %d and %d, offsets %d and %d", version, a.Rows(), b.Rows(), a.Offset, b.Offset)
		}
		if h := f.Header(); !bytes.Equal(h, data[:a.Offset]) {
			t.Errorf("version %d: the header has %d bytes, the data start at %d", version, len(h), a.Offset)
		}
		if _, ok := f.Tensor("c"); ok {
			t.Error("found a tensor that is not there")
		}
	}
}

// TestWithoutTensors: a vocabulary alone is a file, padded or not.
func TestWithoutTensors(t *testing.T) {
	data := gguftest.New().KV("k", "v").Bytes()
	for _, b := range [][]byte{data, data[:24+8+1+4+8+1]} {
		f, err := Parse(b, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if v, err := f.Meta().String("k"); v != "v" || err != nil {
			t.Errorf("k = %q, %v", v, err)
		}
	}
}

func TestUnsupportedTypeIsNamed(t *testing.T) {
	f16Format, _ := formats.ByGGML(f16)
	data := gguftest.New().Tensor("w", []uint64{256}, 13, make([]byte, 176)).Bytes()
	_, err := Parse(data, Options{Formats: []quant.Format{f16Format}})
	if !errors.Is(err, ErrTensorType) {
		t.Fatalf("error %v", err)
	}
	for _, want := range []string{`"w"`, "Q5_K", "F16", "at byte"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not name %s", err, want)
		}
	}
}

func TestSplitCountOfOneIsWhole(t *testing.T) {
	if _, err := Parse(gguftest.New().KV("split.count", uint16(1)).Bytes(), Options{}); err != nil {
		t.Error(err)
	}
}

func TestOpenRefusesWhatIsNoFile(t *testing.T) {
	if _, err := Open(filepath.Join(t.TempDir(), "missing"), Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	if f, err := Open(t.TempDir(), Options{}); err == nil {
		t.Errorf("a folder opens: %v", f)
	}
	empty := filepath.Join(t.TempDir(), "empty.gguf")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(empty, Options{}); !errors.Is(err, ErrTruncated) {
		t.Errorf("empty file: %v", err)
	}
}
