package library

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"strconv"

	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/quant/formats"
)

// Rounded returns the model with weights as a recipe says, each matrix rounded when it
// is asked for: the same bits on every machine, whichever parts it asks for. It takes
// m's place, and closing it closes m's files. Imp is nil where others do the same
// without a text to learn from.
func (m *Model) Rounded(r Recipe, imp Importance) (*Model, error) { return m.changed(r, imp, false) }

// Felt returns the model with the values that a recipe leaves of it, in float32: what
// rounding weights does to answers, apart from what a device makes of activations.
// Imp may be nil. Closing it closes m's files.
func (m *Model) Felt(r Recipe, imp Importance) (*Model, error) { return m.changed(r, imp, true) }

// Watched returns the model in float32 that tells what its matrices are multiplied by:
// see is called with the name of a matrix, the rows of it that are multiplied, and
// activations, tokens of them for each of cols columns. Devices may call it from several
// goroutines. Closing the model closes m's files.
func (m *Model) Watched(see func(name string, rows int, x []byte, cols, tokens int)) (*Model, error) {
	return m.with(rounded{container: m.file, felt: true, see: see})
}

// Held returns the bytes that each matrix that a recipe may round takes on a device, by
// name, once a recipe has been used.
func (m *Model) Held(r Recipe) map[string]uint64 {
	_, hasHead := m.file.Describe(head)
	c := rounded{container: m.file, recipe: r, tied: !hasHead}
	out := map[string]uint64{}
	for _, t := range m.file.Tensors() {
		if t.isMatrix() {
			if shape, size, ok := shapeOf(c, t.name); ok {
				out[t.name] = packedBytes(shape, size)
			}
		}
	}
	return out
}

// Rule returns the key of the rule of a recipe for one matrix alone, and its layer; of
// the embedding and the head, which are in none, −1.
func Rule(name string) (key string, layer int) {
	switch name {
	case embedding:
		return "embedding", -1
	case head:
		return "lmhead", -1
	}
	at, matrix, _ := place(name)
	layer, err := strconv.Atoi(at)
	if err != nil {
		return "", -1
	}
	return at + "." + matrix, layer
}

func (m *Model) changed(r Recipe, imp Importance, felt bool) (*Model, error) {
	_, hasHead := m.file.Describe(head)
	return m.with(rounded{container: m.file, recipe: r, tied: !hasHead, importance: imp, felt: felt})
}

func (m *Model) with(c rounded) (*Model, error) {
	r, felt := c.recipe, c.felt
	out := *m
	out.file, out.TensorTypes, out.Parameters, out.Precision = c, map[string]int{}, 0, ""
	out.Source = source{c, m.failed}
	if err := out.describe(); err != nil {
		return nil, err
	}
	if !r.IsZero() {
		out.Digest = sha256.Sum256(append(m.Digest[:], r.String()...))
		if out.Precision = r.Precision(); felt {
			out.Precision = "fp32"
		}
	}
	for _, t := range m.file.Tensors() {
		out.Size -= int64(t.size)
	}
	for _, t := range c.Tensors() {
		out.Size += int64(t.size)
	}
	return &out, nil
}

// Recipe is what the weights were rounded by; zero: they are as in the file.
func (m *Model) Recipe() Recipe {
	if c, ok := m.file.(rounded); ok {
		return c.recipe
	}
	return Recipe{}
}

// rounded is a container whose matrices are rounded as they are read.
type rounded struct {
	container
	recipe     Recipe
	tied       bool
	importance Importance
	felt       bool // matrices are widened to float32 again
	see        func(name string, rows int, x []byte, cols, tokens int)
}

// target returns what a tensor is rounded to, and the format in which it is then given.
func (c rounded) target(t description) (to, given quant.Format) {
	to, _ = c.recipe.formatFor(t, c.tied)
	if given = to; c.felt && t.isMatrix() {
		if given = float32Format; c.see != nil {
			given.CPU = watched(given.CPU, t.name, c.see)
		}
	}
	return to, given
}

