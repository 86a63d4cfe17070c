package checkpoint

import (
	"strconv"
	"strings"
)

// Matrix is a matrix of a layer, by what frameworks call the module that holds it.
type Matrix struct {
	Layer  int
	Tensor string // of GGUF, without its layer: attn_q.weight
}

// MatrixOf finds the matrix that a module's name ends in, like
// model.layers.3.self_attn.q_proj, in an architecture as GGUF names it.
func MatrixOf(arch, module string) (Matrix, bool) {
	_, rest, ok := strings.Cut("."+module, ".layers.")
	if !ok {
		return Matrix{}, false
	}
	number, inner, ok := strings.Cut(rest, ".")
	layer, err := strconv.Atoi(number)
	if !ok || err != nil || layer < 0 || layer >= maxLayers {
		return Matrix{}, false
	}
	for _, f := range families {
		if f.arch != arch {
			continue
		}
		for tensor, name := range union(commonNames, f.names) {
			if name == inner+".weight" && strings.HasSuffix(tensor, ".weight") {
				return Matrix{layer, tensor}, true
			}
		}
	}
	return Matrix{}, false
}

// Halves reports whether a model's rows of queries and keys are as frameworks have
// them: the values of a rotated pair are half a head apart. Of the other kind, where
// they are neighbours, are GGUF files of the same architecture.
func Halves(arch string) bool {
	for _, f := range families {
		if f.arch == arch && f.halves {
			return true
		}
	}
	return false
}
