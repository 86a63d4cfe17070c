//go:build linux

package main

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/shoal-llm/shoal/internal/measure"
)

// report prints what was measured and collects the figures of all runs.
type report struct {
	machine, command string
	order            []string
	values           map[string][]float64
	units            map[string]string
}

func newReport(s settings) *report {
	return &report{
		machine: machineName(), command: s.command,
		values: map[string][]float64{}, units: map[string]string{},
	}
}

// add collects one figure of one run.
func (r *report) add(name string, value float64, unit string) {
	if r.values[name] == nil {
		r.order = append(r.order, name)
	}
	r.values[name] = append(r.values[name], value)
	r.units[name] = unit
}

// medians are the figures over all runs.
func (r *report) medians() []measure.Figure {
	var out []measure.Figure
	for _, name := range r.order {
		v := slices.Sorted(slices.Values(r.values[name]))
		out = append(out, measure.Figure{
			Name: name, Value: v[len(v)/2], Unit: r.units[name], Runs: len(v), Machine: r.machine, Command: r.command,
		})
	}
	return out
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// perToken is µs of the gateway's CPU.
func (v *window) perToken() float64 {
	return float64(v.gateway.CPU) / float64(time.Microsecond) / float64(max(v.tokens, 1))
}

func cores(cpu, length time.Duration) float64 { return cpu.Seconds() / length.Seconds() }

func (v *window) print(name string) {
	l := &v.latency
	fmt.Printf("%-12s %7.0f tokens/s  added p50 %.2f p99 %.2f p99.9 %.2f most %.1f ms  gateway %.1f µs/token, %.2f cores, %d collections\n",
		name, float64(v.tokens)/v.length.Seconds(), ms(l.quantile(.5)), ms(l.quantile(.99)), ms(l.quantile(.999)), ms(l.most),
		v.perToken(), cores(v.gateway.CPU, v.length), v.garbage)
	fmt.Printf("%-12s beside it: coordinator %.2f cores, its frames late p50 %.2f p99 %.2f most %.1f ms, %d waits for credit; clients %.2f cores\n",
		"", cores(v.feeder.CPU, v.length), ms(v.feeder.LateMedian), ms(v.feeder.LateP99), ms(v.feeder.LateMost),
		v.feeder.Starved, cores(v.generator, v.length))
}

func (r *report) steady(sc scenario, v window, baseline usage) {
	v.print(sc.name)
	kib := float64(v.gateway.RSS-baseline.RSS) / 1024 / float64(sc.streams)
	fmt.Printf("%-12s %.1f KiB resident a stream (%d MiB, heap %d MiB, stacks %d MiB), %.2f goroutines a stream\n", "",
		kib, v.gateway.RSS>>20, v.gateway.Heap>>20, v.gateway.Stacks>>20, float64(v.gateway.Goroutines-baseline.Goroutines)/float64(sc.streams))
	p50, p99 := ms(v.latency.quantile(.5)), ms(v.latency.quantile(.99))
	switch sc.name {
	case "ws_5k":
		r.add("ws_5k_added_p50_ms", p50, "ms")
		r.add("ws_5k_added_p99_ms", p99, "ms")
		r.add("gateway_us_per_token", v.perToken(), "µs")
		r.add("ws_kib_per_stream", kib, "KiB")
	case "ws_10k_x8":
		r.add("ws_10k_x8_p50_ms", p50, "ms")
		r.add("ws_10k_x8_p99_ms", p99, "ms")
		r.add("ws_10k_x8_us_per_token", v.perToken(), "µs")
	default:
		r.add(sc.name+"_p99_ms", p99, "ms")
	}
}

// stalled compares the windows in which all read with those in which some did
// not, by the median of their p99.
func (r *report) stalled(reading, stalling []window, count int) {
	a, b := medianP99(reading), medianP99(stalling)
	last, end := reading[len(reading)-1], stalling[len(stalling)-1]
	last.print("stalled")
	end.print("  with stalls")
	kib := float64(end.gateway.RSS-last.gateway.RSS) / 1024 / float64(count)
	fmt.Printf("%-12s %d stalled: median p99 of the others %.2f → %.2f ms (%d and %d windows of %v), %.1f KiB resident for each of them\n",
		"", count, ms(a), ms(b), len(reading), len(stalling), last.length.Round(time.Millisecond), kib)
	r.add("stalled_p99_ratio", float64(b)/float64(max(a, 1)), "×")
}

// medianP99 is the median of the windows' 99th percentiles.
func medianP99(list []window) time.Duration {
	var all []time.Duration
	for i := range list {
		all = append(all, list[i].latency.quantile(.99))
	}
	slices.Sort(all)
	return all[len(all)/2]
}

func (r *report) churn(sc scenario, u usage, length time.Duration, opened, whole int, before, after usage) {
	fmt.Printf("%-12s %d sockets in %v, %d answers complete, gateway %.2f cores; descriptors %d → %d, goroutines %d → %d, resident %d → %d MiB\n",
		sc.name, opened, length.Round(time.Second), whole, cores(u.CPU, length),
		before.Files, after.Files, before.Goroutines, after.Goroutines, before.RSS>>20, after.RSS>>20)
	r.add("churn_cores", cores(u.CPU, length), "cores")
	r.add("churn_left_goroutines", float64(max(after.Goroutines-before.Goroutines, 0)), "")
}

func (r *report) firstTokens(sc scenario, h *histogram, rate float64) {
	fmt.Printf("%-12s %d first tokens at %.0f/s beside %d streams: p50 %.2f p99 %.2f most %.1f ms\n",
		sc.name, h.n, rate, sc.streams, ms(h.quantile(.5)), ms(h.quantile(.99)), ms(h.most))
	r.add("ttft_added_p99_ms", ms(h.quantile(.99)), "ms")
}

// machineName names the processor and its cores.
func machineName() string {
	name := runtime.GOARCH
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
				name = strings.TrimSpace(value)
				break
			}
		}
	}
	return fmt.Sprintf("%s, %d cores, shared with the clients", name, runtime.NumCPU())
}
