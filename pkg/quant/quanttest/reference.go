package quanttest

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/shoal-llm/shoal/internal/golden"
	"github.com/shoal-llm/shoal/pkg/quant"
)

// matrix is rows of cols weights, packed as in a file and decoded.
type matrix struct {
	name       string
	rows, cols int
	packed     []byte
	values     []float32
}

func (m matrix) row(r int) []float32 { return m.values[r*m.cols : (r+1)*m.cols] }

// entry is what the manifest of the reference data says about a format.
type entry struct {
	Type        string        `json:"type"`
	GGML        uint32        `json:"ggml_type_id"`
	BlockElems  int           `json:"block_elements"`
	BlockBytes  int           `json:"block_bytes"`
	File        string        `json:"file"`
	DequantFile string        `json:"dequant_file"`
	MatVec      golden.Tensor `json:"matvec"`
}

// reference is the matrix that ggml quantised and decoded, the vector that goes
// with it, and their product in float64, rounded once.
type reference struct {
	matrix
	entry  entry
	listed bool
	vector []float32
	matvec []float32
}

// load reads the reference of f. A format that the manifest does not list must
// be the one its source is stored in.
func load(t *testing.T, f quant.Format) reference {
	t.Helper()
	var manifest struct {
		Rows, Cols int
		Source     string
		Vector     golden.Tensor
		Formats    []entry
	}
	golden.JSON(t, "quants/manifest.json", &manifest)
	ref := reference{
		matrix: matrix{name: "reference", rows: manifest.Rows, cols: manifest.Cols},
		entry:  entry{Type: f.Name, File: manifest.Source, DequantFile: manifest.Source},
		vector: manifest.Vector.Float32(t),
	}
	for _, e := range manifest.Formats {
		if e.Type == f.Name {
			ref.entry, ref.listed, ref.matvec = e, true, e.MatVec.Float32(t)
		}
	}
	ref.packed = readFile(t, ref.entry.File)
	ref.values = float32s(readFile(t, ref.entry.DequantFile))
	if n := ref.rows * ref.cols; len(ref.values) != n || len(ref.packed) != n/f.BlockElems*f.BlockBytes {
		t.Fatalf("%s: %d bytes and %d values are no matrix of %d × %d", f.Name, len(ref.packed), len(ref.values), ref.rows, ref.cols)
	}
	if !ref.listed {
		for r := range ref.rows {
			ref.matvec = append(ref.matvec, float32(dot(ref.row(r), ref.vector)))
		}
	}
	return ref
}

// matrices returns the reference matrix, a narrower one made of its first
// columns, and one of random blocks.
func matrices(t *testing.T, f quant.Format) []matrix {
	ref := load(t, f)
	narrow := max(f.BlockElems, quant.Block)
	return []matrix{ref.matrix, ref.narrowed(f, narrow), ref.narrowed(f, 3*narrow%ref.cols), random(f, 37, 2*narrow)}
}

// narrowed keeps the first cols columns. A cols of zero keeps all.
func (m matrix) narrowed(f quant.Format, cols int) matrix {
	if cols == 0 {
		return m
	}
	out := matrix{name: "narrow", rows: m.rows, cols: cols}
	rowBytes := m.cols / f.BlockElems * f.BlockBytes
	for r := range m.rows {
		out.packed = append(out.packed, m.packed[r*rowBytes:][:cols/f.BlockElems*f.BlockBytes]...)
		out.values = append(out.values, m.row(r)[:cols]...)
	}
	return out
}

// random returns blocks of random bytes whose values are finite and moderate:
// codes and scales that a quantiser never writes but a file may hold.
func random(f quant.Format, rows, cols int) matrix {
	rng := rand.NewChaCha8([32]byte([]byte("random blocks of a weight format")))
	m := matrix{name: "random", rows: rows, cols: cols}
	block, values := make([]byte, f.BlockBytes), make([]float32, f.BlockElems)
	for len(m.values) < rows*cols {
		rng.Read(block)
		if f.Decode(values, block); moderate(values) {
			m.packed = append(m.packed, block...)
			m.values = append(m.values, values...)
		}
	}
	return m
}

func moderate(values []float32) bool {
	for _, v := range values {
		if !(math.Abs(float64(v)) < 1e9) {
			return false
		}
	}
	return true
}

func readFile(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(golden.Dir(t), "quants", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func float32s(b []byte) []float32 {
	out := make([]float32, len(b)/4)
	for i := range out {
		out[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return out
}

// dot is the product in float64.
func dot(w, x []float32) float64 {
	var sum float64
	for i := range w {
		sum += float64(w[i]) * float64(x[i])
	}
	return sum
}
