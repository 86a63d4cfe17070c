package main

import (
	"fmt"
	"time"

	"github.com/shoal-llm/shoal/services/shard/driver/sim"
)

// simStages is the length of the simulated pipelines.
const simStages = 4

// simulate reports what the driver reaches on simulated devices, where a step
// takes a fixed time and more for each row.
func (r *report) simulate() error {
	if err := r.simulateShares(); err != nil {
		return err
	}
	for _, stages := range []int{2, simStages} {
		times, err := sim.Prefill(sim.Profiles(stages)[0], 2048)
		if err != nil {
			return err
		}
		r.note(fmt.Sprintf("prefill_%d_stages", stages), times, "times one stage, simulated, compute-bound")
	}
	times, err := sim.Speculation(sim.Profiles(simStages)[1])
	if err != nil {
		return err
	}
	r.note("sim_speculation", times, "times without guesses, simulated, bandwidth-bound")
	if err := r.simulateDrafts(); err != nil {
		return err
	}
	rest, err := sim.Hop(sim.Profiles(simStages)[2])
	if err != nil {
		return err
	}
	r.note("sim_slow_links_rest_ms", float64(rest)/float64(time.Millisecond), "ms a token beyond links of 10 ms and devices, simulated")
	return nil
}

// simulateShares holds the driver against the best fixed lanes and rows.
func (r *report) simulateShares() error {
	worst, serving := 1.0, 1.0
	for _, p := range sim.Profiles(simStages) {
		for _, streams := range []int{1, 2, 4, 8, 16, 32} {
			decode, err := share(p, sim.Streams(streams, 16, 100_000), []int{1, 2, 4, 8, 16, 32}, 10*time.Second)
			if err != nil {
				return err
			}
			mixed, err := share(p, sim.Streams(streams, 256, 64), []int{4, 8, 16, 32, 64, 128, 256}, time.Minute)
			if err != nil {
				return err
			}
			fmt.Fprintf(r.out, "%-24s %2d streams: decoding %.3f, with prompts %.3f of the best fixed lanes and rows\n", p.Name, streams, decode, mixed)
			worst, serving = min(worst, decode), min(serving, mixed)
		}
	}
	r.note("sim_share_of_best_worst", worst, "of the best lanes × rows, decoding, simulated")
	r.note("sim_share_of_best_serving_worst", serving, "of the best lanes × rows, with prompts, simulated")
	return nil
}

// share returns the driver's ids a second as a share of the best fixed setting's.
func share(p sim.Pipeline, load []sim.Request, rows []int, until time.Duration) (float64, error) {
	best, err := sim.Best(p, load, rows, 0, until)
	if err != nil {
		return 0, err
	}
	ours, err := sim.Measure("shoal", p, sim.Adaptive(simStages), load, until)
	return ours.Rate / best.Rate, err
}

// simulateDrafts measures a draft model that takes a twentieth of a token's time and
// is right in four of five ids: for one stream on slow links, and for 32 that are best
// served without.
func (r *report) simulateDrafts() error {
	p := sim.Profiles(simStages)[2]
	draft := sim.Draft{Each: (simStages*(p.Devices[0].Fixed+p.Devices[0].Row) + simStages*p.Links[0].Latency) / 20, Right: 0.8}
	for _, c := range []struct {
		name    string
		streams int
	}{{"sim_draft_model", 1}, {"sim_draft_model_32_streams", 32}} {
		times, err := sim.Drafting(p, draft, c.streams)
		if err != nil {
			return err
		}
		fmt.Fprintf(r.out, "%-32s %8.2f times without\n", c.name, times)
		r.note(c.name, times, "times without a draft model, simulated, links of 10 ms")
	}
	return nil
}
