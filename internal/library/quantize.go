package library

import (
	"context"
	"fmt"
	"io"
	"math"
	"runtime"
	"slices"
	"sync"

	"github.com/shoal-llm/shoal/pkg/gguf"
	"github.com/shoal-llm/shoal/pkg/quant"
)

// Importance says how much errors of the values of a matrix matter, by the column, as
// the mean square of what the column is multiplied by: one number for each column,
// by the name of the matrix. What is not named is all the same.
type Importance map[string][]float32

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

// Quantize writes the model file in with weights as a recipe says; what has a format
// of the wanted precision already, or takes no more bytes, stays as it is. A file of
// several precisions says so in its metadata. Report is called for each tensor.
func Quantize(ctx context.Context, w io.Writer, in *gguf.File, r Recipe, imp Importance, report func(Quantized)) error {
	if r.IsZero() {
		return fmt.Errorf("%w: none is named", ErrPrecision)
	}
	var room []byte
	_, hasHead := in.Tensor(head)
	formatFor := func(t gguf.Tensor) (quant.Format, bool) { return r.formatFor(ggufTensor(t), !hasHead) }
	return gguf.Copy(w, in, gguf.Changes{
		FileType: fileTypes[r.base],
		Strings:  map[string]string{recipeKey: r.String()},
		Format:   func(t gguf.Tensor) quant.Format { f, _ := formatFor(t); return f },
		Encode: func(t gguf.Tensor, to quant.Format) ([]byte, error) {
			q := Quantized{Name: t.Name, From: t.Format, To: to, Was: t.Size, Bytes: t.Size, Values: t.Rows() * t.Dims[0]}
			_, q.Finer = formatFor(t)
			if to.GGML == t.Format.GGML {
				report(q)
				return t.Data, nil
			}
			var err error
			if room, err = round(ctx, room, ggufTensor(t), t.Data, to, imp[t.Name], &q); err != nil {
				return nil, err
			}
			q.Bytes = uint64(len(room))
			report(q)
			return room, nil
		},
	})
}

// recipeKey is the metadata of a file that a recipe was used for.
const recipeKey = "shoal.recipe"

// fileTypes is how general.file_type numbers files of mostly a precision.
var fileTypes = map[string]uint32{"int8": 7, "int6": 18, "int5": 16, "int4": 14, "int3": 11, "int2": 10}

// roundRows is how many rows are rounded between two looks at the context.
const roundRows = 64

// round rounds a tensor to a format, over room where that is large enough, by all
// processors. Rows do not know of each other: the bytes are the same however they are
// dealt out. Errors are added up in q.
func round(ctx context.Context, room []byte, t description, data []byte, to quant.Format, importance []float32, q *Quantized) ([]byte, error) {
	cols, rows := int(t.cols), int(t.rows)
	size, err := to.RowBytes(cols)
	if err != nil {
		return nil, err
	}
	if len(data)%rows != 0 || importance != nil && len(importance) != cols {
		return nil, fmt.Errorf("%d bytes in %d rows of %d values, %d importances", len(data), rows, cols, len(importance))
	}
	room = slices.Grow(room[:0], size*rows)[:size*rows]
	chunks := (rows + roundRows - 1) / roundRows
	sums := make([]Quantized, chunks)
	errs := make([]error, chunks)
	next := make(chan int, chunks)
	for i := range chunks {
		next <- i
	}
	close(next)
	var wg sync.WaitGroup
	for range min(chunks, runtime.GOMAXPROCS(0)) {
		wg.Go(func() {
			x, back, weight := make([]float32, cols), make([]float32, cols), make([]float32, cols)
			for i := range next {
				for row := i * roundRows; row < min(rows, (i+1)*roundRows) && errs[i] == nil; row++ {
					if errs[i] = ctx.Err(); errs[i] == nil {
						from := len(data) / rows
						errs[i] = roundRow(room[row*size:][:size], data[row*from:][:from], row, t.format, to, x, back, weight, importance, &sums[i])
					}
				}
			}
		})
	}
	wg.Wait()
	for i, s := range sums {
		if errs[i] != nil {
			return nil, errs[i]
		}
		q.Error, q.Size = q.Error+s.Error, q.Size+s.Size
	}
	return room, nil
}

// roundRow rounds one row. Of values of like importance the larger ones matter more:
// what they are multiplied by often comes with them.
func roundRow(dst, src []byte, row int, from, to quant.Format, x, back, weight, importance []float32, q *Quantized) error {
	from.Decode(x, src)
	var square float64
	for i, v := range x {
		if v-v != 0 {
			return fmt.Errorf("row %d, value %d is %g: only finite weights are rounded", row, i, v)
		}
		square += float64(v) * float64(v)
	}
	mean := square / float64(len(x))
	for i, v := range x {
		w := math.Sqrt(mean + float64(v)*float64(v))
		if importance != nil {
			w *= float64(importance[i])
		}
		weight[i] = float32(w)
	}
	to.Encode(dst, x, weight)
	to.Decode(back, dst)
	for i, v := range x {
		e := float64(v - back[i])
		if e-e != 0 {
			return fmt.Errorf("row %d, value %d is %g: too large for %s", row, i, v, to.Name)
		}
		q.Error += e * e
	}
	q.Size += square
	return nil
}
