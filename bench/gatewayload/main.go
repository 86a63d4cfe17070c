//go:build linux

// Command gatewayload measures the gateway under load: thousands of streams at
// a fixed rate each, whatever it makes of them.
//
// The gateway runs in a process of its own, and so does the coordinator that
// feeds it over the relay: one that sends tokens on time and writes into each
// when it did (pace.go), or, for the time to the first token, the real one with
// a shard that computes nothing (cluster.go). This process is the clients, all
// on one epoll (crowd.go). It checks that every stream is whole and in order,
// and measures from the moment a token leaves the coordinator to the moment its
// client has read it. All of it shares the machine, so the figures bound the
// gateway's from above.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"regexp"
	"time"

	"github.com/shoal-llm/shoal/internal/measure"
)

// settings are the flags.
type settings struct {
	save, only, command string
	profile, heap       string
	short               bool
	window              time.Duration // that is measured
	churn               time.Duration
	runs                int
}

func main() {
	if err := play(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "gatewayload:", err)
		os.Exit(1)
	}
}

// play runs the role that the first argument names, or else the load.
func play(args []string) error {
	if len(args) > 0 {
		switch args[0] {
		case roleGateway:
			return playGateway(args[1:])
		case roleCoordinator:
			return playCoordinator()
		case roleCluster:
			return playCluster()
		}
	}
	s, err := parse(args)
	if err != nil {
		return err
	}
	return run(s)
}

func parse(args []string) (settings, error) {
	var s settings
	f := flag.NewFlagSet("gatewayload", flag.ContinueOnError)
	f.StringVar(&s.save, "save", "", "JSON file of figures to merge the results into")
	f.StringVar(&s.only, "only", "", "regular expression of the scenarios to run; empty is all")
	f.StringVar(&s.command, "command", "make load", "what to note as the command that repeats the figures")
	f.StringVar(&s.profile, "cpuprofile", "", "file to write a CPU profile of the gateway to")
	f.StringVar(&s.heap, "heapprofile", "", "file to write a heap profile of the gateway under load to")
	f.BoolVar(&s.short, "short", false, "a tenth of the streams, for trying out")
	f.DurationVar(&s.window, "window", 15*time.Second, "how long each scenario is measured")
	f.DurationVar(&s.churn, "churn", 5*time.Minute, "how long sockets are opened and closed")
	f.IntVar(&s.runs, "runs", 1, "how often; figures are medians")
	err := f.Parse(args)
	if err == nil && s.runs < 1 {
		err = fmt.Errorf("-runs %d: want 1 or more", s.runs)
	}
	return s, err
}

func run(s settings) error {
	only, err := regexp.Compile(s.only)
	if err != nil {
		return fmt.Errorf("-only: %w", err)
	}
	if err := raiseFileLimit(); err != nil {
		return err
	}
	r := newReport(s)
	var failures []error
	for range s.runs {
		for _, sc := range scenarios(s) {
			if !only.MatchString(sc.name) {
				continue
			}
			if err := sc.run(s, r, sc); err != nil {
				fmt.Fprintf(os.Stderr, "%-12s FAILED: %v\n", sc.name, err)
				failures = append(failures, fmt.Errorf("%s: %w", sc.name, err))
			}
		}
	}
	if err := errors.Join(failures...); err != nil || s.save == "" {
		return err
	}
	return measure.Save(s.save, r.medians())
}
