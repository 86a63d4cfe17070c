package shard

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/engine"
	"github.com/shoal-llm/shoal/pkg/frame"
	"github.com/shoal-llm/shoal/pkg/model"
	"github.com/shoal-llm/shoal/pkg/sample"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// Sizes and times of measuring. A device is measured on real weights of the
// model, or on made-up ones of the same shapes where they would have to be fetched: enough of them that they come from memory as they do in service, or all
// that there are.
const (
	measureBytes   = 128 << 20
	measureFor     = time.Second // for a device, once it has begun a part no longer than that part takes
	measureChunk   = 64          // rows of a chunk of a prompt
	measureFar     = 512         // position from which the cost of keys is seen
	measureContext = 1024
)

// talk is what a turn takes besides the wait for the owner, in seconds, until real
// steps show it: to send a result by mutual TLS and to take what it begins. A
// gauge's steps do without.
const talk = 60e-6

// Measure says how fast the devices are at parts of a model. Parts that were not
// measured before are measured now, one pass at a time between the frames of
// real steps, while there is time; the answer leaves out what is not known.
func (s *server) Measure(ctx context.Context, req *pb.MeasureRequest) (*pb.MeasureResponse, error) {
	if err := checkMeasure(req); err != nil {
		return nil, err
	}
	if !req.GetCached() {
		select {
		case s.measuring <- struct{}{}:
			defer func() { <-s.measuring }()
		case <-ctx.Done():
			return nil, status.FromContextError(ctx.Err()).Err()
		}
	}
	out := &pb.MeasureResponse{}
	for _, d := range s.devices {
		if t := req.GetTurnSeconds(); t > 0 {
			s.speeds.setTurn(d, t)
			s.keepSpeeds(d)
		}
		if err := s.measureDevice(ctx, d, req); err != nil {
			if ctx.Err() != nil {
				return nil, status.FromContextError(ctx.Err()).Err()
			}
			s.deps.Log.Warn("cannot measure", "device", d.index, "err", err)
		}
		out.Devices = append(out.Devices, s.speeds.of(d, req.GetParts()))
	}
	return out, nil
}

// measureDevice measures what is not known of a device.
func (s *Shard) measureDevice(ctx context.Context, d *device, req *pb.MeasureRequest) error {
	_ = s.speeds.read() // what another node of this machine has measured, if it can be read
	var missing []*pb.MeasurePart
	for _, p := range req.GetParts() {
		if !s.speeds.knows(d, p.GetShape()) {
			missing = append(missing, p)
		}
	}
	if req.GetCached() || len(missing) == 0 && (d.bandwidth == nil || s.speeds.bandwidth(d) > 0) {
		return nil
	}
	m, err := s.openModel(ctx, req.GetModel(), []*pb.Holder{req.GetHolder()})
	if err != nil {
		return err
	}
	began := time.Now()
	for _, p := range missing {
		if time.Since(began) > measureFor {
			break // others when they are asked for again
		}
		err = errors.Join(err, s.measurePart(ctx, d, m, p))
	}
	if s.speeds.bandwidth(d) == 0 && d.bandwidth != nil && time.Since(began) < measureFor {
		if rate, err := d.bandwidth(); err == nil {
			s.speeds.setBandwidth(d, rate)
		}
	}
	s.deps.Log.Info("measured", "device", d.index, "model", req.GetModel().GetName(), "parts", len(missing), "took", time.Since(began))
	s.keepSpeeds(d)
	return errors.Join(err, m.Close())
}

func (s *Shard) keepSpeeds(d *device) {
	if err := s.speeds.save(); err != nil {
		s.deps.Log.Warn("the device will be measured again", "device", d.index, "err", err)
	}
}

// measurePart measures layers of one shape, or a head.
func (s *Shard) measurePart(ctx context.Context, d *device, m *Model, p *pb.MeasurePart) error {
	part, err := measurable(m, p)
	if err != nil {
		return err
	}
	g, err := s.newGauge(ctx, d, m, part)
	if err != nil {
		return fmt.Errorf("load layers [%d, %d) to measure: %w", part.First, part.End, err)
	}
	defer g.close(ctx)
	if p.GetHead() {
		return g.head(ctx, s.speeds, p.GetShape())
	}
	return g.layers(ctx, s.speeds, p.GetShape())
}

