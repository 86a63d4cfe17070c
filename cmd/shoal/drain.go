package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

func newDrain() *cobra.Command {
	return drainCommand(&cobra.Command{
		Use:   "drain NODE",
		Short: "Take the work off a node, so that it may be stopped",
		Long: `Have the coordinator move all layers off NODE. What runs there goes on until it
has moved: no answer ends. The command returns at once; ` + "`shoal nodes NODE`" + ` says how
far the node is, and why when its work fits nowhere else.`,
		Example: `  shoal drain old-pc --cluster-secret-file cluster.key
  shoal nodes old-pc --cluster-secret-file cluster.key
  shoal undrain old-pc --cluster-secret-file cluster.key`,
	}, false)
}

func newUndrain() *cobra.Command {
	return drainCommand(&cobra.Command{
		Use:     "undrain NODE",
		Short:   "Let a node that was drained work again",
		Example: `  shoal undrain old-pc --cluster-secret-file cluster.key`,
	}, true)
}

func drainCommand(c *cobra.Command, undo bool) *cobra.Command {
	var o operatorOptions
	c.Args = exactArgs(1)
	o.flags(c.Flags())
	c.RunE = func(c *cobra.Command, args []string) error {
		return o.ask(c.Context(), func(ctx context.Context, client pb.CoordinatorServiceClient) error {
			r, err := client.Drain(ctx, &pb.DrainRequest{Node: args[0], Undo: undo})
			if err != nil {
				return err
			}
			state := r.GetState()
			if state == "" {
				state = "it may be used"
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%s: %s\n", args[0], state)
			return err
		})
	}
	return c
}
