//go:build !linux

package main

// batchThreads does nothing: only Linux knows batch work.
func batchThreads() error { return nil }
