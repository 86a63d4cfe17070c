package checkpoint

import (
	"encoding/binary"
	"math"
)

// longMagnitude is what LongRoPE multiplies rotated values with (Ding et al.,
// arXiv:2402.13753).
func (c *config) longMagnitude() float64 {
	if a := c.Scaling.Attention; a != nil {
		return *a
	}
	factor := float64(c.Context) / float64(*c.OriginalCtx)
	if factor <= 1 {
		return 1
	}
	return math.Sqrt(1 + math.Log(factor)/math.Log(float64(*c.OriginalCtx)))
}

// ropeFactors returns the tensors by which the angle of each pair is divided.
func (c *config) ropeFactors() (map[string][]float64, error) {
	pairs := int(c.headDim() / 2)
	if c.Partial != nil {
		pairs = int(math.Round(*c.Partial*float64(c.headDim()))) / 2
	}
	switch s := c.Scaling; s.kind() {
	case "llama3":
		if !(s.Factor > 0) || !(s.HighFreq > s.LowFreq) || s.Original == 0 {
			return nil, refuse("rope_scaling of type llama3 with factor %g, frequencies %g to %g, %d positions", s.Factor, s.LowFreq, s.HighFreq, s.Original)
		}
		return map[string][]float64{"rope_freqs.weight": c.llama3Factors(pairs)}, nil
	case "longrope":
		if len(s.Long) != pairs || len(s.Short) != pairs {
			return nil, refuse("longrope with %d and %d factors, want %d", len(s.Long), len(s.Short), pairs)
		}
		return map[string][]float64{"rope_factors_long.weight": s.Long, "rope_factors_short.weight": s.Short}, nil
	}
	return nil, nil
}

// llama3Factors stretches low frequencies by the factor, leaves high ones, and
// passes smoothly from one to the other (Grattafiori et al., arXiv:2407.21783).
func (c *config) llama3Factors(pairs int) []float64 {
	s, base := c.Scaling, 10000.0
	if c.RopeBase != nil {
		base = *c.RopeBase
	}
	out := make([]float64, pairs)
	for i := range out {
		length := 2 * math.Pi * math.Pow(base, float64(i)/float64(pairs))
		turns := float64(s.Original) / length
		switch {
		case turns > s.HighFreq:
			out[i] = 1
		case turns < s.LowFreq:
			out[i] = s.Factor
		default:
			smooth := (turns - s.LowFreq) / (s.HighFreq - s.LowFreq)
			out[i] = 1 / ((1-smooth)/s.Factor + smooth)
		}
	}
	return out
}

// float32s stores numbers as F32.
func float32s(values []float64) []byte {
	out := make([]byte, 0, 4*len(values))
	for _, v := range values {
		out = binary.LittleEndian.AppendUint32(out, math.Float32bits(float32(v)))
	}
	return out
}
