package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/shoal-llm/shoal/internal/weights"
)

// shown shows progress on a terminal as a line that is written anew, and elsewhere
// as a line now and then.
type shown struct {
	out  io.Writer
	live bool

	last    time.Time
	phase   string
	pending bool // a line is there that is to be written over
}

func newShown(out io.Writer) *shown { return &shown{out: out, live: terminal(out), last: time.Now()} }

// Between two lines.
const (
	liveEvery = 100 * time.Millisecond
	logEvery  = 10 * time.Second
)

// progress returns what shows the progress of a model by name; nil shows nothing.
func (s *shown) progress(name string) func(weights.Progress) {
	if s == nil {
		return nil
	}
	return func(p weights.Progress) {
		now := time.Now()
		news := p.Phase != s.phase || p.Done == p.Total && p.Total > 0
		if wait := now.Sub(s.last); s.live && !news && wait < liveEvery || !s.live && wait < logEvery {
			return
		}
		s.last, s.phase = now, p.Phase
		line := fmt.Sprintf("  %s %s", name, progressText(p))
		if s.live {
			fmt.Fprintf(s.out, "\r\x1b[K%s", line)
			s.pending = true
			return
		}
		fmt.Fprintln(s.out, line)
	}
}

// end leaves the last line where it is.
func (s *shown) end() {
	if s != nil && s.pending {
		fmt.Fprintln(s.out)
		s.pending = false
	}
}

// progressText says how far something is: phase, bytes, share, rate and what is left
// of time.
func progressText(p weights.Progress) string {
	parts := []string{p.Phase}
	if p.Total > 0 && p.Done > 0 {
		const width = 20
		full := int(width * p.Done / p.Total)
		parts = append(parts, strings.Repeat("█", full)+strings.Repeat("·", width-full),
			fmt.Sprintf("%d %%", 100*p.Done/p.Total), fmt.Sprintf("%s of %s", bytesText(uint64(p.Done)), bytesText(uint64(p.Total))))
	}
	if p.Rate > 0 && p.Done < p.Total {
		left := time.Duration(float64(p.Total-p.Done) / p.Rate * float64(time.Second))
		parts = append(parts, bytesText(uint64(p.Rate))+"/s", "ETA "+left.Round(time.Second).String())
	}
	if p.Note != "" {
		parts = append(parts, "("+p.Note+")")
	}
	return strings.Join(parts, " ")
}
