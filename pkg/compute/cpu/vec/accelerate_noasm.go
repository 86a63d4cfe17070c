//go:build !amd64 && !arm64

package vec

import "github.com/shoal-llm/shoal/pkg/quant"

// kernelsOf returns nil: the portable operations serve every level.
func kernelsOf(quant.Level) *kernels { return nil }
