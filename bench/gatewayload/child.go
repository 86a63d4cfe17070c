//go:build linux

package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The roles that this program plays in processes of its own, so that what each
// of them costs can be told apart.
const (
	roleGateway     = "role-gateway"
	roleCoordinator = "role-coordinator" // tokens at a fixed pace
	roleCluster     = "role-cluster"     // the real coordinator and a shard that computes nothing
)

// usage is what a process has used up to now, and holds now.
type usage struct {
	CPU        time.Duration
	RSS        int64 // bytes
	Goroutines int
	Files      int // descriptors
	Heap       uint64
	Stacks     uint64
	Collected  uint32 // garbage collections

	// Of the paced coordinator, since it was last asked: how late frames left.
	Sent       uint64
	Starved    uint64 // tokens that waited for credit
	LateMedian time.Duration
	LateP99    time.Duration
	LateMost   time.Duration
}

// ownUsage measures this process.
func ownUsage() (usage, error) {
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		return usage{}, fmt.Errorf("measure CPU time: %w", err)
	}
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return usage{}, err
	}
	fields := strings.Fields(string(statm))
	if len(fields) < 2 {
		return usage{}, fmt.Errorf("read /proc/self/statm: %q", statm)
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil {
		return usage{}, err
	}
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return usage{}, err
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return usage{
		CPU:        time.Duration(r.Utime.Nano() + r.Stime.Nano()),
		RSS:        pages * int64(os.Getpagesize()),
		Goroutines: runtime.NumGoroutine(),
		Files:      len(files) - 1, // that of the listing itself
		Heap:       m.HeapAlloc, Stacks: m.StackInuse, Collected: m.NumGC,
	}, nil
}

// child is a process that plays a role. It ends when its standard input does.
type child struct {
	addr  string
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines *bufio.Reader
}

// startChild runs this program in a role and waits until it serves. A role
// reads the cluster's secret from the first line of its input, writes its
// address, and then answers each word with one line.
func startChild(secret string, args ...string) (*child, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := &child{cmd: exec.Command(program, args...)}
	c.cmd.Stderr = os.Stderr
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.lines = bufio.NewReader(out)
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	if err := c.ask(secret, &c.addr); err != nil {
		return nil, fmt.Errorf("start %s: %w", args[0], errors.Join(err, c.stop()))
	}
	return c, nil
}

// ask sends a word and decodes the answer.
func (c *child) ask(word string, answer any) error {
	if _, err := fmt.Fprintln(c.in, word); err != nil {
		return err
	}
	line, err := c.lines.ReadBytes('\n')
	if err != nil {
		return err
	}
	return json.Unmarshal(line, answer)
}

// usage asks the process what it has used.
func (c *child) usage() (usage, error) {
	var u usage
	err := c.ask("usage", &u)
	return u, err
}

// stop ends the process in order.
func (c *child) stop() error {
	return errors.Join(c.in.Close(), c.cmd.Wait())
}

// converse is the child's side: it calls start with the secret, writes the
// address that start returns, and answers words until the input ends.
func converse(in io.Reader, out io.Writer, start func(secret string) (string, error), answer func(word string) (any, error)) error {
	lines := bufio.NewScanner(in)
	reply := json.NewEncoder(out)
	if !lines.Scan() {
		return errors.New("no secret on standard input")
	}
	addr, err := start(lines.Text())
	if err != nil {
		return err
	}
	if err := reply.Encode(addr); err != nil {
		return err
	}
	for lines.Scan() {
		a, err := answer(lines.Text())
		if err != nil {
			return err
		}
		if err := reply.Encode(a); err != nil {
			return err
		}
	}
	return lines.Err()
}
