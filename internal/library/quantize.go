package library

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/shoal-llm/shoal/pkg/gguf"
	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/quant/formats"
)

// ErrPrecision says that weights are not written in a precision.
var ErrPrecision = errors.New("no such precision of weights")

// Precisions are those that Quantize writes, the finest first.
func Precisions() []string { return []string{"int8", "int4", "int3", "int2"} }

// ends are the tensors that turn ids into rows and rows into logits: every token
// goes through them, and few bits cost more there than anywhere else.
var ends = []string{"token_embd.weight", "output.weight"}

// routers choose among experts by small differences: they stay as they are.
const routers = "ffn_gate_inp"

// Quantized is what became of a tensor.
type Quantized struct {
	Name       string
	From, To   quant.Format
	Bytes, Was uint64
	Values     uint64
	Error      float64 // sum of squared errors
	Size       float64 // sum of squared values
	Finer      bool    // than wished: its rows are not whole blocks of the precision's format
}

// Quantize writes the model file in with weights of a precision: matrices in the
// first format of that precision that is written and whose blocks divide their
// rows, else of the next finer one; the embedding and the head in int8; vectors,
// routers and what takes no more bytes already as they are. Report is called for
// each tensor.
func Quantize(ctx context.Context, w io.Writer, in *gguf.File, precision string, report func(Quantized)) error {
	if !slices.Contains(Precisions(), precision) {
		return fmt.Errorf("%w: %q; written are %s", ErrPrecision, precision, strings.Join(Precisions(), ", "))
	}
	var room []byte
	return gguf.Copy(w, in, fileTypes[precision],
		func(t gguf.Tensor) quant.Format { f, _ := formatFor(t, precision); return f },
		func(t gguf.Tensor, to quant.Format) ([]byte, error) {
			q := Quantized{Name: t.Name, From: t.Format, To: to, Was: t.Size, Bytes: t.Size, Values: t.Rows() * t.Dims[0]}
			_, q.Finer = formatFor(t, precision)
			if to.GGML == t.Format.GGML {
				report(q)
				return t.Data, nil
			}
			size, err := to.RowBytes(int(t.Dims[0]))
			if err != nil {
				return nil, err
			}
			room = slices.Grow(room[:0], size*int(t.Rows()))[:size*int(t.Rows())]
			if err := requantize(ctx, room, t, &q); err != nil {
				return nil, err
			}
			q.Bytes = uint64(len(room))
			report(q)
			return room, nil
		})
}

// fileTypes is how general.file_type numbers files of mostly a precision.
var fileTypes = map[string]uint32{"int8": 7, "int4": 2, "int3": 11, "int2": 10}

// formatFor returns the format that a tensor gets, and whether one of a finer
// precision than wished.
func formatFor(t gguf.Tensor, precision string) (f quant.Format, finer bool) {
	if len(t.Dims) < 2 || t.Rows() == 1 || strings.Contains(t.Name, routers) {
		return t.Format, false
	}
	all := Precisions()
	at := slices.Index(all, precision)
	if slices.Contains(ends, t.Name) {
		at = 0
	}
	for i := at; i >= 0; i-- {
		f, ok := encoderOf(all[i], int(t.Dims[0]))
		if !ok {
			continue
		}
		if bits(f) >= bits(t.Format) {
			return t.Format, false
		}
		return f, i < at
	}
	return t.Format, true
}

// bits is what a value of a format takes.
func bits(f quant.Format) float64 { return 8 * float64(f.BlockBytes) / float64(f.BlockElems) }

// encoderOf returns the first format of a precision that is written and whose
// blocks divide rows of cols values.
func encoderOf(precision string, cols int) (quant.Format, bool) {
	for _, f := range formats.All() {
		if f.Precision == precision && f.Encode != nil && cols%f.BlockElems == 0 {
			return f, true
		}
	}
	return quant.Format{}, false
}

// requantize rounds a tensor, row by row, and adds up its errors.
func requantize(ctx context.Context, dst []byte, t gguf.Tensor, q *Quantized) error {
	cols, rows := int(t.Dims[0]), int(t.Rows())
	from, to := len(t.Data)/rows, len(dst)/rows
	x, back := make([]float32, cols), make([]float32, cols)
	for r := range rows {
		if r%256 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		t.Format.Decode(x, t.Data[r*from:][:from])
		for i, v := range x {
			if v-v != 0 {
				return fmt.Errorf("row %d, value %d is %g: only finite weights are rounded", r, i, v)
			}
		}
		q.To.Encode(dst[r*to:][:to], x)
		q.To.Decode(back, dst[r*to:][:to])
		for i, v := range x {
			e := float64(v - back[i])
			if e-e != 0 {
				return fmt.Errorf("row %d, value %d is %g: too large for %s", r, i, v, q.To.Name)
			}
			q.Error, q.Size = q.Error+e*e, q.Size+float64(v)*float64(v)
		}
	}
	return nil
}