func (c rounded) change(t description) description {
	_, given := c.target(t)
	if given.GGML != t.format.GGML {
		row, err := given.RowBytes(int(t.cols))
		if err != nil {
			return t
		}
		t.format, t.size = given, uint64(row)*t.rows
	}
	return t
}

// Tensors describes all tensors as they are given.
func (c rounded) Tensors() []description {
	var out []description
	for _, t := range c.container.Tensors() {
		out = append(out, c.change(t))
	}
	return out
}

// Describe describes a tensor as it is given.
func (c rounded) Describe(name string) (description, bool) {
	t, ok := c.container.Describe(name)
	if !ok {
		return t, false
	}
	return c.change(t), true
}

// Data rounds a tensor.
func (c rounded) Data(name string) ([]byte, error) {
	t, ok := c.container.Describe(name)
	data, err := c.container.Data(name)
	if !ok || err != nil || len(data) == 0 {
		return data, err
	}
	to, given := c.target(t)
	if to.GGML != t.format.GGML {
		if data, err = round(context.Background(), nil, t, data, to, c.importance[name], &Quantized{}); err != nil {
			return nil, err
		}
	}
	if given.GGML == to.GGML {
		return data, nil
	}
	return widen(to, data, int(t.rows*t.cols)), nil
}

// enough is how many parameters a model must have to keep its sense in int2.
const enough = 1_000_000_000

// Warning says what speaks against the precision of a model's weights, or nothing.
func (m *Model) Warning() string {
	if m.Parameters >= enough || !m.mostly("int2") {
		return ""
	}
	return fmt.Sprintf("int2 breaks models of fewer than 1,000,000,000 parameters, and this one has %d: take int3, or adaptive precision with a budget", m.Parameters)
}

// Parts returns the precision of the weights of each component, adaptive where they
// have several.
func (m *Model) Parts() map[string]string {
	parts := map[string]string{}
	note := func(component, precision string) {
		if had, ok := parts[component]; ok && had != precision {
			precision = Adaptive
		}
		parts[component] = precision
	}
	_, hasHead := m.file.Describe(head)
	for _, t := range m.file.Tensors() {
		_, _, component := place(t.name)
		switch {
		case !t.isMatrix():
		case t.name == embedding:
			if note("embedding", t.format.Precision); !hasHead {
				note("lmhead", t.format.Precision)
			}
		case t.name == head:
			note("lmhead", t.format.Precision)
		default:
			note(component, t.format.Precision)
		}
	}
	return parts
}

// mostly reports whether most weights of layers are of a precision.
func (m *Model) mostly(precision string) bool {
	var of, all uint64
	for _, t := range m.file.Tensors() {
		if _, layer := Rule(t.name); layer < 0 || !t.isMatrix() {
			continue
		}
		values := t.rows * t.cols
		if all += values; t.format.Precision == precision {
			of += values
		}
	}
	return 2*of > all
}

// float32Format is plain float32.
var float32Format = func() quant.Format { f, _ := formats.ByGGML(0); return f }()

// watched are kernels that tell what they multiply by.
func watched(plain *quant.CPU, name string, see func(name string, rows int, x []byte, cols, tokens int)) *quant.CPU {
	out := *plain
	out.MatMul = func(level quant.Level) quant.MatMul {
		multiply := plain.MatMul(level)
		return func(w, tile []byte, y []float32, cols, groups, ldo, tokens int) {
			see(name, groups*quant.Lanes, tile, cols, tokens)
			multiply(w, tile, y, cols, groups, ldo, tokens)
		}
	}
	return &out
}

// widen returns n values as little-endian float32.
func widen(f quant.Format, data []byte, n int) []byte {
	x := make([]float32, n)
	f.Decode(x, data)
	out := make([]byte, 4*n)
	for i, v := range x {
		binary.LittleEndian.PutUint32(out[4*i:], math.Float32bits(v))
	}
	return out
}
