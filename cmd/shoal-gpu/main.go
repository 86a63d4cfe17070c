// Command shoal-gpu serves one GPU to a cluster. The shard role of shoal starts
// it, once for each GPU (package supervise says how they talk); by hand it lists,
// tests and measures them.
//
// It is a program of its own because a GPU's native library ends its process
// when a device fails.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// version is set by the release build.
var version = "0.1.0-dev"

// Exit codes.
const (
	exitFailed    = 1
	exitUsage     = 2
	exitInterrupt = 130
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	os.Exit(run(ctx, gpus(), os.Args[1:]))
}

// run executes the command line on the devices of a driver and returns the exit
// code.
func run(ctx context.Context, d driver, args []string) int {
	root := newRoot(d)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		return exitInterrupt
	}
	fmt.Fprintf(os.Stderr, "shoal-gpu: %v\n", err)
	var usage usageError
	if errors.As(err, &usage) {
		fmt.Fprintf(os.Stderr, "Try '%s --help'.\n", usage.command)
		return exitUsage
	}
	return exitFailed
}

// usageError is a mistake on the command line.
type usageError struct {
	command string
	err     error
}

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

func newRoot(d driver) *cobra.Command {
	root := &cobra.Command{
		Use:   "shoal-gpu",
		Short: "Drive the GPUs of this machine for shoal",
		Long: `Drive the GPUs of this machine. Install this program beside shoal: the shard role
starts it once for each GPU. The commands here list, test and measure the GPUs.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       version,
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return usageError{c.CommandPath(), err} })
	root.AddCommand(newServe(d), newAdapters(d), newBench(d), newSoak(d), newSelfTest(d))
	root.CompletionOptions.HiddenDefaultCmd = true
	return root
}
