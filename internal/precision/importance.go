package precision

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"sync"

	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/frame"
)

// Importance returns how much the columns of each matrix matter, on sequences of a
// text: the mean square of what they are multiplied by, relative to that of all. Give a
// backend of one thread, whose sums have one order. The model stays open.
func Importance(ctx context.Context, be compute.Backend, m *library.Model, sequences [][]int32) (imp library.Importance, err error) {
	var mu sync.Mutex
	sums := map[string][]float64{}
	watched, err := m.Watched(func(name string, rows int, x []byte, cols, tokens int) {
		mu.Lock()
		defer mu.Unlock()
		sum := sums[name]
		if sum == nil {
			sum = make([]float64, cols)
			sums[name] = sum
		}
		for c := range sum {
			var squares float64
			for t := range tokens {
				v := float64(math.Float32frombits(binary.LittleEndian.Uint32(x[4*(c*tokens+t):])))
				squares += v * v
			}
			sum[c] += squares * float64(rows)
		}
	})
	if err != nil {
		return nil, err
	}
	l, err := open(be, watched, Length)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	for _, ids := range sequences {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if _, err := step(l, []frame.Op{{Open: &frame.Open{Attempt: 1}}}, ids, 0); err != nil {
			return nil, err
		}
		if _, err := l.Step([]frame.Op{{Close: &frame.Close{}}}, nil); err != nil {
			return nil, err
		}
	}
	imp = library.Importance{}
	for name, sum := range sums {
		imp[name] = relative(sum)
	}
	return imp, nil
}

// least is the importance of a column that a text did not use, relative to the mean.
const least = 1e-3

// relative divides sums by their mean. Those that are next to nothing get a little: a
// text does not show everything.
func relative(sums []float64) []float32 {
	var mean float64
	for _, v := range sums {
		mean += v / float64(len(sums))
	}
	out := make([]float32, len(sums))
	for i, v := range sums {
		out[i] = 1
		if mean > 0 {
			out[i] = float32(max(v/mean, least))
		}
	}
	return out
}
