package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// llamaCPP runs the benchmark programs of one build of llama.cpp.
type llamaCPP struct {
	name   string
	suffix string // of figures against this build alone; empty for none
	bin    string // folder of its programs
}

// builds returns the builds of llama.cpp in a folder. The one without AMX, made
// where the CPU has it, is at times the faster one.
func builds(dir string) ([]llamaCPP, error) {
	var out []llamaCPP
	for _, l := range []llamaCPP{{"llama.cpp", "", "build"}, {"llama.cpp, no AMX", "_no_amx", "build-no-amx"}} {
		l.bin = filepath.Join(dir, l.bin, "bin")
		if _, err := os.Stat(filepath.Join(l.bin, "llama-bench")); err == nil {
			out = append(out, l)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no llama.cpp in %s (bench/llamacpp.sh builds it)", dir)
	}
	return out, nil
}

// bench runs llama-bench once, with its own warm-up before, on a prompt of
// prompt tokens or on decode decoded ones, and returns tokens a second. more are
// further arguments.
func (l llamaCPP) bench(ctx context.Context, model string, threads, prompt, decode int, more ...string) (float64, error) {
	var row struct {
		Rate float64 `json:"avg_ts"`
	}
	args := append([]string{"-m", model, "-t", strconv.Itoa(threads),
		"-p", strconv.Itoa(prompt), "-n", strconv.Itoa(decode), "-r", "1", "-o", "jsonl"}, more...)
	err := l.run(ctx, &row, "llama-bench", args...)
	return row.Rate, err
}

// batched runs llama-batched-bench once and returns decoded tokens a second of
// all streams together.
func (l llamaCPP) batched(ctx context.Context, model string, threads, streams, prompt, decode int) (float64, error) {
	var row struct {
		Rate float64 `json:"speed_tg"`
	}
	err := l.run(ctx, &row, "llama-batched-bench", "-m", model, "-t", strconv.Itoa(threads), "-c", "4096",
		"-npp", strconv.Itoa(prompt), "-ntg", strconv.Itoa(decode), "-npl", strconv.Itoa(streams), "--output-format", "jsonl")
	return row.Rate, err
}

// run runs a program and reads the one JSON line it prints.
func (l llamaCPP) run(ctx context.Context, row any, name string, args ...string) error {
	c := exec.CommandContext(ctx, filepath.Join(l.bin, name), args...)
	out, err := c.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			lines := strings.Split(strings.TrimSpace(string(exit.Stderr)), "\n")
			err = fmt.Errorf("%w: %s", err, lines[len(lines)-1])
		}
		return fmt.Errorf("%s: %w", name, err)
	}
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, "{") {
			if err := json.Unmarshal([]byte(line), row); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			return nil
		}
	}
	return fmt.Errorf("%s printed no result", name)
}
