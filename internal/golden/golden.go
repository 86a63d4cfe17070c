// Package golden finds and reads the reference data of the tests.
//
// The data were made by outside tools (see testdata/fixtures/README.md) and
// are never rewritten from our own results. Another set with the same layout
// is used when SHOAL_FIXTURES names its folder.
package golden

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"testing"
)

// Root returns the folder of the repository.
func Root() string {
	dir, err := os.Getwd()
	for err == nil {
		if _, missing := os.Stat(filepath.Join(dir, "go.mod")); missing == nil {
			return dir
		}
		up := filepath.Dir(dir)
		if up == dir {
			break
		}
		dir = up
	}
	panic("golden: a test runs outside the repository")
}

// Dir returns the folder of the reference data: SHOAL_FIXTURES, or the copy the
// repository keeps. It fails the test when the folder is missing.
func Dir(tb testing.TB) string {
	tb.Helper()
	dir := os.Getenv("SHOAL_FIXTURES")
	if dir == "" {
		dir = filepath.Join(Root(), "testdata", "fixtures")
	}
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		tb.Fatalf("no reference data at %s: set SHOAL_FIXTURES to a folder that has it", dir)
	}
	return dir
}

// JSON reads the JSON file at path, relative to Dir, into v.
func JSON(tb testing.TB, path string, v any) {
	tb.Helper()
	b, err := os.ReadFile(filepath.Join(Dir(tb), path))
	if err != nil {
		tb.Fatal(err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		tb.Fatalf("%s: %v", path, err)
	}
}

// Tensor is an array as the reference data store it: little-endian values in C
// order, base64.
type Tensor struct {
	DType string `json:"dtype"`
	Shape []int  `json:"shape"`
	B64   string `json:"b64"`
}

// shortFloat begins the short spelling of float types.
const shortFloat = "f"

// Float32 returns the values of a float32 or float64 tensor.
func (t Tensor) Float32(tb testing.TB) []float32 {
	tb.Helper()
	raw, err := base64.StdEncoding.DecodeString(t.B64)
	if err != nil {
		tb.Fatal(err)
	}
	switch t.DType {
	case "float32", shortFloat + "32":
		out := make([]float32, len(raw)/4)
		for i := range out {
			out[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
		}
		return out
	case "float64", shortFloat + "64":
		out := make([]float32, len(raw)/8)
		for i := range out {
			out[i] = float32(math.Float64frombits(binary.LittleEndian.Uint64(raw[8*i:])))
		}
		return out
	}
	tb.Fatalf("tensor of %s is not a float tensor", t.DType)
	return nil
}
