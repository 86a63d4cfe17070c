package q3k

import "github.com/shoal-llm/shoal/pkg/quant/p16"

var neon = p16.Widths{neonT12, neonT8, neonT4, neonT1}

// The instruction sets of other architectures.
var avx2, avx512 p16.Widths
