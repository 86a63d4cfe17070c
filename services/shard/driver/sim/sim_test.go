package sim

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/shoal-llm/shoal/services/shard/driver"
)

const target = 50 * time.Millisecond // of Adaptive

var streams = []int{1, 2, 4, 8, 16, 32}

func measure(t *testing.T, p Pipeline, cfg driver.Config, load []Request, until time.Duration) Score {
	t.Helper()
	s, err := Measure("ours", p, cfg, load, until)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func run(t *testing.T, p Pipeline, load ...Request) *Report {
	t.Helper()
	r, err := Run(p, Adaptive(len(p.Devices)), load, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	for i, a := range r.Answers {
		if a.Reason != driver.ReasonFinished || len(a.IDs) != load[i].Answer {
			t.Fatalf("answer %d ended as %q with %d ids of %d", i, a.Reason, len(a.IDs), load[i].Answer)
		}
	}
	return r
}

// TestDecodingIsAsFastAsTheBest: lanes that are chosen by measurement are as good
// as the best that a sweep finds.
func TestDecodingIsAsFastAsTheBest(t *testing.T) {
	for _, p := range Profiles(4) {
		for _, n := range streams {
			t.Run(fmt.Sprint(p.Name, " ", n), func(t *testing.T) {
				load := Streams(n, 16, 100_000)
				best, err := Best(p, load, []int{8, 32}, 0, 4*time.Second)
				if err != nil {
					t.Fatal(err)
				}
				if s := measure(t, p, Adaptive(4), load, 4*time.Second); s.Rate < 0.95*best.Rate {
					t.Errorf("%.1f ids a second, %s has %.1f", s.Rate, best.Name, best.Rate)
				}
			})
		}
	}
}

// TestServingIsAsFastAsTheBest: with prompts among the answers, too.
func TestServingIsAsFastAsTheBest(t *testing.T) {
	for _, p := range Profiles(4) {
		for _, n := range []int{2, 16} {
			t.Run(fmt.Sprint(p.Name, " ", n), func(t *testing.T) {
				load := Streams(n, 256, 64)
				best, err := Best(p, load, []int{16, 128}, 0, 20*time.Second)
				if err != nil {
					t.Fatal(err)
				}
				if s := measure(t, p, Adaptive(4), load, 20*time.Second); s.Rate < 0.9*best.Rate {
					t.Errorf("%.1f ids a second, %s has %.1f", s.Rate, best.Name, best.Rate)
				}
			})
		}
	}
}

// TestALongPromptStallsNobody: among 8 sessions that decode.
func TestALongPromptStallsNobody(t *testing.T) {
	long := Profiles(4)
	for i := range long {
		long[i].Devices = slices.Clone(long[i].Devices)
		for j := range long[i].Devices {
			long[i].Devices[j].Key = long[i].Devices[j].Row / 16
		}
	}
	for _, c := range []struct {
		profiles []Pipeline
		prompt   int
	}{{Profiles(4), 2000}, {Profiles(1), 2000}, {long, 32 << 10}} {
		for _, p := range c.profiles {
			t.Run(fmt.Sprintf("%s %d stages %d ids", p.Name, len(p.Devices), c.prompt), func(t *testing.T) {
				var load []Request
				for i := range 8 {
					load = append(load, Request{Prompt: 16, Answer: 1 << 20, Seed: uint64(i)})
				}
				arrives := 2 * time.Second
				load = append(load, Request{At: arrives, Prompt: c.prompt, Answer: 1, Seed: 99, Last: true})
				r, err := Run(p, Adaptive(len(p.Devices)), load, time.Hour)
				if err != nil || len(r.Answers[8].Times) == 0 {
					t.Fatal("the prompt was not computed", err)
				}
				came := r.Answers[8].Times[0]
				for i, a := range r.Answers[:8] {
					for j := 1; j < len(a.Times); j++ {
						if gap := a.Times[j] - a.Times[j-1]; a.Times[j] > arrives && a.Times[j-1] < came && gap > 2*target {
							t.Fatalf("stream %d paused for %v at %v", i, gap, a.Times[j])
						}
					}
				}
			})
		}
	}
}

// TestPromptsUseAllStages: a prompt is cut so that the stages work side by side.
func TestPromptsUseAllStages(t *testing.T) {
	for stages, want := range map[int]float64{2: 1.8, 4: 3.4} {
		if times, err := Prefill(Profiles(stages)[0], 2048); err != nil || times < want {
			t.Errorf("%d stages compute a prompt %.2f times as fast as one, want %.1f (%v)", stages, times, want, err)
		}
	}
}

// TestGuesses: they speed up a text that repeats itself where rows are cheap, and
// cost little where they are not or do not hold.
func TestGuesses(t *testing.T) {
	p := Profiles(4)
	if times, err := Speculation(p[1]); err != nil || times < 2 {
		t.Errorf("bandwidth-bound: %.2f times as fast with guesses (%v)", times, err)
	}
	if times, err := Speculation(p[0]); err != nil || times < 0.98 {
		t.Errorf("compute-bound: %.2f times as fast with guesses (%v)", times, err)
	}
	r := run(t, p[1], Request{Prompt: 64, Answer: 500, Period: 32})
	if r.Stats.Accepted < 300 {
		t.Errorf("%+v of a text of 500 ids that repeats itself", r.Stats)
	}
	off := run(t, p[1], Request{Prompt: 64, Answer: 500, Period: 32, Schedule: driver.Schedule{NoDrafts: true}})
	if off.Stats.Drafted != 0 || !slices.Equal(off.Answers[0].IDs, r.Answers[0].IDs) {
		t.Errorf("without guesses: %+v", off.Stats)
	}
}

// TestSlowLinks: one session's token costs the links, the devices and hardly more.
func TestSlowLinks(t *testing.T) {
	p := Profiles(4)[2]
	if rest, err := Hop(p); err != nil || rest > time.Millisecond {
		t.Errorf("a token takes %v beyond links and devices (%v)", rest, err)
	}
}

// TestPrefixesAreNotComputedTwice: who begins with the same ids waits for the rest
// alone.
func TestPrefixesAreNotComputedTwice(t *testing.T) {
	p := Profiles(4)[0]
	ask := Request{Prompt: 1000, Answer: 4, Period: 1 << 20}
	again := ask
	again.At = time.Minute
	r := run(t, p, ask, again)
	first, second := r.Answers[0], r.Answers[1]
	if first.Cached != 0 || second.Cached != 960 || !slices.Equal(first.IDs, second.IDs) {
		t.Errorf("cached %d and %d, ids %v and %v", first.Cached, second.Cached, first.IDs, second.IDs)
	}
	if a, b := first.Times[0], second.Times[0]-second.Submitted; b > a/4 {
		t.Errorf("first ids after %v and %v", a, b)
	}
}

// TestWeights: prompts share what there is by weight.
func TestWeights(t *testing.T) {
	r := run(t, Profiles(1)[0],
		Request{Prompt: 4000, Answer: 1, Seed: 1, Weight: 3}, Request{Prompt: 4000, Answer: 1, Seed: 2, Weight: 1})
	a, b := r.Answers[0].Times[0], r.Answers[1].Times[0]
	if share := float64(a) / float64(b) * 2; share < 1.2 || share > 1.5 { // the heavy prompt, and a third of the light one
		t.Errorf("the heavy prompt was done at %v, the light one at %v", a, b)
	}
}

// TestSchedules: what a session wishes shows.
func TestSchedules(t *testing.T) {
	p := Profiles(4)[0]
	among := func(s driver.Schedule) *Report { // a prompt among 4 sessions that decode
		var load []Request
		for i := range 4 {
			load = append(load, Request{Prompt: 16, Answer: 2000, Seed: uint64(i), Schedule: s})
		}
		return run(t, p, append(load, Request{At: time.Second, Prompt: 2000, Answer: 1, Seed: 9})...)
	}
	gap := func(s driver.Schedule) time.Duration {
		longest := time.Duration(0)
		for _, a := range among(s).Answers[:4] {
			longest = max(longest, a.Gap())
		}
		return longest
	}
	normal := gap(driver.Schedule{})
	if low, high := gap(driver.Schedule{Class: driver.ClassLatency}), gap(driver.Schedule{Class: driver.ClassThroughput}); low > normal*2/3 || high < normal*3/2 {
		t.Errorf("the longest gaps are %v, of the latency class %v, of the throughput class %v", normal, low, high)
	}
	chunk := func(s driver.Schedule) int {
		return slices.Max(run(t, p, Request{Prompt: 2000, Answer: 1, Schedule: s}).Answers[0].Chunks)
	}
	if n := chunk(driver.Schedule{Chunk: 20}); n > 20 {
		t.Errorf("chunks of %d rows, at most 20 were wished", n)
	}
	if learnt, fixed, of := chunk(driver.Schedule{}), chunk(driver.Schedule{Fixed: true}), chunk(driver.Schedule{Fixed: true, Chunk: 300}); learnt >= 300 || fixed != 512 || of != 300 {
		t.Errorf("chunks of %d rows, fixed %d, fixed at 300 %d", learnt, fixed, of)
	}
}

// TestRunsAreEqual: virtual time is a function of what is run.
func TestRunsAreEqual(t *testing.T) {
	load := Streams(5, 100, 50)
	a, b := measure(t, Profiles(4)[2], Adaptive(4), load, time.Second), measure(t, Profiles(4)[2], Adaptive(4), load, time.Second)
	if a != b {
		t.Errorf("%+v, then %+v", a, b)
	}
}

// TestStallsDoNotMoveChunks: a prompt alone is cut so that it is computed about as soon
// as by the best fixed chunks from the second one on, and machines that something holds
// up now and then cut like others.
func TestStallsDoNotMoveChunks(t *testing.T) {
	const prompts, length = 12, 1024
	for _, key := range []time.Duration{0, 100 * time.Microsecond, 300 * time.Microsecond} {
		chunks := func(cfg driver.Config, stall time.Duration) (lengths [][]int, slowest time.Duration) {
			d := Device{Fixed: 3 * time.Millisecond, Row: 350 * time.Microsecond, Key: key, Stall: stall}
			link := Link{Latency: 100 * time.Microsecond}
			var requests []Request
			for i := range prompts {
				requests = append(requests, Request{At: time.Duration(i) * 5 * time.Second, Prompt: length, Answer: 4, Seed: uint64(i * 7919)})
			}
			r, err := Run(Pipeline{Devices: []Device{d, d}, Links: []Link{link, link}, RowBytes: 2304}, cfg, requests, time.Hour)
			if err != nil {
				t.Fatal(err)
			}
			for _, a := range r.Answers[1:] {
				lengths = append(lengths, a.Chunks)
				slowest = max(slowest, a.Times[0]-a.Submitted)
			}
			return lengths, slowest
		}
		best := time.Hour
		for _, rows := range []int{32, 64, 86, 103, 128, 171, 256, 512} {
			_, took := chunks(Fixed(1, rows), 0)
			best = min(best, took)
		}
		_, took := chunks(Adaptive(2), 0)
		if took > best*21/20 {
			t.Errorf("keys of %v: a prompt takes %v, with the best fixed chunks %v", key, took, best)
		}
		stalled, _ := chunks(Adaptive(2), 100*time.Millisecond)
		for i, c := range stalled {
			if len(c) < 6 || len(c) > 24 {
				t.Errorf("keys of %v: prompt %d of machines that stall is cut into %v", key, i+1, c)
			}
		}
	}
}
