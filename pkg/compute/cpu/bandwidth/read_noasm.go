//go:build !amd64

package bandwidth

import "github.com/shoal-llm/shoal/pkg/quant"

// kernel returns the loads of a level: plain Go for all.
func kernel(quant.Level) func(p []byte) uint64 { return readWords }
