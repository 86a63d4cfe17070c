package gateway

import (
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/gateway/strictjson"
)

// Codes of errors that the gateway itself gives. The coordinator has more.
const (
	codeInvalid         = "invalid_request_error"
	codeUnsupported     = "unsupported_option"
	codeTooLong         = "context_length_exceeded"
	codeBadKey          = "invalid_api_key"
	codeModelDenied     = "model_not_allowed"
	codeModelNotFound   = "model_not_found"
	codeNotFound        = "not_found"
	codeMethod          = "method_not_allowed"
	codeHost            = "host_not_allowed"
	codeOrigin          = "origin_not_allowed"
	codeBusy            = "busy"
	codeRateLimit       = "rate_limit_exceeded"
	codeTimeout         = "request_timeout"
	codeNoCoordinator   = "coordinator_unavailable"
	codeCoordinatorLost = "coordinator_lost"
	codePoison          = "request_crashes_coordinators"
	codeDraining        = "draining"
	codeInternal        = "internal_error"
	codeModelLoading    = "model_loading"
	codeNoCapacity      = "no_capacity"
	codeShardLost       = "shard_lost"
	codeDeadline        = "deadline_exceeded"
	codeNumeric         = "numeric_error"
	codeQueueFull       = "queue_full"
	codeStopped         = "stopped"
	codePicture         = "invalid_image"
	codeNoPictures      = "images_not_supported"

	codeUnknownGeneration = "unknown_generation"
	codeRepeated          = "idempotency_key_in_use"
	codeResumeExpired     = "resume_expired"
	codeResumedElsewhere  = "resumed_elsewhere"
	codeNotAcceptable     = "not_acceptable"
	typeInvalid           = "invalid_request_error"
	typeAuthentication    = "authentication_error"
	typeRateLimit         = "rate_limit_error"
	typeServer            = "server_error"
)

// outcome is how one error code shows on the doors that have a status.
type outcome struct {
	http int
	grpc codes.Code
}

var outcomes = map[string]outcome{
	codeInvalid:         {http.StatusBadRequest, codes.InvalidArgument},
	codeUnsupported:     {http.StatusBadRequest, codes.InvalidArgument},
	codePicture:         {http.StatusBadRequest, codes.InvalidArgument},
	codeNoPictures:      {http.StatusBadRequest, codes.InvalidArgument},
	codeTooLong:         {http.StatusBadRequest, codes.InvalidArgument},
	codeBadKey:          {http.StatusUnauthorized, codes.Unauthenticated},
	codeModelDenied:     {http.StatusForbidden, codes.PermissionDenied},
	codeModelNotFound:   {http.StatusNotFound, codes.NotFound},
	codeNotFound:        {http.StatusNotFound, codes.NotFound},
	codeMethod:          {http.StatusMethodNotAllowed, codes.Unimplemented},
	codeHost:            {http.StatusMisdirectedRequest, codes.PermissionDenied},
	codeOrigin:          {http.StatusForbidden, codes.PermissionDenied},
	codeBusy:            {http.StatusConflict, codes.Aborted},
	codeRateLimit:       {http.StatusTooManyRequests, codes.ResourceExhausted},
	codeQueueFull:       {http.StatusTooManyRequests, codes.ResourceExhausted},
	codeTimeout:         {http.StatusRequestTimeout, codes.DeadlineExceeded},
	codeDeadline:        {http.StatusRequestTimeout, codes.DeadlineExceeded},
	codeNoCoordinator:   {http.StatusServiceUnavailable, codes.Unavailable},
	codeCoordinatorLost: {http.StatusServiceUnavailable, codes.Unavailable},
	codeDraining:        {http.StatusServiceUnavailable, codes.Unavailable},
	codeModelLoading:    {http.StatusServiceUnavailable, codes.Unavailable},
	codeNoCapacity:      {http.StatusServiceUnavailable, codes.Unavailable},
	codeShardLost:       {http.StatusServiceUnavailable, codes.Unavailable},
	codeInternal:        {http.StatusInternalServerError, codes.Internal},
	codePoison:          {http.StatusInternalServerError, codes.Internal},

	codeRepeated:          {http.StatusConflict, codes.Aborted},
	codeUnknownGeneration: {http.StatusNotFound, codes.NotFound},
	codeResumeExpired:     {http.StatusNotFound, codes.OutOfRange},
	codeResumedElsewhere:  {http.StatusConflict, codes.Aborted},
	codeNotAcceptable:     {http.StatusNotAcceptable, codes.InvalidArgument},
	codeNumeric:           {http.StatusInternalServerError, codes.Internal},
}

