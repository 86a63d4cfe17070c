package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestBatchThreads runs in a process of its own: there is no way back.
func TestBatchThreads(t *testing.T) {
	const child = "SHOAL_TEST_BATCH"
	if os.Getenv(child) == "" {
		c := exec.Command(os.Args[0], "-test.run=^TestBatchThreads$", "-test.v")
		c.Env = append(os.Environ(), child+"=1")
		if out, err := c.CombinedOutput(); err != nil || !strings.Contains(string(out), "PASS: TestBatchThreads") {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	if err := batchThreads(); err != nil {
		t.Fatal(err)
	}
	policy := make(chan uint32)
	go func() { // maybe on another thread
		attr, err := unix.SchedGetAttr(0, 0)
		if err != nil {
			t.Error(err)
			attr = &unix.SchedAttr{}
		}
		policy <- attr.Policy
	}()
	if got := <-policy; got != unix.SCHED_BATCH {
		t.Errorf("policy %d", got)
	}
	attr, err := unix.SchedGetAttr(os.Getpid(), 0)
	if err != nil || attr.Policy != unix.SCHED_BATCH {
		t.Errorf("the first thread: %+v, %v", attr, err)
	}
}
