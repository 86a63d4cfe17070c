package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/coordinator/plan/place"
)

func newPs() *cobra.Command {
	var o operatorOptions
	c := &cobra.Command{
		Use:   "ps",
		Short: "What runs: models, pipelines, stages and sessions",
		Long: `Show what a running cluster serves: its models, each pipeline with its stages,
how many sessions run on it, and how fast it was predicted to be beside how fast
it has been of late.`,
		Example: `  shoal ps --cluster-secret-file cluster.key`,
		Args:    exactArgs(0),
		RunE: func(c *cobra.Command, _ []string) error {
			r, err := o.cluster(c.Context())
			if err != nil {
				return err
			}
			printRunning(c.OutOrStdout(), r)
			return nil
		},
	}
	o.flags(c.Flags())
	return c
}

func printRunning(out io.Writer, r *pb.ClusterResponse) {
	for _, m := range r.GetModels() {
		fmt.Fprintf(out, "model %s: %s, %s, %d layers", m.GetName(), m.GetState(), m.GetPrecision(), m.GetLayers())
		if m.GetReason() != "" {
			fmt.Fprintf(out, "; %s", m.GetReason())
		}
		fmt.Fprintln(out)
	}
	fmt.Fprintf(out, "sessions: %d running, %d waiting\n", r.GetRunning(), r.GetWaiting())
	for _, p := range r.GetPipelines() {
		printPipeline(out, p)
	}
	for _, s := range r.GetSpares() {
		fmt.Fprintf(out, "in reserve: %s/%d layers %s\n", s.GetNode(), s.GetDevice(), stageText(s))
	}
}

func printPipeline(out io.Writer, info *pb.PipelineInfo) {
	p, speed := info.GetPipeline(), info.GetSpeed()
	fmt.Fprintf(out, "pipeline %d: %s, %d sessions, %d of %d KV pages free\n", p.GetId(), info.GetState(), info.GetRunning(), info.GetFreePages(), p.GetPages())
	if speed.GetToken() > 0 {
		fmt.Fprintf(out, "  one stream: %s predicted, %s measured; first token after %s for a prompt of %d\n",
			place.Rate(1/speed.GetToken()), measuredRate(speed.GetTokenMeasured()), place.Duration(speed.GetFirstToken()), speed.GetPrompt())
	}
	for i, s := range p.GetStages() {
		fmt.Fprintf(out, "  stage %d: %s/%d layers %s", i, s.GetNode(), s.GetDevice(), stageText(s))
		if i < len(speed.GetStages()) {
			v := speed.GetStages()[i]
			fmt.Fprintf(out, ": %s a token predicted, %s measured; %s predicted, %s held", place.Duration(v.GetDecode()),
				measuredTime(v.GetDecodeMeasured()), bytesText(v.GetBytes()), measuredBytes(v.GetBytesMeasured()))
		}
		fmt.Fprintln(out)
	}
	printMemory(out, info.GetMemory())
}

// printMemory says what the stages hold, and how much less that is than in 16 bits.
func printMemory(out io.Writer, stages []*pb.StageMemory) {
	if len(stages) == 0 {
		return
	}
	var all pb.StageMemory
	for i, s := range stages {
		how := "held"
		if !s.GetMeasured() {
			how = "predicted"
		}
		fmt.Fprintf(out, "  memory of stage %d, %s: %s\n", i, how, memoryText(s))
		all.Weights, all.Caches, all.Buffers, all.Halves = all.Weights+s.Weights, all.Caches+s.Caches, all.Buffers+s.Buffers, all.Halves+s.Halves
	}
	fmt.Fprintf(out, "  memory in all: %s\n", memoryText(&all))
}

func memoryText(s *pb.StageMemory) string {
	held := s.GetWeights() + s.GetCaches()
	text := fmt.Sprintf("weights %s, KV cache %s, buffers %s", bytesText(s.GetWeights()), bytesText(s.GetCaches()), bytesText(s.GetBuffers()))
	if s.GetHalves() > 0 {
		text += fmt.Sprintf("; weights and cache take %.1f %% less than the %s of 16 bits", 100*(1-float64(held)/float64(s.GetHalves())), bytesText(s.GetHalves()))
	}
	return text
}

func measuredRate(seconds float64) string {
	if seconds <= 0 {
		return "nothing"
	}
	return place.Rate(1 / seconds)
}

func measuredTime(seconds float64) string {
	if seconds <= 0 {
		return "nothing"
	}
	return place.Duration(seconds)
}

func measuredBytes(n uint64) string {
	if n == 0 {
		return "nothing yet"
	}
	return bytesText(n)
}
