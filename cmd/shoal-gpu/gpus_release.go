//go:build !gputest

package main

// gpus is what this program drives.
func gpus() driver { return webGPUs() }
