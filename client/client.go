// Package client asks a Shoal gateway for answers over its public gRPC API.
//
// Deadlines and stops are those of contexts: an answer ends when the context of
// its call ends, and the cluster stops computing it within two steps. The
// package keeps no state but the connection, and its methods are safe for
// concurrent use; a Chat is not.
package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// Config says which gateway to ask.
type Config struct {
	Address string      // host:port of the gateway's gRPC listener
	Key     string      // API key; empty sends none
	TLS     *tls.Config // nil is no TLS, which is only for loopback addresses
}

// Client is a connection to a gateway.
type Client struct {
	conn    *grpc.ClientConn
	service pb.GenerateServiceClient
}

// Error is the end of an answer that failed, with the code of the API.
type Error struct {
	Code, Message string
	Param         string // the member of the request that is wrong; empty is none
	Retryable     bool
}

// Error is the sentence for people.
func (e *Error) Error() string { return e.Message }

// StoppedError is the end of an answer that somebody ended before it was
// complete: the client, its deadline, or a gateway that shuts down ("drain").
type StoppedError struct{ Reason string }

// Error names the reason.
func (e *StoppedError) Error() string { return "stopped: " + e.Reason }

// ErrCut is the end of a stream that broke off without a word. The answer is not
// whole.
var ErrCut = errors.New("the stream was cut before the answer was complete")

// Times after which a silent connection counts as dead.
const (
	pingEvery = 20 * time.Second
	pingWait  = 10 * time.Second
)

// New makes a client. It connects with the first call, and again whenever the
// connection is lost. A key is never sent over an open connection to another
// machine.
func New(c Config) (*Client, error) {
	host, _, err := net.SplitHostPort(c.Address)
	if err != nil {
		return nil, fmt.Errorf("address %q: want host:port", c.Address)
	}
	creds := insecure.NewCredentials()
	if c.TLS != nil {
		creds = credentials.NewTLS(c.TLS)
	} else if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, fmt.Errorf("address %q is another machine's: give a TLS configuration", c.Address)
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingEvery, Timeout: pingWait}),
	}
	if c.Key != "" {
		options = append(options, grpc.WithPerRPCCredentials(bearer{c.Key, c.TLS != nil}))
	}
	conn, err := grpc.NewClient(c.Address, options...)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", c.Address, err)
	}
	return &Client{conn: conn, service: pb.NewGenerateServiceClient(conn)}, nil
}

// bearer sends a key with every call.
type bearer struct {
	key    string
	secure bool
}

// GetRequestMetadata returns the header that gateways read.
func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + b.key}, nil
}

// RequireTransportSecurity is true unless the gateway is on this machine.
func (b bearer) RequireTransportSecurity() bool { return b.secure }

// Close ends the connection, and with it every answer that is running.
func (c *Client) Close() error { return c.conn.Close() }

// Generate asks for one answer and yields its events in order: Accepted first,
// then Progress and Token. A complete answer ends with Complete and a nil error.
// Every other end is an error: *Error, *StoppedError, ErrCut or a gRPC status.
// Leaving the loop stops the answer; so does the end of ctx, whose deadline goes
// along.
func (c *Client) Generate(ctx context.Context, g *pb.Generation) iter.Seq2[*pb.Event, error] {
	return func(yield func(*pb.Event, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := c.service.Generate(ctx, &pb.GenerateRequest{Generation: g})
		if err != nil {
			yield(nil, err)
			return
		}
		events(func() (*pb.Event, error) {
			m, err := stream.Recv()
			return m.GetEvent(), err
		}, yield)
	}
}

// events yields what next returns up to the terminal.
func events(next func() (*pb.Event, error), yield func(*pb.Event, error) bool) {
	for {
		e, err := next()
		if errors.Is(err, io.EOF) {
			err = ErrCut
		}
		if err == nil {
			err = failure(e)
		}
		if err != nil {
			yield(nil, err)
			return
		}
		if !yield(e, nil) || e.GetComplete() != nil {
			return
		}
	}
}

// failure is the error that a terminal means, nil for all other events.
func failure(e *pb.Event) error {
	switch e := e.GetEvent().(type) {
	case *pb.Event_Error:
		return &Error{e.Error.GetCode(), e.Error.GetMessage(), e.Error.GetParam(), e.Error.GetRetryable()}
	case *pb.Event_Stopped:
		return &StoppedError{e.Stopped.GetReason()}
	}
	return nil
}

// Text asks for one answer and returns its whole text.
func (c *Client) Text(ctx context.Context, g *pb.Generation) (string, error) {
	text := ""
	for e, err := range c.Generate(ctx, g) {
		if err != nil {
			return text, err
		}
		text += e.GetToken().GetDelta().GetContent() + e.GetComplete().GetText()
	}
	return text, nil
}

// Models lists what can be asked.
func (c *Client) Models(ctx context.Context) ([]*pb.ModelInfo, error) {
	m, err := c.service.Models(ctx, &pb.ModelsRequest{})
	return m.GetModels(), err
}

// Tokenize returns the ids of a text as the model reads it, without a template.
func (c *Client) Tokenize(ctx context.Context, model, text string) ([]int32, error) {
	m, err := c.service.Tokenize(ctx, &pb.TokenizeRequest{Model: model, Input: &pb.TokenizeRequest_Raw{Raw: text}})
	return m.GetIds(), err
}

// Watch yields the state of the cluster, at once and whenever it changes, until
// ctx ends or the loop is left.
func (c *Client) Watch(ctx context.Context) iter.Seq2[*pb.GenerateServiceClusterResponse, error] {
	return func(yield func(*pb.GenerateServiceClusterResponse, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := c.service.Cluster(ctx, &pb.GenerateServiceClusterRequest{})
		for err == nil {
			var state *pb.GenerateServiceClusterResponse
			if state, err = stream.Recv(); err == nil && !yield(state, nil) {
				return
			}
		}
		yield(nil, err)
	}
}
