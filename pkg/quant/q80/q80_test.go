package q80

import (
	"testing"

	"github.com/shoal-llm/shoal/pkg/quant/quanttest"
)

func TestFormat(t *testing.T) { quanttest.Run(t, Format) }
