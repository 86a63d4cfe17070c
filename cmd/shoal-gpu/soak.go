package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"

	"github.com/shoal-llm/shoal/internal/measure"
	"github.com/shoal-llm/shoal/pkg/compute"
)

// soakOptions are the flags of `shoal-gpu soak-readback`.
type soakOptions struct {
	deviceFlags
	count int
	save  saving
}

func newSoak(d driver) *cobra.Command {
	var o soakOptions
	c := &cobra.Command{
		Use:   "soak-readback",
		Short: "Write and read back a buffer very often, under constant garbage collection",
		Long: `Write a row, read it back and compare it, as often as --count says, while the Go heap
is collected all the time and as many passes are in flight as a device takes: what a
native library keeps of Go's memory beyond a call would be found out.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return o.run(c, d) },
	}
	f := c.Flags()
	o.deviceFlags.flags(f)
	f.IntVar(&o.count, "count", 1_000_000, "how often")
	f.StringVar(&o.save.file, "save", "", "JSON file of figures to merge the result into")
	f.StringVar(&o.save.command, "command", "make bench-gpu", "how to repeat the figure")
	return c
}

func (o *soakOptions) run(c *cobra.Command, d driver) (err error) {
	if o.count < 1 {
		return usageError{c.CommandPath(), fmt.Errorf("--count %d: want 1 or more", o.count)}
	}
	be, a, err := o.open(d, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, be.Close()) }()
	defer debug.SetGCPercent(debug.SetGCPercent(1))
	began := time.Now()
	if err := soak(c.Context(), be, o.count); err != nil {
		return err
	}
	took := time.Since(began)
	fmt.Fprintf(c.OutOrStdout(), "%d read-backs from %s in %v, all right\n", o.count, a.Name, took.Round(time.Millisecond))
	if o.save.file == "" {
		return nil
	}
	return measure.Save(o.save.file, []measure.Figure{{
		Name: "readback_soak", Value: float64(o.count), Unit: "read-backs without an error", Runs: 1, Machine: a.Name, Command: o.save.command,
	}})
}

// soakCols is the width of the row that is read back.
const soakCols = 64

// soaking is a pass in flight.
type soaking struct {
	batch compute.Batch
	bytes []byte
	dst   []float32
}

// soak writes and reads back count rows. What is read belongs to the garbage
// collector as soon as it was compared.
func soak(ctx context.Context, be compute.Backend, count int) (err error) {
	arena := be.NewArena()
	var flying []*soaking
	defer func() {
		for range flying {
			<-be.Completions()
		}
		err = errors.Join(err, arena.Free())
	}()
	buffer, err := arena.NewBuffer(1, soakCols)
	if err != nil {
		return err
	}
	for done, next := 0, 0; done < count; {
		for ; next < count && len(flying) < compute.MaxPasses; next++ {
			flying = append(flying, submitSoak(be, buffer, uint64(next)))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case c, ok := <-be.Completions():
			s := flying[0]
			flying = flying[1:]
			switch {
			case !ok:
				flying = nil
				return fmt.Errorf("read-back %d: the device is closed", done)
			case c.Err != nil:
				return fmt.Errorf("read-back %d: %w", done, c.Err)
			case c.Tag != uint64(done):
				return fmt.Errorf("read-back %d: the completion is that of %d", done, c.Tag)
			}
			for i, v := range s.dst {
				if want := soakValue(uint64(done), i); v != want {
					return fmt.Errorf("read-back %d: value %d is %v, want %v", done, i, v, want)
				}
			}
			done++
		}
	}
	return nil
}

// soakValue is the i-th value of a row.
func soakValue(row uint64, i int) float32 { return float32((row*31+uint64(i)*7)%65536) + 1 }

func submitSoak(be compute.Backend, buffer compute.Buffer, row uint64) *soaking {
	s := &soaking{
		batch: compute.Batch{Rows: 1, Spans: []compute.Span{{Count: 1, Pages: []int32{0}}}},
		dst:   make([]float32, soakCols),
	}
	for i := range soakCols {
		s.bytes = binary.LittleEndian.AppendUint32(s.bytes, math.Float32bits(soakValue(row, i)))
	}
	p := be.Begin(&s.batch)
	p.Write(buffer, s.bytes)
	p.Submit(row, compute.Read{Src: buffer, Rows: 1, Dst: s.dst})
	return s
}
