package library

import (
	"fmt"

	"github.com/shoal-llm/shoal/pkg/frame"
)

// Pooling is how a model means the hidden states of a text to become one vector.
type Pooling struct {
	Kind    frame.Pooling
	Refused string // what it means instead, which is not computed; empty: it is Kind
}

// poolings are the numbers of GGUF.
var poolings = map[uint64]Pooling{
	0: {Kind: frame.PoolingMean}, 1: {Kind: frame.PoolingMean}, 2: {Kind: frame.PoolingFirst}, 3: {Kind: frame.PoolingLast},
	4: {Refused: "a rank of pairs of texts"},
}

// Pooling returns how the model's embeddings are made: as its file says, or else the
// mean.
func (m *Model) Pooling() Pooling {
	n, ok := m.Source.Meta().Uint64(m.Spec.Arch + ".pooling_type")
	if !ok {
		n = 0
	}
	if p, known := poolings[n]; known {
		return p
	}
	return Pooling{Refused: fmt.Sprintf("of a kind with the number %d", n)}
}
