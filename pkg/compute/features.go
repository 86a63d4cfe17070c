package compute

import (
	"errors"
	"strings"
)

// ErrUnsupported says that a device has no kernels for an operation that a model
// needs.
var ErrUnsupported = errors.New("the device lacks operations of the model")

// Features are operations beyond those of a plain decoder, as a set. A model says
// which it needs and a device which it lacks.
type Features uint32

// The features, each an operation of Variations unless said otherwise.
const (
	FeatureScale Features = 1 << iota
	FeatureBias
	FeatureHeadNorm
	FeatureNormAdd // with Linear
	FeatureSoftCap // of logits
	FeatureExperts
	FeaturePackedKV // no operation: caches of a KVClass other than float32
	FeatureLowRank  // with AdaptedGateUp

	featuresEnd
)

// AllFeatures is every feature.
const AllFeatures = featuresEnd - 1

// String names the features.
func (f Features) String() string {
	var names []string
	for i, name := range []string{"scaled rows", "biases", "norms of heads", "norms of what is added", "capped logits", "mixtures of experts", "packed KV caches", "low-rank adapters"} {
		if f&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, ", ")
}

// Variations are the operations of a Pass that some architectures need besides.
type Variations interface {
	// Scale computes x *= factor.
	Scale(x Buffer, factor float32)
	// AddBias computes xs[i] += biases[i] in every row.
	AddBias(xs []Buffer, biases []Vector)
	// NormHeads computes h = rmsnorm(h, eps)∘gains[i] of each head h of xs[i], in
	// place; a head is as long as its gain, a multiple of 16. A row whose sum of squares is
	// not finite is marked in Completion.NotFinite.
	NormHeads(xs []Buffer, gains []Vector, eps float32)
	// Linear computes dst = w·y.
	Linear(dst Buffer, w Weight, y Buffer)
	// NormAdd computes x += rmsnorm(y, eps)∘gain. A row of y whose sum of squares
	// is not finite is marked in Completion.NotFinite and adds nothing.
	NormAdd(x, y Buffer, gain Vector, eps float32)
	// SoftCap computes x = limit·tanh(x/limit) in the first rows rows.
	SoftCap(x Buffer, rows int, limit float32)
	// AddExperts computes x += Σ p·down·(act(gate·n)∘(up·n)) over the experts
	// that the router chooses for a row, in ascending order, with n =
	// rmsnorm(x, eps)∘gain. It chooses the Used experts with the largest values
	// of Router·n, of equal ones the first; p is the softmax over these.
	AddExperts(x Buffer, gain Vector, eps float32, e *Experts)
	// AddLowRank computes dst[i] += c.Scale·c.B·(c.A·n) in the rows whose span has an
	// adapter a, with c = changes[i][a-1] where that is not nil, and n =
	// rmsnorm(x, eps)∘gain, or x itself where gain is nil. Other rows are not touched.
	AddLowRank(dst []Buffer, x Buffer, gain Vector, eps float32, changes [][]*LowRank)
	// AdaptedGateUp is NormGateUp of the weights gate and up, to whose products
	// AddLowRank adds its own. Rooms are two buffers as wide as dst. Rows without an
	// adapter have the bits of NormGateUp.
	AdaptedGateUp(dst, x Buffer, gain Vector, eps float32, ws []Weight, act Activation, rooms []Buffer, changes [][]*LowRank)
}

// LowRank is what an adapter adds to a matrix W: y = W·x + Scale·B·(A·x) (Hu et al.,
// "LoRA: Low-rank adaptation of large language models", arXiv:2106.09685). Both
// factors are of float32.
type LowRank struct {
	A     Weight // rank × columns of the matrix
	B     Weight // rows of the matrix × rank
	Scale float32
}

// Experts are the feed-forward networks of a mixture (Shazeer et al., "Outrageously
// large neural networks", arXiv:1701.06538; softmax over the chosen as in Jiang et
// al., "Mixtral of experts", arXiv:2401.04088).
type Experts struct {
	Router         Weight // a row for each expert
	Gate, Up, Down Weight // the experts' matrices below each other, each of a multiple of 16 rows
	Count          int
	Used           int // experts of a row
	Act            Activation

	Scores Buffer // room: a row for each row of the batch, as many columns as experts
	Inner  Buffer // room: Used rows for each row of the batch, as wide as the network
	Out    Buffer // room: Used rows for each row of the batch, as wide as x
}
