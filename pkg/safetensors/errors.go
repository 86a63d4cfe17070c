package safetensors

import (
	"errors"
	"fmt"
)

// What can be wrong with a file or an index. Parse and Open wrap them.
var (
	ErrHeaderLen  = errors.New("bad length of the header")
	ErrHeader     = errors.New("bad header")
	ErrOffset     = errors.New("tensor data are not where the header says")
	ErrIncomplete = errors.New("the tensors do not cover the file")
	ErrTensorInfo = errors.New("bad tensor description")
	ErrPath       = errors.New("bad path in the index")
	ErrIndex      = errors.New("bad index")
)

// fail wraps a sentinel with details.
func fail(sentinel error, format string, args ...any) error {
	return fmt.Errorf("%w: %s", sentinel, fmt.Sprintf(format, args...))
}
