//go:build !amd64

package q6k

import "github.com/shoal-llm/shoal/pkg/quant/p16"

// The instruction set of another architecture.
var amx p16.Wide
