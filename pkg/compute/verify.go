package compute

import (
	"errors"
	"fmt"
	"math"
)

// ErrWrong is wrapped by errors that say that a device computes wrongly.
var ErrWrong = errors.New("the device computes wrongly")

// Tolerance is how far a device may be off from the reference, which multiplies
// exact weights in float32, after a whole layer.
type Tolerance struct {
	NMSE float64 // the squares of differences, over the squares of values
	Off  float64 // one difference, over the root mean square of values
}

// Float is the tolerance of devices that compute in float32, in another order.
// Int8 is that of devices that round activations to int8 in blocks.
var (
	Float = Tolerance{NMSE: 1e-5, Off: 0.05}
	Int8  = Tolerance{NMSE: 2e-2, Off: 4}
)

// output is what an operation of the self-test has computed on the reference.
type output struct {
	op     string
	values []float32
}

// against runs a part of the self-test on the reference r first, if there is
// one, and then on t.
func (t *selfTest) against(r *selfTest, part func(*selfTest) error) error {
	if r != nil {
		r.outputs = nil
		if err := part(r); err != nil {
			return fmt.Errorf("on the reference: %w", err)
		}
		t.outputs = r.outputs
	}
	return part(t)
}

// compare holds outputs against those of the reference.
func (t *selfTest) compare(outputs []output) error {
	if t.record {
		t.outputs = append(t.outputs, outputs...)
		return nil
	}
	if len(t.outputs) == 0 {
		return nil
	}
	for i, got := range outputs {
		if err := t.tolerance.Check(got.op, got.values, t.outputs[i].values); err != nil {
			return err
		}
	}
	t.outputs = t.outputs[len(outputs):]
	return nil
}

// Check holds what an operation has computed against what the reference has. The
// error wraps ErrWrong and says what is wrong by how much.
func (most Tolerance) Check(what string, got, want []float32) error {
	if len(got) != len(want) {
		return fmt.Errorf("%w: %s has %d values, want %d", ErrWrong, what, len(got), len(want))
	}
	var squares, differences, farthest float64
	for i, w := range want {
		d := float64(got[i]) - float64(w)
		squares += float64(w) * float64(w)
		differences += d * d
		farthest = max(farthest, math.Abs(d)) // a NaN stays
	}
	nmse, off := differences/squares, farthest/math.Sqrt(squares/float64(len(want)))
	if !(nmse <= most.NMSE && off <= most.Off) {
		return fmt.Errorf("%w: %s is off by a normalised mean square error of %.2g (bound %.2g), one value by %.2g of the root mean square (bound %.2g)",
			ErrWrong, what, nmse, most.NMSE, off, most.Off)
	}
	return nil
}
