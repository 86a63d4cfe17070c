package client

import (
	"fmt"
	"math"
	"slices"
)

// Constraint says how scarce memory is.
type Constraint string

// The constraints, from plenty to little.
const (
	MemoryPlenty   Constraint = "none"
	MemoryModerate Constraint = "moderate"
	MemorySevere   Constraint = "severe"
)

// AdviceError is a value that there is no advice for.
type AdviceError struct{ Param, Value, Want string }

// Error names the value and what there is.
func (e *AdviceError) Error() string {
	return fmt.Sprintf("%s %q: want %s", e.Param, e.Value, e.Want)
}

func (c Constraint) check() error {
	if !slices.Contains([]Constraint{MemoryPlenty, MemoryModerate, MemorySevere}, c) {
		return &AdviceError{"memory constraint", string(c), "none, moderate or severe"}
	}
	return nil
}

// MemoryConstraint returns how scarce so many GB of memory are: at most 2 severely, at
// most 4 moderately.
func MemoryConstraint(gigabytes float64) Constraint {
	switch {
	case gigabytes <= 2:
		return MemorySevere
	case gigabytes <= 4:
		return MemoryModerate
	}
	return MemoryPlenty
}

// DeviceClass returns "high-end", "mid-range" or "low-end" for a device of so many GB of
// memory and cores, whose GPU is "high", "medium", "low" or "unknown".
func DeviceClass(gigabytes float64, cores int, gpu string) (string, error) {
	if !slices.Contains([]string{"high", "medium", "low", "unknown"}, gpu) {
		return "", &AdviceError{"GPU tier", gpu, "high, medium, low or unknown"}
	}
	switch {
	case gigabytes >= 8 && cores >= 8 && gpu == "high":
		return "high-end", nil
	case gigabytes >= 4 && cores >= 4 && gpu != "low":
		return "mid-range", nil
	}
	return "low-end", nil
}

// SelectPrecision returns the precision to ask for: of a model of type "text", "vision",
// "audio" or "multimodal".
func SelectPrecision(modelType string, c Constraint) (string, error) {
	if err := c.check(); err != nil {
		return "", err
	}
	if !slices.Contains([]string{"text", "vision", "audio", "multimodal"}, modelType) {
		return "", &AdviceError{"model type", modelType, "text, vision, audio or multimodal"}
	}
	switch {
	case c == MemorySevere:
		return "int2", nil
	case c == MemoryModerate:
		return "int3", nil
	case modelType == "vision" || modelType == "audio":
		return "int8", nil
	}
	return "int4", nil
}

// KVAdvice is how to keep keys and values.
type KVAdvice struct {
	Bits        int
	GroupSize   int // values that share a scale
	MaxSeqLen   int // positions
	Progressive bool
	Ratio       int // of old positions one of so many is kept; 0 keeps all
	Older       int // with Ratio: positions that are kept whole
}

// OptimizeKVCache returns how to keep keys and values of a context of so many
// positions, of a model that is "small", "medium" or "large".
func OptimizeKVCache(context int, c Constraint, modelSize string) (KVAdvice, error) {
	if err := c.check(); err != nil {
		return KVAdvice{}, err
	}
	groups := map[string]int{"small": 32, "medium": 64, "large": 128}
	group, ok := groups[modelSize]
	if !ok {
		return KVAdvice{}, &AdviceError{"model size", modelSize, "small, medium or large"}
	}
	if context < 1 {
		return KVAdvice{}, &AdviceError{"context length", fmt.Sprint(context), "1 or more"}
	}
	a := KVAdvice{Bits: 4, GroupSize: group, MaxSeqLen: max(int(math.Ceil(float64(context)*1.5)), 2048), Progressive: context > 4096}
	switch {
	case c == MemorySevere:
		a.Bits = 2
	case c == MemoryModerate || context > 8192:
		a.Bits = 3
	}
	if context > 16384 {
		a.Ratio, a.Older = 4, 4096
	}
	if context > 32768 {
		a.Ratio = 8
	}
	return a, nil
}

// Class is the advice as --kv takes it: what `shoal up` has to serve for a request with
// this advice to be honoured.
func (a KVAdvice) Class() string {
	class := fmt.Sprintf("%d/%d", a.Bits, a.GroupSize)
	if a.Progressive && a.Bits < 4 {
		class = fmt.Sprintf("4@128-%s@1024", class)
	}
	if a.Ratio != 0 {
		class += fmt.Sprintf("+%d:1@%d", a.Ratio, a.Older)
	}
	return class
}

// Shape is what a model's memory follows from.
type Shape struct {
	Parameters               uint64
	Layers, KVHeads, HeadDim int
}

// Estimate is bytes of memory.
type Estimate struct{ Weights, KVCache, Total, Original uint64 }

// Reduction is how much less the total is than 16 bits for all, in percent.
func (e Estimate) Reduction() float64 { return 100 * (1 - float64(e.Total)/float64(e.Original)) }

// bitsOf are those of a weight, with its scales, as the formats of each class hold them.
var bitsOf = map[string]float64{"fp16": 16, "int8": 8.5, "int4": 4.5, "int3": 3.4375, "int2": 2.625}

// EstimateMemory returns about what a model takes in a precision, with one session of so
// many positions kept as advised, without buffers. What a plan of `shoal plan` says is exact.
func EstimateMemory(s Shape, precision string, context int, a KVAdvice) (Estimate, error) {
	bits, ok := bitsOf[precision]
	if !ok {
		return Estimate{}, &AdviceError{"precision", precision, "fp16, int8, int4, int3 or int2"}
	}
	if context < 1 || a.Bits < 1 || a.GroupSize < 1 {
		return Estimate{}, &AdviceError{"context and KV advice", fmt.Sprintf("%d, %+v", context, a), "what OptimizeKVCache returns"}
	}
	values := uint64(2 * s.Layers * s.KVHeads * s.HeadDim) // of a position
	halves := min(context, 256)                            // that stay in 16 bits
	kept := context
	if a.Ratio != 0 && context > a.Older {
		kept = a.Older + (context-a.Older)/a.Ratio
	}
	if a.Bits >= 16 {
		halves = kept
	}
	packed := float64(a.Bits) + 32/float64(a.GroupSize)
	e := Estimate{
		Weights:  uint64(float64(s.Parameters) * bits / 8),
		KVCache:  values*uint64(halves)*2 + uint64(float64(values)*float64(kept)*packed/8),
		Original: 2*s.Parameters + 2*values*uint64(context),
	}
	if a.Bits >= 16 {
		e.KVCache = 2 * values * uint64(kept)
	}
	e.Total = e.Weights + e.KVCache
	return e, nil
}
