package main

import (
	"context"
	"errors"
	"fmt"
	"os"
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
	secretFile  string
	coordinator string
}

func (o *operatorOptions) flags(f *pflag.FlagSet) {
	f.StringVar(&o.secretFile, "cluster-secret-file", "", "file that holds the cluster secret: it proves that you may ask")
	f.StringVar(&o.coordinator, "coordinator", "127.0.0.1:7700", "address of the coordinator, its --grpc-addr")
}

// ask calls the coordinator as an operator, over mutual TLS.
func (o *operatorOptions) ask(ctx context.Context, call func(context.Context, pb.CoordinatorServiceClient) error) error {
	secret, err := loadSecret(nodeOptions{secretFile: o.secretFile})
	if err != nil {
		return err
	}
	host, err := os.Hostname()
	if err != nil {
		host = "somewhere"
	}
	id, err := pki.New(secret, pki.Node{ID: nodeName(host, pki.Operator), Roles: []pki.Role{pki.Operator}})
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient("passthrough:///"+o.coordinator,
		append(wire.DialOptions(), grpc.WithTransportCredentials(id.ClientCredentials("", pki.Coordinator)))...)
	if err != nil {
		return fmt.Errorf("--coordinator %s: %w", o.coordinator, err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, operatorPatience)
	defer cancel()
	err = call(ctx, pb.NewCoordinatorServiceClient(conn))
	if s, ok := status.FromError(err); ok && err != nil {
		if s.Code() == codes.Unavailable || s.Code() == codes.DeadlineExceeded {
			return fmt.Errorf("no coordinator answers at %s: is one running there, with this secret? (%s)", o.coordinator, s.Message())
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
