// Command shoal runs one language model over whatever machines are at hand.
//
// This package reads flags, environment and configuration, makes the parts and
// runs them; it decides nothing else.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
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
	os.Exit(run(ctx, os.Args[1:]))
}

// run executes the command line and returns the exit code.
func run(ctx context.Context, args []string) int {
	root := newRoot()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		return exitInterrupt
	}
	fmt.Fprintf(os.Stderr, "shoal: %v\n", err)
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

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "shoal",
		Short: "One large language model over whatever machines you have",
		Long: `Shoal splits a language model's layers over whatever machines and devices are at
hand and answers through a page, WebSocket, gRPC and the OpenAI API.

Start here:
  shoal up                       all roles in one process, with the built-in model
  shoal run tiny "Hello!"        one answer in the terminal, without a cluster

Every flag can also be set as SHOAL_NAME in the environment (--admin-addr is
SHOAL_ADMIN_ADDR) or in a YAML file (--config); flags win over the environment,
the environment over the file.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       version,
		Args:          noCommand,
		RunE:          func(c *cobra.Command, _ []string) error { return c.Help() },

		SuggestionsMinimumDistance: 2,
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usageError{c.CommandPath(), err}
	})
	root.PersistentFlags().String("config", "", "YAML file of settings, keys as the flags are named")
	root.PersistentFlags().String("log-level", "", "debug, info, warn or error (default info; warn for up, run and bench)")
	root.PersistentFlags().String("log-format", "auto", "text, json, or auto: text on a terminal")
	root.PersistentPreRunE = func(c *cobra.Command, _ []string) error { return applySettings(c) }
	root.AddCommand(
		newUp(), newCoordinator(), newShard(), newGateway(),
		newToken(), newJoin(), newNodeCommand(), newCert(), newKey(),
		newPlan(), newNodes(), newPs(), newDrain(), newUndrain(),
		newPull(), newLs(), newRm(), newShow(), newVerify(), newManifest(),
		newRun(), newQuantize(), newBench(), newHealth(), newSecret(), newVersion(),
	)
	root.CompletionOptions.HiddenDefaultCmd = true
	return root
}

// noCommand names the word that is no command, and what may have been meant.
func noCommand(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	err := fmt.Errorf("unknown command %q", args[0])
	if like := c.SuggestionsFor(args[0]); len(like) > 0 {
		err = fmt.Errorf("%w: did you mean %s?", err, strings.Join(like, " or "))
	}
	return usageError{c.CommandPath(), err}
}

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  exactArgs(0),
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(c.OutOrStdout(), "shoal", version)
			return err
		},
	}
}

// exactArgs wants n arguments, and names the mistake as one of usage.
func exactArgs(n int) cobra.PositionalArgs { return rangeArgs(n, n) }

func rangeArgs(least, most int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) < least || len(args) > most {
			return usageError{c.CommandPath(), fmt.Errorf("%d arguments given; usage: %s", len(args), c.UseLine())}
		}
		return nil
	}
}
