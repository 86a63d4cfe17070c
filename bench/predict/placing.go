package main

import (
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"github.com/shoal-llm/shoal/internal/measure"
	"github.com/shoal-llm/shoal/services/coordinator/plan/place"
)

// uneven is a model of 128 layers in three shapes and 32 nodes of as many
// speeds, with links that are all different: the worst case of a placement.
func uneven() (*place.Model, *place.Cluster) {
	rnd := rand.New(rand.NewPCG(1, 2))
	m := &place.Model{
		Name: "m", Embed: 1 << 30, Head: 1 << 30, Tied: 1 << 30, HeadShape: "head",
		KVPage: 256 << 10, Context: 8192, Buffers: 1 << 20, Logits: 512 << 10, Wire: 32 << 10,
	}
	for i := range 128 {
		m.Layers = append(m.Layers, place.Layer{Bytes: 500<<20 + uint64(i%3)<<24, Shape: fmt.Sprint("s", i%3)})
	}
	c := &place.Cluster{Links: place.Links{Between: map[place.Direction]place.Link{}}}
	const nodes = 32
	for a := range nodes {
		speed := 0.5 + rnd.Float64()
		d := place.Device{
			Node: fmt.Sprint("n", a), Memory: uint64((4 + rnd.IntN(20)) << 30), Pass: 1e-4,
			Speeds: map[string]place.Speed{"head": {Fixed: 2e-2 * speed, Row: 1e-3}},
		}
		for i := range 3 {
			d.Speeds[fmt.Sprint("s", i)] = place.Speed{Fixed: 5e-3 * speed * float64(3+i), Row: 2e-4 * speed, Key: 1e-8}
		}
		c.Devices = append(c.Devices, d)
		for b := range nodes {
			c.Links.Between[place.Direction{From: d.Node, To: fmt.Sprint("n", b)}] = place.Link{
				Delay: 1e-4 + 2e-3*rnd.Float64(), Rate: 1e8 * (1 + rnd.Float64()),
			}
		}
	}
	return m, c
}

// placing measures a placement, for the slower of the two objectives.
func placing(machine string, out io.Writer) measure.Figure {
	const runs = 15
	m, c := uneven()
	worst := 0.0
	for _, o := range []place.Objective{place.Latency, place.Throughput} {
		var times []float64
		for range runs {
			began := time.Now()
			if _, err := place.Place(m, c, place.Wishes{Objective: o, Sessions: 4}); err != nil {
				panic(err) // the case is ours, and fits
			}
			times = append(times, float64(time.Since(began))/float64(time.Millisecond))
		}
		worst = max(worst, measure.Median(times))
	}
	fmt.Fprintf(out, "placing 128 layers on 32 nodes: %.1f ms\n", worst)
	return measure.Figure{Name: "plan_128x32_ms", Value: worst, Unit: "ms", Runs: runs, Machine: machine, Command: "make bench-plan"}
}
