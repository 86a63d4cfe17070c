package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/shoal-llm/shoal/services/coordinator/plan/place"
)

// placeOptions are the flags that say what a good placement is.
type placeOptions struct {
	objective string
	pins      []string
	memory    string
	wishes    place.Wishes
}

func (o *placeOptions) flags(f *pflag.FlagSet) {
	w := &o.wishes
	f.StringVar(&o.objective, "objective", "latency", "latency: the fastest answer for one; throughput: the most tokens for many")
	f.IntVar(&w.Streams, "streams", 16, "answers at once that --objective throughput is for")
	f.IntVar(&w.MaxStages, "max-stages", 0, "most stages of a pipeline; 0 is without limit")
	f.IntVar(&w.Pipelines, "replicas", 0, "most pipelines, each with all of the model; 0 is as many as help")
	f.IntVar(&w.Spares, "spares", 0, "devices to keep without work, to take over for others")
	f.StringSliceVar(&o.pins, "pin", nil, "layers that have their place, like 0-9=NODE or 12=NODE/1, comma-separated")
	f.StringSliceVar(&w.Exclude, "exclude", nil, "nodes, or NODE/DEVICE, that get no layers")
	f.StringVar(&o.memory, "model-mem", "", "memory of each device that the model may use, for example 6GiB; empty is all")
}

// complete reads what the flags spell.
func (o *placeOptions) complete() (w place.Wishes, err error) {
	w = o.wishes
	if w.Objective, err = place.ParseObjective(o.objective); err != nil {
		return w, fmt.Errorf("--objective: %w", err)
	}
	if w.Memory, err = parseBytes(o.memory); err != nil {
		return w, fmt.Errorf("--model-mem: %w", err)
	}
	for _, limit := range []struct {
		flag  string
		value int
	}{{"streams", w.Streams}, {"max-stages", w.MaxStages}, {"replicas", w.Pipelines}, {"spares", w.Spares}} {
		if limit.value < 0 || limit.value > 1<<16 {
			return w, fmt.Errorf("--%s %d: want 0 to %d", limit.flag, limit.value, 1<<16)
		}
	}
	w.Pins = nil
	for _, text := range o.pins {
		pin, err := parsePin(text)
		if err != nil {
			return w, err
		}
		w.Pins = append(w.Pins, pin)
	}
	return w, nil
}

// parsePin reads "0-9=node" or "12=node/1".
func parsePin(text string) (place.Pin, error) {
	layers, on, ok := strings.Cut(text, "=")
	from, to, isRange := strings.Cut(layers, "-")
	if !isRange {
		to = from
	}
	first, err1 := strconv.Atoi(from)
	last, err2 := strconv.Atoi(to)
	if !ok || on == "" || err1 != nil || err2 != nil || first < 0 || last < first {
		return place.Pin{}, fmt.Errorf("--pin %q: want LAYERS=NODE, like 0-9=desk or 12=desk/1", text)
	}
	return place.Pin{First: first, End: last + 1, On: on}, nil
}
