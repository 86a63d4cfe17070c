//go:build !amd64 && !arm64

package q50

import "github.com/shoal-llm/shoal/pkg/quant/p16"

// The portable kernel serves every level.
var avx2, avx512, neon p16.Widths
