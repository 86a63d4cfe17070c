package q51

import (
	"testing"

	"github.com/shoal-llm/shoal/pkg/quant/quanttest"
)

func TestFixtureFormat(t *testing.T) { quanttest.Run(t, Format) }
