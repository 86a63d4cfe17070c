package coordinator

import (
	"testing"

	"go.uber.org/goleak"
)

// TestMain holds the package to its promise: when Run has returned, so has
// everything it started.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
