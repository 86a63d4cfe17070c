//go:build !unix && !windows

package filemap

import (
	"errors"
	"os"
)

// mapFile says that this system cannot map files.
func mapFile(*os.File, int) ([]byte, func() error, error) { return nil, nil, errors.ErrUnsupported }