// problem is an error as clients see it: the terminal event of a generation, or
// a request that never became one.
type problem struct {
	code      string
	message   string // a sentence for people
	param     string // the member of the request that is wrong
	retryable bool
	status    int // HTTP status, when it is not the code's own

	retryAfter time.Duration // when asking again may help; 0: soon
}

// Error is the sentence.
func (p *problem) Error() string { return p.message }

// problemOf makes a client's error of a fault in its request.
func problemOf(err error) *problem {
	var p *problem
	if errors.As(err, &p) {
		return p
	}
	var e *strictjson.Error
	if errors.As(err, &e) {
		code := codeInvalid
		if e.Unknown {
			code = codeUnsupported
		}
		return &problem{code: code, message: sentence(e.Error()), param: e.Param}
	}
	return &problem{code: codeInternal, message: "The request could not be handled."}
}

// sentence capitalises text that begins with a plain word and ends it.
func sentence(text string) string {
	if len(text) > 4 && text[:4] == "the " {
		text = "T" + text[1:]
	}
	return text + "."
}

// problemFrom makes a client's error of the coordinator's terminal event.
func problemFrom(e *pb.Error) *problem {
	return &problem{code: e.GetCode(), message: e.GetMessage(), param: e.GetParam(), retryable: e.GetRetryable(), retryAfter: time.Duration(e.GetRetryAfterMs()) * time.Millisecond}
}

// event is the problem as the terminal of a generation.
func (p *problem) event() *pb.Event {
	return &pb.Event{Event: &pb.Event_Error{Error: p.proto()}}
}

func (p *problem) proto() *pb.Error {
	return &pb.Error{Code: p.code, Message: p.message, Param: p.param, Retryable: p.retryable, RetryAfterMs: uint32(min(p.retryAfter.Milliseconds(), math.MaxUint32))}
}

// outcome finds the status of a code; one that is not in the table is judged by
// what else the error says.
func (p *problem) outcome() outcome {
	o, known := outcomes[p.code]
	switch {
	case known:
	case p.retryable:
		o = outcomes[codeNoCapacity]
	case p.param != "":
		o = outcomes[codeInvalid]
	default:
		o = outcomes[codeInternal]
	}
	if p.status != 0 {
		o.http = p.status
	}
	return o
}

// grpc is the problem as a gRPC status.
func (p *problem) grpc() error {
	text := p.message
	if p.param != "" {
		text += " (" + p.code + ": " + p.param + ")"
	}
	s := status.New(p.outcome().grpc, text)
	if p.retryAfter > 0 {
		if with, err := s.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(p.retryAfter)}); err == nil {
			s = with
		}
	}
	return s.Err()
}

// retrySeconds is when to ask again, in whole seconds and at least one.
func (p *problem) retrySeconds() int {
	return max(1, int(math.Ceil(p.retryAfter.Seconds())))
}

// errorBody is the shape OpenAI's clients read.
type errorBody struct {
	Error errorDetail `json:"error"`
}

type errorDetail struct {
	Message string  `json:"message"`
	Type    string  `json:"type"`
	Param   *string `json:"param"`
	Code    string  `json:"code"`
}

func (p *problem) body() errorBody {
	d := errorDetail{Message: p.message, Type: p.kind(), Code: p.code}
	if p.param != "" {
		d.Param = &p.param
	}
	return errorBody{d}
}

// kind is the "type" of the error in OpenAI's sense.
func (p *problem) kind() string {
	switch s := p.outcome().http; {
	case s == http.StatusUnauthorized:
		return typeAuthentication
	case s == http.StatusTooManyRequests:
		return typeRateLimit
	case s < 500:
		return typeInvalid
	}
	return typeServer
}

// write answers an HTTP request with the problem.
func (p *problem) write(w http.ResponseWriter) {
	o := p.outcome()
	h := w.Header()
	if o.http == http.StatusServiceUnavailable || o.http == http.StatusTooManyRequests {
		h.Set("Retry-After", strconv.Itoa(p.retrySeconds()))
	}
	if o.http == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", "Bearer")
	}
	if isOllama(w) {
		writeJSON(w, o.http, ollamaError{p.message})
		return
	}
	writeJSON(w, o.http, p.body())
}

// writeJSON answers with a JSON document. A client that is gone does not read
// it, which is no error of ours.
func writeJSON(w http.ResponseWriter, code int, doc any) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(doc)
}
