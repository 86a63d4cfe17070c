package main

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/compute/cpu"
	"github.com/shoal-llm/shoal/pkg/quant/formats"
)

func newSelfTest(d driver) *cobra.Command {
	var o deviceFlags
	c := &cobra.Command{
		Use:   "self-test",
		Short: "Run what a device must pass before it joins a cluster",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) (err error) {
			be, a, err := o.open(d, slog.New(slog.DiscardHandler))
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, be.Close()) }()
			print, err := verify(be)
			if err != nil {
				return fmt.Errorf("%s: %w", a.Name, err)
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%s is right\nclass        %s\nfingerprint  %x\n", a.Name, be.Info().Class, print)
			return err
		},
	}
	o.flags(c.Flags())
	return c
}

// openReference opens the CPU's exact arithmetic.
func openReference() (compute.Backend, error) {
	be, err := cpu.Open(cpu.Config{Reference: true, Threads: 1})
	if err != nil {
		return nil, err
	}
	return be, nil
}

// verify holds a device against the CPU's exact arithmetic and returns its
// fingerprint.
func verify(be compute.Backend) (print [32]byte, err error) {
	reference, err := openReference()
	if err != nil {
		return print, err
	}
	defer func() { err = errors.Join(err, reference.Close()) }()
	return compute.Verify(be, reference, compute.Float, formats.All())
}
