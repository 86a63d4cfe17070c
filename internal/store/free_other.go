//go:build unix && !linux && !darwin

package store

import "math"

// free cannot tell on this system: writing says when the disk is full.
func free(string) (int64, error) { return math.MaxInt64, nil }
