package gguf

import (
	"errors"
	"fmt"
)

// What can be wrong with a file. Parse and Open wrap them in an *Error.
var (
	ErrBadMagic   = errors.New("not a GGUF file")
	ErrTruncated  = errors.New("the file ends too early")
	ErrVersion    = errors.New("unsupported GGUF version")
	ErrCount      = errors.New("count is larger than the file can hold")
	ErrKey        = errors.New("bad metadata key")
	ErrKVType     = errors.New("unknown metadata type")
	ErrTooBig     = errors.New("string is too long")
	ErrNested     = errors.New("array of arrays")
	ErrDuplicate  = errors.New("metadata key occurs twice")
	ErrAlignment  = errors.New("bad alignment")
	ErrSplit      = errors.New("the files of a split model do not fit together")
	ErrTensorName = errors.New("bad tensor name")
	ErrDims       = errors.New("bad number of dimensions")
	ErrShape      = errors.New("bad tensor shape")
	ErrTensorType = errors.New("unsupported tensor type")
	ErrOffset     = errors.New("tensor data are not where the file says")
	ErrOverlap    = errors.New("tensors overlap")
	ErrMissing    = errors.New("no such metadata key")
	ErrWrongType  = errors.New("metadata value has another type")
)

// Error says what is wrong with a file and where.
type Error struct {
	Err    error  // one of the sentinels above, perhaps wrapped with details
	Field  string // the field of the file, for example `tensor "output.weight" type`
	Offset int64  // the byte of the file where the field starts
}

// Error returns cause and place.
func (e *Error) Error() string {
	return fmt.Sprintf("%s at byte %d: %v", e.Field, e.Offset, e.Err)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// fail makes an *Error whose cause is sentinel with details.
func fail(sentinel error, field string, offset uint64, format string, args ...any) error {
	return &Error{
		Err:    fmt.Errorf("%w: %s", sentinel, fmt.Sprintf(format, args...)),
		Field:  field,
		Offset: int64(offset),
	}
}

// quoted returns a name from the file as it may stand in a message: escaped and
// not longer than a line.
func quoted(name []byte) string {
	const most = 80
	if len(name) > most {
		return fmt.Sprintf("%q…", name[:most])
	}
	return fmt.Sprintf("%q", name)
}
