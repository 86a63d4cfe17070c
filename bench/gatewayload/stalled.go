//go:build linux

package main

import (
	"errors"
	"fmt"
	"time"
)

// Of the clients of stalled, one in ten gets long tokens into a small buffer,
// and stops reading.
const (
	stalledShare  = 10
	stalledPad    = 512 // bytes
	stalledBuffer = 4096
	stalledFor    = 25 * time.Second // their sockets fill, and the gateway gives up
	stalledRounds = 3
	stalledSlices = 3 // of the window, while all read
)

// stalled measures what the others notice of clients that read nothing. In each
// round all read for a while, then one in ten stops until the gateway has given
// it up, and new clients take the places of those. The windows of both kinds
// alternate and are short, so that what else the machine does meets both, and
// their medians are compared.
func stalled(s settings, r *report, sc scenario) (err error) {
	b, err := setUp(s, roleCoordinator)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.tearDown()) }()
	ordinary := fmt.Sprintf("%d 0", sc.rate)
	count := sc.streams / stalledShare
	if err := b.fill(sc.kind, sc.streams-count, func(int) (string, int, int) { return ordinary, 0, 0 }); err != nil {
		return err
	}
	rounds := stalledRounds
	if s.short {
		rounds = 1
	}
	slice := s.window / stalledSlices
	var reading, stalling []window
	for range rounds {
		before, after, err := b.stall(sc, slice, count)
		if err != nil {
			return err
		}
		reading, stalling = append(reading, before...), append(stalling, after...)
	}
	r.stalled(reading, stalling, count)
	return b.finish(sc.streams - count)
}

// stall is one round: count more clients come, read with the others, and stop.
func (b *bench) stall(sc scenario, slice time.Duration, count int) (reading, stalling []window, err error) {
	long := fmt.Sprintf("%d %d", sc.rate, stalledPad)
	first := len(b.clients)
	if err := b.fill(sc.kind, count, func(int) (string, int, int) { return long, 1, stalledBuffer }); err != nil {
		return nil, nil, err
	}
	time.Sleep(settle)
	if reading, err = b.slices(slice, stalledSlices); err != nil {
		return nil, nil, err
	}
	b.crowd.do(func() {
		for _, c := range b.clients[first:] {
			err = errors.Join(err, b.crowd.stall(c))
		}
	})
	if err != nil {
		return nil, nil, err
	}
	if stalling, err = b.slices(slice, int((stalledFor+slice-1)/slice)); err != nil {
		return nil, nil, err
	}
	if err := b.awaitFiles(reading[0].gateway.Files - count); err != nil {
		return nil, nil, fmt.Errorf("wait for the gateway to give up %d stalled clients: %w", count, err)
	}
	return reading, stalling, nil
}

// slices measures n windows, one after another.
func (b *bench) slices(d time.Duration, n int) (list []window, err error) {
	for range n {
		w, err := b.measure(d)
		if err != nil {
			return nil, err
		}
		list = append(list, w)
	}
	return list, nil
}

// awaitFiles waits until the gateway holds no more descriptors than that.
func (b *bench) awaitFiles(most int) error {
	for end := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		u, err := b.gateway.usage()
		if err != nil || u.Files <= most {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("it holds %d descriptors, want %d", u.Files, most)
		}
	}
}
