package checkpoint

import (
	"fmt"
	"math"

	"github.com/shoal-llm/shoal/pkg/gguf"
)

// Metadata are values under the keys of GGUF: string, uint64, float64, bool,
// []string, []int32 or []float32. Getters fail as those of a GGUF file do.
type Metadata map[string]any

// get returns the value of a key as T.
func get[T any](m Metadata, key string) (T, error) {
	var none T
	v, ok := m[key]
	if !ok {
		return none, fmt.Errorf("metadata %q: %w", key, gguf.ErrMissing)
	}
	t, ok := v.(T)
	if !ok {
		return none, fmt.Errorf("metadata %q: %w: it is %T, not %T", key, gguf.ErrWrongType, v, none)
	}
	return t, nil
}

// Has says whether there is a value of any type for key.
func (m Metadata) Has(key string) bool { _, ok := m[key]; return ok }

// String returns a string.
func (m Metadata) String(key string) (string, error) { return get[string](m, key) }

// Strings returns an array of strings, which the caller must not change.
func (m Metadata) Strings(key string) ([]string, error) { return get[[]string](m, key) }

// Int32s returns an array of integers, which the caller must not change.
func (m Metadata) Int32s(key string) ([]int32, error) { return get[[]int32](m, key) }

// Float32s returns an array of numbers, which the caller must not change.
func (m Metadata) Float32s(key string) ([]float32, error) { return get[[]float32](m, key) }

// Uint64 returns an integer.
func (m Metadata) Uint64(key string) (uint64, error) { return get[uint64](m, key) }

// Bool returns a truth value.
func (m Metadata) Bool(key string) (bool, error) { return get[bool](m, key) }

// Uint32 returns an integer from 0 to MaxUint32.
func (m Metadata) Uint32(key string) (uint32, error) {
	n, err := m.Uint64(key)
	if err == nil && n > math.MaxUint32 {
		return 0, fmt.Errorf("metadata %q: %w: %d does not fit uint32", key, gguf.ErrWrongType, n)
	}
	return uint32(n), err
}

// Float32 returns a number, rounded.
func (m Metadata) Float32(key string) (float32, error) {
	x, err := get[float64](m, key)
	return float32(x), err
}
