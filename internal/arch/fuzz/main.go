// Command fuzz runs every fuzz target of the repository, two at a time, and adds
// the minutes and executions that each has behind it to docs/measurements/fuzz.json,
// so that runs accumulate. The targets with the fewest minutes come first, and one that
// has --total behind it is left out.
//
//	go run ./internal/arch/fuzz --time 30s
//	go run ./internal/arch/fuzz --time 10m --total 10m --record
package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/shoal-llm/shoal/internal/measure"
)

// Files of figures: those of every target, and the least of them among others of
// security.
const (
	figures = "docs/measurements/fuzz.json"
	summary = "docs/measurements/security.json"
)

// target is one fuzz function and the folder of its package.
type target struct {
	dir, name string
	minutes   float64 // accumulated before this run
}

func main() {
	length := flag.Duration("time", 30*time.Second, "how long each target runs")
	total := flag.Duration("total", 0, "leave out targets that have this much behind them; 0 leaves out none")
	record := flag.Bool("record", false, "add minutes and executions to "+figures)
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *length, *total, *record); err != nil {
		fmt.Fprintln(os.Stderr, "fuzz:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, length, total time.Duration, record bool) error {
	targets, err := find(".")
	if err != nil {
		return err
	}
	if err := behind(targets); err != nil {
		return err
	}
	slices.SortStableFunc(targets, fewer)
	work := make(chan target)
	var file sync.Mutex // one writer of the figures at a time
	var failed []error
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for t := range work {
				execs, err := fuzz(ctx, t, length)
				file.Lock()
				if err != nil {
					failed = append(failed, err)
				} else if record {
					err = note(t, length, execs)
					failed = append(failed, err)
				}
				file.Unlock()
			}
		})
	}
feed:
	for _, t := range targets {
		if total > 0 && t.minutes >= total.Minutes() {
			continue
		}
		select {
		case work <- t:
		case <-ctx.Done():
			failed = append(failed, ctx.Err())
			break feed
		}
	}
	close(work)
	wg.Wait()
	if err := errors.Join(failed...); err != nil {
		return err
	}
	if !record {
		return nil
	}
	return least(targets)
}

// label names a target among those of all packages.
func (t target) label() string { return strings.ReplaceAll(t.dir, "/", "_") + "_" + t.name }

func fewer(a, b target) int { return cmp.Compare(a.minutes, b.minutes) }

var fuzzFunc = regexp.MustCompile(`(?m)^func (Fuzz[A-Za-z0-9_]*)\(`)

// find lists the fuzz functions of the repository at root, in order of their files.
func find(root string) ([]target, error) {
	var found []target
	for _, top := range []string{"cmd", "internal", "pkg", "services"} {
		err := filepath.WalkDir(filepath.Join(root, top), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
				return err
			}
			source, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for _, m := range fuzzFunc.FindAllSubmatch(source, -1) {
				found = append(found, target{dir: filepath.Dir(path), name: string(m[1])})
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("look for targets: %w", err)
		}
	}
	if len(found) == 0 {
		return nil, errors.New("no fuzz target here: start it in the root of the repository")
	}
	return found, nil
}

// behind fills in the minutes that earlier runs recorded.
func behind(targets []target) error {
	old, err := measure.Load(figures)
	if err != nil {
		return err
	}
	for i := range targets {
		for _, f := range old {
			if f.Name == "fuzz_minutes_"+targets[i].label() {
				targets[i].minutes = f.Value
			}
		}
	}
	return nil
}

var executions = regexp.MustCompile(`execs: (\d+)`)

// fuzz runs one target with one worker and says how many inputs it tried.
func fuzz(ctx context.Context, t target, length time.Duration) (execs int, err error) {
	fmt.Printf("%s %s: %v\n", t.dir, t.name, length)
	cmd := exec.CommandContext(ctx, "go", "test", "./"+t.dir, "-run", "^$", "-fuzz", "^"+t.name+"$",
		"-fuzztime", length.String(), "-parallel", "1") // #nosec G204 -- of this repository
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	out, err := cmd.CombinedOutput()
	lines := bufio.NewScanner(bytes.NewReader(out))
	for lines.Scan() {
		if m := executions.FindStringSubmatch(lines.Text()); m != nil {
			execs, _ = strconv.Atoi(m[1])
		}
	}
	if err != nil {
		return execs, fmt.Errorf("%s %s: %w\n%s", t.dir, t.name, err, out)
	}
	fmt.Printf("%s %s: %d inputs, nothing found\n", t.dir, t.name, execs)
	return execs, nil
}

// note adds what one target has just done.
func note(t target, length time.Duration, execs int) error {
	return measure.Add(figures, []measure.Figure{
		figure("fuzz_minutes_"+t.label(), length.Minutes(), "minutes without a finding, one worker, accumulated"),
		figure("fuzz_inputs_"+t.label(), float64(execs), "inputs without a finding, accumulated"),
	})
}

// least records what the target with the fewest minutes has.
func least(targets []target) error {
	if err := behind(targets); err != nil {
		return err
	}
	fewest := slices.MinFunc(targets, fewer)
	return measure.Save(summary, []measure.Figure{figure("fuzz_minutes_per_target", fewest.minutes,
		fmt.Sprintf("minutes, the least of %d targets, accumulated", len(targets)))})
}

func figure(name string, value float64, unit string) measure.Figure {
	return measure.Figure{Name: name, Value: value, Unit: unit, Runs: 1,
		Machine: fmt.Sprintf("%s, %d threads", runtime.GOARCH, runtime.NumCPU()), Command: "make fuzz-long"}
}
