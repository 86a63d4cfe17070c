package main

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// batchThreads makes the threads of this process, and those they will start, batch
// work (sched(7), SCHED_BATCH): one that wakes does not interrupt one that runs.
//
// Go's runtime has a thread that looks after the others. Whenever the process has
// been idle, as a stage is between two tokens, it wakes every 20 µs for a while;
// where the workers take all cores it does so in the middle of a pass, about thirty
// times a token, and costs a stage with one core a quarter of its speed.
func batchThreads() error {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	for _, t := range tasks {
		tid, err := strconv.Atoi(t.Name())
		if err != nil {
			continue
		}
		if err := batchThread(tid); err != nil {
			return fmt.Errorf("thread %d: %w", tid, err)
		}
	}
	return nil
}

// batchThread leaves a thread alone that has ended, or has a policy of its own.
func batchThread(tid int) error {
	attr, err := unix.SchedGetAttr(tid, 0)
	if err == unix.ESRCH {
		return nil
	}
	if err != nil || attr.Policy != unix.SCHED_NORMAL {
		return err
	}
	attr.Policy = unix.SCHED_BATCH
	if err := unix.SchedSetAttr(tid, attr, 0); err != unix.ESRCH {
		return err
	}
	return nil
}