// measurable is the part of p that is measured: the last layers of it that are
// enough.
func measurable(m *Model, p *pb.MeasurePart) (model.Part, error) {
	first, end, layers := int(p.GetFirst()), int(p.GetEnd()), m.Spec.Layers
	if first >= end || end > layers || p.GetHead() && end != layers {
		return model.Part{}, fmt.Errorf("measure layers [%d, %d) of %d", first, end, layers)
	}
	if p.GetHead() {
		first = end - 1
	}
	for first < end-1 && (first == 0 || m.Bytes(model.Part{First: first, End: end}) > measureBytes) {
		first++
	}
	return model.Part{First: first, End: end, Embed: first == 0, Head: end == layers}, nil
}

// gauge is a part of a model on a device, to be timed. The first error ends it.
type gauge struct {
	d      *device
	e      Engine
	part   model.Part
	hidden int
	step   uint64
	at     int // positions that the one session has
	most   int // positions that it may have
	chunk  int // rows of a chunk

	headShare float64   // bytes of the head, of those of the layers
	turns     []float64 // seconds that steps of one row waited for the owner, and their results for who wants them
}

func (s *Shard) newGauge(ctx context.Context, d *device, m *Model, part model.Part) (*gauge, error) {
	g := &gauge{d: d, part: part, hidden: m.Spec.Hidden, most: min(measureContext, m.Spec.Context)}
	g.chunk = min(measureChunk, g.most)
	layers := part
	layers.Head = false
	g.headShare = float64(m.Bytes(part)-m.Bytes(layers)) / float64(max(m.Bytes(layers), 1))
	cfg := engine.Config{
		Epoch: 1, Part: part, Slots: 1, Rows: g.chunk, Context: g.most,
		Pages: g.most/compute.PageTokens + 1, KV: m.KV,
	}
	var loadErr error
	err := d.do(ctx, func() { g.e, loadErr = s.deps.Load(d.be, m.Arch, m.measured(), m.Spec, cfg) })
	if err = errors.Join(err, loadErr); err != nil {
		return nil, err
	}
	return g, nil
}

// close gives back what the part holds. It does so even when ctx has ended.
func (g *gauge) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = g.d.do(ctx, func() {
		if err := g.e.Close(); err != nil {
			g.d.log.Error("a measured part gave back less than it took", "error", err)
		}
	})
}

// pass times one step of rows rows, on the goroutine that owns the device; steps
// of others go before it and after it. A session that has no room for them begins
// anew.
func (g *gauge) pass(ctx context.Context, rows int, out frame.Output) (seconds float64, err error) {
	g.step++
	f := &frame.Frame{Epoch: 1, Step: g.step}
	if g.step == 1 {
		f.Ops = []frame.Op{{Open: &frame.Open{Attempt: 1, Sampling: sample.Spec{IgnoreEOS: true, MaxTokens: measureContext}}}}
	}
	if g.at+rows > g.most {
		f.Ops = []frame.Op{{Truncate: &frame.Truncate{}}}
		g.at = 0
	}
	if rows > 0 {
		f.Spans = []frame.Span{{Attempt: 1, Start: int32(g.at), Tokens: make([]int32, rows), Output: out}}
		if !g.part.Embed {
			f.DType, f.Rows = frame.DTypeF32, make([]byte, 4*rows*g.hidden)
		}
	}
	g.at += rows
	asked := time.Now()
	doErr := g.d.do(ctx, func() {
		g.d.abandon()
		g.d.lastTag++
		began := time.Now()
		if err = g.e.Start(g.d.lastTag, f); err != nil {
			return
		}
		c, ok := <-g.d.be.Completions()
		if !ok {
			err = errors.New("the backend was closed")
			return
		}
		_, err = g.e.Finish(c)
		seconds = time.Since(began).Seconds()
	})
	if rows == 1 {
		g.turns = append(g.turns, time.Since(asked).Seconds()-seconds)
	}
	return seconds, errors.Join(doErr, err)
}

// usual times steps until there are most, or at least least and the time is up,
// and returns the time that a quarter of them stayed below: others that are busy
// on the machine make steps longer, nothing makes them shorter.
func (g *gauge) usual(ctx context.Context, rows int, out frame.Output, least, most int, limit time.Duration) (float64, error) {
	var times []float64
	began := time.Now()
	for len(times) < most && (len(times) < least || time.Since(began) < limit) {
		t, err := g.pass(ctx, rows, out)
		if err != nil {
			return 0, err
		}
		times = append(times, t)
	}
	return quarter(times), nil
}

