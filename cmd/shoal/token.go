package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/shoal-llm/shoal/internal/pki"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/coordinator/registry"
)

func newToken() *cobra.Command {
	var o operatorOptions
	var role string
	var life time.Duration
	c := &cobra.Command{
		Use:   "token",
		Short: "Make a token with which one machine may join the cluster",
		Long: `Make a token with which one machine may join the cluster, in one role, once,
within its life; and print the command to run there.

The token names the cluster's authority by its hash: the machine that joins
verifies it before it sends the token's secret, so nobody in between can take the
secret or the machine. Treat the token like a password until it is used.

Run it beside the coordinator, whose authority is the permission to ask, or on a
machine that joined as an operator.`,
		Example: `  shoal token
  shoal token --role gateway --life 1h
  shoal token --role operator          # for a machine that shall run commands like this one`,
		Args: exactArgs(0),
		RunE: func(c *cobra.Command, _ []string) error {
			r, err := parseRole(role)
			if err != nil {
				return usageError{c.CommandPath(), err}
			}
			if life < time.Minute || life > registry.MaxTokenLife {
				return usageError{c.CommandPath(), fmt.Errorf("--life %v: want 1m to %v", life, registry.MaxTokenLife)}
			}
			return o.askTrust(c.Context(), func(ctx context.Context, client pb.TrustServiceClient) error {
				t, err := client.CreateToken(ctx, &pb.CreateTokenRequest{Role: string(r), LifeSeconds: uint64(life / time.Second)})
				if err != nil {
					return err
				}
				if _, err := fmt.Fprintf(c.OutOrStdout(), "shoal join %s@%s\n", t.GetToken(), t.GetAddress()); err != nil {
					return err
				}
				_, err = fmt.Fprintf(c.ErrOrStderr(), "lets one %s in, until %s\n", r, time.Unix(t.GetExpires(), 0).Format(time.RFC3339))
				return err
			})
		},
	}
	o.flags(c.Flags())
	c.Flags().StringVar(&role, "role", string(pki.Shard), "role of the machine: "+roleNames())
	c.Flags().DurationVar(&life, "life", registry.DefaultTokenLife, "how long the token can be used")
	return c
}

func newNodeCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "node",
		Short: "Shut a node out of the cluster",
		Args:  noCommand,
		RunE:  func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(newRevoke())
	return c
}

func newRevoke() *cobra.Command {
	var o operatorOptions
	c := &cobra.Command{
		Use:   "revoke NODE",
		Short: "Shut a node out: its streams end, and no node takes it any more",
		Long: `Shut a node out of the cluster, at once and for good. Every node that is there is
told: it ends its connections with that one and refuses new ones. The gossip key is
replaced. What ran there is computed again elsewhere, as when a machine is lost;
to take a machine away in peace, ` + "`shoal drain`" + ` it first.

The machine can come back only with a new token. Nodes that live by a cluster secret
cannot be shut out one by one.`,
		Example: `  shoal node revoke old-pc
  shoal cert status`,
		Args: exactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return o.askTrust(c.Context(), func(ctx context.Context, client pb.TrustServiceClient) error {
				r, err := client.Revoke(ctx, &pb.RevokeRequest{Node: args[0]})
				if err != nil {
					return err
				}
				_, err = fmt.Fprintf(c.OutOrStdout(), "%s (%s) is shut out; %d nodes were told\n", args[0], r.GetRole(), r.GetFollowers())
				return err
			})
		},
	}
	o.flags(c.Flags())
	return c
}

func newCert() *cobra.Command {
	c := &cobra.Command{
		Use:   "cert",
		Short: "Certificates, tokens and the gossip key of the cluster",
		Args:  noCommand,
		RunE:  func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(newCertStatus(), newCertRotate())
	return c
}

func newCertStatus() *cobra.Command {
	var o operatorOptions
	c := &cobra.Command{
		Use:   "status",
		Short: "Who has a certificate, until when, and which tokens are open",
		Long: `List the nodes that joined by a token, until when their certificates hold (they
renew themselves after two thirds of a day), who was shut out, which tokens are
still open, and how old the gossip key is.`,
		Example: `  shoal cert status`,
		Args:    exactArgs(0),
		RunE: func(c *cobra.Command, _ []string) error {
			return o.askTrust(c.Context(), func(ctx context.Context, client pb.TrustServiceClient) error {
				r, err := client.Identities(ctx, &pb.IdentitiesRequest{})
				if err != nil {
					return err
				}
				return printIdentities(c.OutOrStdout(), r)
			})
		},
	}
	o.flags(c.Flags())
	return c
}

func printIdentities(out io.Writer, r *pb.IdentitiesResponse) error {
	at := func(unix int64) string { return time.Unix(unix, 0).Format(time.RFC3339) }
	fmt.Fprintf(out, "cluster %s; gossip: %s, since %s\n", r.GetCluster(), r.GetGossip(), at(r.GetGossipSince()))
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NODE\tROLE\tSTATE\tVALID UNTIL\tKEY")
	for _, n := range r.GetNodes() {
		state := "away"
		switch {
		case n.GetRevoked() != 0:
			state = "revoked " + at(n.GetRevoked())
		case n.GetFollowing():
			state = "connected"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", n.GetNode(), n.GetRole(), state, at(n.GetExpires()), hex.EncodeToString(n.GetFingerprint())[:16])
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, t := range r.GetTokens() {
		fmt.Fprintf(out, "token %s lets one %s in, until %s\n", t.GetToken(), t.GetRole(), at(t.GetExpires()))
	}
	return nil
}

func newCertRotate() *cobra.Command {
	var o operatorOptions
	c := &cobra.Command{
		Use:   "rotate",
		Short: "Replace the gossip key, without an interruption",
		Long: `Replace the key of the gossip, without an interruption: the new key is added at
every node, then used, and a minute later the old one is dropped. It happens by
itself once a day, and when a node is shut out. The command returns at once;
` + "`shoal cert status`" + ` says how far it is.`,
		Example: `  shoal cert rotate`,
		Args:    exactArgs(0),
		RunE: func(c *cobra.Command, _ []string) error {
			return o.askTrust(c.Context(), func(ctx context.Context, client pb.TrustServiceClient) error {
				r, err := client.RotateGossip(ctx, &pb.RotateGossipRequest{})
				if err != nil {
					return err
				}
				_, err = fmt.Fprintf(c.OutOrStdout(), "gossip: %s\n", r.GetState())
				return err
			})
		},
	}
	o.flags(c.Flags())
	return c
}
