package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// server is a `shoal up` in a process of its own, so that its CPU time can be
// told from the client's.
type server struct {
	cmd *exec.Cmd
	url string
}

// startLimit is how long a server may take until it can answer.
const startLimit = time.Minute

// startServer runs the program and waits until it can answer with a model, one
// of the folder models or an embedded one.
func startServer(ctx context.Context, program, models, model string, threads, stages int) (*server, error) {
	c := exec.CommandContext(ctx, program, "up", model, "--models", models, "--listen", "127.0.0.1:0", "--log-level", "error",
		"--threads", strconv.Itoa(threads), "--stages", strconv.Itoa(stages))
	c.Cancel = func() error { return c.Process.Signal(os.Interrupt) }
	c.WaitDelay = 10 * time.Second
	c.Stderr = os.Stderr
	out, err := c.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", program, err)
	}
	late := time.AfterFunc(startLimit, func() { _ = c.Process.Kill() })
	defer late.Stop()
	s := &server{cmd: c}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if at := strings.Index(lines.Text(), "http://"); s.url == "" && at >= 0 {
			s.url = strings.TrimSpace(lines.Text()[at:])
		}
		if strings.Contains(lines.Text(), "ready in") {
			return s, nil
		}
	}
	return nil, fmt.Errorf("%s up ended before it was ready: %w", program, s.stop())
}

func (s *server) stop() error {
	_ = s.cmd.Process.Signal(os.Interrupt)
	return s.cmd.Wait()
}

// cpuTime returns the CPU time that a process has used, in ticks of 10 ms.
func cpuTime(pid int) (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// proc(5): the name, field 2, ends at the last parenthesis; user and system
	// time are fields 14 and 15.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	const tick = 10 * time.Millisecond
	user, err1 := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	return time.Duration(user+system) * tick, errors.Join(err1, err2)
}