// quarter returns the value that a quarter of times are below.
func quarter(times []float64) float64 {
	slices.Sort(times)
	return times[len(times)/4]
}

// layers measures the layers of the part: a step of one row near and far from
// the beginning, a chunk, and a step without rows, which is what any step costs
// besides.
func (g *gauge) layers(ctx context.Context, into *speeds, shape string) error {
	if _, err := g.pass(ctx, g.chunk, frame.OutputNone); err != nil { // the first is slow
		return err
	}
	empty, err := g.usual(ctx, 0, frame.OutputNone, 8, 8, 0)
	if err != nil {
		return err
	}
	near := float64(g.at)
	one, err := g.usual(ctx, 1, frame.OutputNone, 3, 24, 150*time.Millisecond)
	if err != nil {
		return err
	}
	chunk, err := g.usual(ctx, g.chunk, frame.OutputNone, 1, 3, 200*time.Millisecond)
	if err != nil {
		return err
	}
	key := 0.0 // unless it can be seen
	if g.most >= measureFar+2*g.chunk && float64(measureFar/g.chunk)*chunk < 0.5 {
		for g.at < measureFar {
			if _, err := g.pass(ctx, g.chunk, frame.OutputNone); err != nil {
				return err
			}
		}
		far, err := g.usual(ctx, 1, frame.OutputNone, 3, 24, 150*time.Millisecond)
		if err != nil {
			return err
		}
		key = max(0, far-one) / (float64(g.at) - near)
	}
	if one <= empty || chunk <= empty {
		empty = 0 // something else was going on
	}
	into.setPass(g.d, empty, quarter(g.turns)+talk)
	into.set(g.d, shape, fit(one-empty, chunk-empty, float64(g.chunk), key, near, float64(g.part.End-g.part.First)))
	return nil
}

// fit makes a line of the times of a step of one row and of one of rows rows, of
// n layers, near positions in.
func fit(one, chunk, rows, key, near, n float64) *pb.ShapeSpeed {
	key = min(key, one/2/max(near, 1)) // what is more is noise
	one -= key * near
	chunk = max(chunk-key*rows*(near+rows/2), one)
	row := min((chunk-one)/max(rows-1, 1), one)
	return &pb.ShapeSpeed{Fixed: (one - row) / n, Row: row / n, Key: key / n}
}

// head measures the output head and sampling: what a step takes longer when it
// wants a token.
func (g *gauge) head(ctx context.Context, into *speeds, shape string) error {
	if _, err := g.pass(ctx, g.chunk, frame.OutputSample); err != nil {
		return err
	}
	var without, with []float64
	for range 12 {
		a, err := g.pass(ctx, 1, frame.OutputNone)
		if err != nil {
			return err
		}
		b, err := g.pass(ctx, 1, frame.OutputSample)
		if err != nil {
			return err
		}
		without, with = append(without, a), append(with, b)
	}
	chunk, err := g.usual(ctx, g.chunk, frame.OutputNone, 1, 3, 100*time.Millisecond)
	if err != nil {
		return err
	}
	one := quarter(without)
	extra := quarter(with) - one
	if extra <= 0 { // something else was going on: as much longer as it is larger
		extra = one * g.headShare
	}
	// More rows cost a head as much more as they cost layers, in proportion.
	share := min(1, (chunk-one)/max(float64(g.chunk-1), 1)/max(one, 1e-9))
	into.set(g.d, shape, &pb.ShapeSpeed{Fixed: extra * (1 - share), Row: extra * share})
	return nil
}

// checkMeasure refuses what is too much or about nothing.
func checkMeasure(req *pb.MeasureRequest) error {
	const mostParts = 64
	if t := req.GetTurnSeconds(); t < 0 || t > 1 || math.IsNaN(t) {
		return status.Errorf(codes.InvalidArgument, "a turn of %g seconds", t)
	}
	if req.GetModel().GetName() == "" || len(req.GetParts()) > mostParts {
		return status.Errorf(codes.InvalidArgument, "measure %d parts of model %q", len(req.GetParts()), req.GetModel().GetName())
	}
	return nil
}
