package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/pflag"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/shoal-llm/shoal/internal/pki"
	"github.com/shoal-llm/shoal/internal/wire"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// operatorPatience is how long a command waits for the coordinator.
const operatorPatience = 5 * time.Second

// operatorOptions are the flags of commands that ask a running cluster.
type operatorOptions struct {
	identity    identityOptions
	coordinator string
	named       func() bool // whether a person gave the coordinator's address
}

func (o *operatorOptions) flags(f *pflag.FlagSet) {
	o.identity.flags(f)
	f.StringVar(&o.coordinator, "coordinator", "127.0.0.1:7700", "address of the coordinator, its --grpc-addr; a machine that joined as an operator knows it")
	o.named = func() bool { return f.Changed("coordinator") }
}

// ask calls the coordinator as an operator, over mutual TLS.
func (o *operatorOptions) ask(ctx context.Context, call func(context.Context, pb.CoordinatorServiceClient) error) error {
	return o.askOn(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		return call(ctx, pb.NewCoordinatorServiceClient(conn))
	})
}

// askTrust calls the service of identities of the coordinator.
func (o *operatorOptions) askTrust(ctx context.Context, call func(context.Context, pb.TrustServiceClient) error) error {
	return o.askOn(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		err := call(ctx, pb.NewTrustServiceClient(conn))
		if status.Code(err) == codes.Unimplemented {
			return fmt.Errorf("the coordinator at %s holds no authority: its cluster lives by a secret or by certificates from outside, or another coordinator holds it (--coordinator)", conn.Target())
		}
		return err
	})
}

// askOn calls over a connection to the coordinator. The identity of a machine that
// joined as an operator is renewed on the way, when that is due.
func (o *operatorOptions) askOn(ctx context.Context, call func(context.Context, *grpc.ClientConn) error) error {
	usual, err := usualName(pki.Operator)
	if err != nil {
		usual = nodeName("somewhere", pki.Operator)
	}
	who, err := o.identity.open(pki.Operator, "", usual)
	if err != nil {
		return err
	}
	if m := who.member; m != nil && !o.named() && len(m.Coordinators()) > 0 {
		o.coordinator = m.Coordinators()[0]
	}
	conn, err := grpc.NewClient("passthrough:///"+o.coordinator,
		append(wire.DialOptions(), grpc.WithTransportCredentials(who.identity.ClientCredentials("", pki.Coordinator)))...)
	if err != nil {
		return fmt.Errorf("--coordinator %s: %w", o.coordinator, err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, operatorPatience)
	defer cancel()
	err = call(ctx, conn)
	if m := who.member; err == nil && m != nil && !time.Now().Before(m.RenewAt()) {
		err = m.Renew(ctx, pb.NewTrustServiceClient(conn))
	}
	if s, ok := status.FromError(err); ok && err != nil {
		if s.Code() == codes.Unavailable || s.Code() == codes.DeadlineExceeded {
			return fmt.Errorf("no coordinator answers at %s: is one running there, of this cluster? (%s)", o.coordinator, s.Message())
		}
		return errors.New(s.Message())
	}
	return err
}

// cluster asks how the cluster is.
func (o *operatorOptions) cluster(ctx context.Context) (r *pb.ClusterResponse, err error) {
	err = o.ask(ctx, func(ctx context.Context, c pb.CoordinatorServiceClient) error {
		r, err = c.Cluster(ctx, &pb.ClusterRequest{})
		return err
	})
	return r, err
}
