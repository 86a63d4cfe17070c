// Package formats lists the weight formats that this build can read. A new
// format is a folder below pkg/quant and a line in All.
package formats

import (
	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/quant/bf16"
	"github.com/shoal-llm/shoal/pkg/quant/f16"
	"github.com/shoal-llm/shoal/pkg/quant/f32"
	"github.com/shoal-llm/shoal/pkg/quant/iq4nl"
	"github.com/shoal-llm/shoal/pkg/quant/iq4xs"
	"github.com/shoal-llm/shoal/pkg/quant/q2k"
	"github.com/shoal-llm/shoal/pkg/quant/q3k"
	"github.com/shoal-llm/shoal/pkg/quant/q40"
	"github.com/shoal-llm/shoal/pkg/quant/q41"
	"github.com/shoal-llm/shoal/pkg/quant/q4k"
	"github.com/shoal-llm/shoal/pkg/quant/q50"
	"github.com/shoal-llm/shoal/pkg/quant/q51"
	"github.com/shoal-llm/shoal/pkg/quant/q5k"
	"github.com/shoal-llm/shoal/pkg/quant/q6k"
	"github.com/shoal-llm/shoal/pkg/quant/q80"
)

// All returns every format, in the order of their GGML numbers. The caller owns
// the slice.
func All() []quant.Format {
	return []quant.Format{
		f32.Format,
		f16.Format,
		q40.Format,
		q41.Format,
		q50.Format,
		q51.Format,
		q80.Format,
		q2k.Format,
		q3k.Format,
		q4k.Format,
		q5k.Format,
		q6k.Format,
		iq4nl.Format,
		iq4xs.Format,
		bf16.Format,
	}
}

// ByGGML returns the format with the type number that a GGUF file uses.
func ByGGML(id uint32) (quant.Format, bool) {
	return find(func(f quant.Format) bool { return f.GGML == id })
}

// ByName returns the format of that name, as GGUF tools spell it.
func ByName(name string) (quant.Format, bool) {
	return find(func(f quant.Format) bool { return f.Name == name })
}

func find(match func(quant.Format) bool) (quant.Format, bool) {
	for _, f := range All() {
		if match(f) {
			return f, true
		}
	}
	return quant.Format{}, false
}
