package coordinator

import (
	"fmt"
	"math"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/coordinator/generation"
)

// Codes of the errors that end a generation.
const (
	codeInvalid     = "invalid_request_error"
	codeUnsupported = "unsupported_option"
	codeTooLong     = "context_length_exceeded"
	codeNotFound    = "model_not_found"
	codeRateLimit   = "rate_limit_exceeded"
	codeLoading     = "model_loading"
	codeNoCapacity  = "no_capacity"
	codeShardLost   = "shard_lost"
	codePoison      = "request_crashes_shards"
	codePicture     = "invalid_image"
	codeNoPictures  = "images_not_supported"

	codeUnknownGeneration = "unknown_generation"
	codeResumeExpired     = "resume_expired"
	codeElsewhere         = "resumed_elsewhere"
)

// problem is why a generation cannot be, or cannot go on.
type problem generation.Fail

// Error is the sentence.
func (p *problem) Error() string { return p.Message }

func (p *problem) event() *pb.Event {
	return &pb.Event{Event: &pb.Event_Error{Error: &pb.Error{
		Code: p.Code, Message: p.Message, Param: p.Param, Retryable: p.Retryable,
		RetryAfterMs: uint32(min(p.RetryAfter.Milliseconds(), math.MaxUint32)),
	}}}
}

// invalid says which part of a request is wrong.
func invalid(param, format string, args ...any) *problem {
	return &problem{Code: codeInvalid, Param: param, Message: fmt.Sprintf(format, args...)}
}

// unsupported names an option that cannot be honoured.
func unsupported(param, format string, args ...any) *problem {
	return &problem{Code: codeUnsupported, Param: param, Message: fmt.Sprintf(format, args...)}
}

// later says why a request may be tried again.
func later(code, format string, args ...any) *problem {
	return &problem{Code: code, Message: fmt.Sprintf(format, args...), Retryable: true}
}
