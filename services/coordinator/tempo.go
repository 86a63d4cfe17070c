package coordinator

import (
	"math"
	"time"

	"github.com/shoal-llm/shoal/pkg/frame"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/coordinator/plan"
	"github.com/shoal-llm/shoal/services/coordinator/plan/place"
)

// When real steps say that a device is not as fast as it was measured.
const (
	decodes     = 8                      // a step of more rows computes prompts
	slowFor     = 3 * time.Second        // of steps in the mean
	stepLongest = 100 * time.Millisecond // between two steps, of which more is a pause
	slower      = 1.3                    // times as long as predicted
	faster      = 0.7
)

// When real steps say how long turns are.
const (
	tokens      = 32   // of a lone session, whose time is a sample
	turnSamples = 4    // before the mean counts
	turnEnough  = 0.2  // as large a difference counts
	leastTurn   = 5e-6 // seconds that a turn takes at least, and that a difference is
	turnEvery   = 10 * time.Second
	hindered    = 3   // times as long as the best is the reader's doing
	slowly      = 0.1 // of a slower sample that counts
)

// tempo is how fast a pipeline is predicted to be, and what its steps took.
type tempo struct {
	predicted *place.Pipeline // by the facts of late; nil when nothing is known
	took      []float64       // mean seconds of a step of one row, by stage
	token     float64         // mean seconds between the tokens of a lone session
	lone      uint32          // its attempt; 0 is none
	best      float64         // of them, when no reader held it up
	count     int             // its tokens
	since     time.Time       // and how long they took
	fresh     bool            // token is news
	samples   int             // that it is the mean of
	taught    time.Time       // when nodes were told of it
}

// slowness is how many times as long as measured real steps take on a device.
type slowness struct {
	mean float64
	seen time.Duration // that the mean is of, while there were steps
	last time.Time     // of a step
	told float64       // to the planner; 0 is that they take as long
}

// predict predicts anew.
func (t *tempo) predict(o *owner, p *plan.Pipeline) {
	t.predicted = nil
	if predicted, err := plan.Predict(o.facts(), p); err == nil {
		t.predicted = &predicted
	}
}

// timed compares what the stages took for a step of decodes with what was
// predicted, and tells the planner when a device has become slower or faster.
func (o *owner) timed(p *pipeline, timings []frame.Timing) {
	t := &p.tempo
	if len(timings) != len(p.plan.Stages) || timings[0].Rows == 0 || timings[0].Rows > decodes {
		return
	}
	if t.took == nil {
		t.took = make([]float64, len(timings))
	}
	for i := range timings {
		seconds, rows := float64(timings[i].ComputeNS)/1e9, timings[i].Rows
		if rows == 1 {
			average(&t.took[i], seconds)
		}
		if t.predicted == nil || t.predicted.Stages[i].Assumed {
			continue
		}
		want := t.predicted.Stages[i].Decode + float64(rows-1)*t.predicted.Stages[i].Row
		if st := p.plan.Stages[i]; want > 0 && o.survey.of(st.Node).slowness(st.Device).note(seconds/want, o.now()) {
			if n := o.nodes[st.Node]; n != nil && n.conn != nil {
				o.log.Info("a device is not as fast as it was", "shard", st.Node, "device", st.Device, "takes", o.survey.of(st.Node).slowness(st.Device).told)
				o.learn(n)
			}
			return // the others are predicted anew
		}
	}
}

// slowness returns that of a device, to be filled in.
func (s *surveyed) slowness(device int) *slowness {
	if s.slow[device] == nil {
		s.slow[device] = &slowness{}
	}
	return s.slow[device]
}

// note takes how many times as long as predicted a step took, and reports
// whether the planner should hear of it: when the mean of some seconds says so.
// The prediction allows for what it has heard.
func (s *slowness) note(ratio float64, now time.Time) bool {
	passed := min(now.Sub(s.last), stepLongest)
	s.last = now
	if s.seen == 0 {
		s.mean = ratio
	}
	s.seen += passed
	s.mean += (1 - math.Exp(-passed.Seconds()/slowFor.Seconds())) * (ratio - s.mean)
	if s.seen < 2*slowFor || s.mean < slower && s.mean > faster {
		return false
	}
	if s.told == 0 {
		s.told = 1
	}
	s.told *= s.mean
	s.seen = 0
	return true
}

// ticked notes that a step gave tokens. Only a session that has the pipeline to
// itself says how long a token takes.
func (t *tempo) ticked(p *pipeline, sampled []frame.Sampled, now time.Time) {
	if len(sampled) != 1 || p.running() != 1 {
		t.lone = 0
		return
	}
	if t.lone != sampled[0].Attempt {
		t.lone, t.count, t.since = sampled[0].Attempt, 0, now
		return
	}
	if t.count += len(sampled[0].IDs); t.count >= tokens {
		sample := now.Sub(t.since).Seconds() / float64(t.count)
		average(&t.token, sample)
		t.unhindered(sample)
		t.count, t.since = 0, now
		t.fresh = true
	}
}

// unhindered keeps the time of a token when nothing but the pipeline holds it up:
// a faster one counts at once, a slower one little by little, and one that is
// slower by far not at all. Its reader was slow.
func (t *tempo) unhindered(sample float64) {
	switch {
	case t.best == 0 || sample < t.best:
		t.best = sample
	case sample < hindered*t.best:
		t.best += slowly * (sample - t.best)
	}
}

// turned tells the nodes of a pipeline how long their turns are, once real steps
// show another time than they know: what a token takes besides computing and the
// links, shared by all stages.
func (o *owner) turned(p *pipeline) {
	t := &p.tempo
	if !t.fresh || t.predicted == nil || t.took == nil {
		return
	}
	t.fresh = false
	if t.samples++; t.samples < turnSamples || o.now().Sub(t.taught) < turnEvery {
		return
	}
	turn := t.best
	for i, s := range t.predicted.Stages {
		turn -= t.took[i] + s.Link
	}
	turn = (turn - t.predicted.BackLink) / float64(len(t.took))
	for i, s := range t.predicted.Stages {
		known := s.Device.Turn
		if t.took[i] == 0 || turn < leastTurn || math.Abs(turn-known) < leastTurn+turnEnough*known {
			continue
		}
		if n := o.nodes[s.Device.Node]; n != nil && n.conn != nil {
			o.teach(n, turn)
			t.taught = o.now()
		}
	}
}

// proto reports what is predicted and what was measured.
func (t *tempo) proto(p *plan.Pipeline, used []deviceUse) *pb.PipelineSpeed {
	if t.predicted == nil {
		return nil
	}
	out := &pb.PipelineSpeed{
		Token: t.predicted.Token, FirstToken: t.predicted.FirstToken, Prompt: uint32(t.predicted.Prompt), Back: t.predicted.Return,
		Rate: t.predicted.Throughput, Streams: uint32(t.predicted.Streams), TokenMeasured: t.token,
	}
	for i, s := range t.predicted.Stages {
		v := &pb.StageSpeed{Decode: s.Decode, Prefill: s.Prefill, Hop: s.Hop, Assumed: s.Assumed, Bytes: p.Stages[i].Bytes, BytesMeasured: used[i].total, WeightBytes: s.Weights, PageBytes: s.Page}
		if t.took != nil {
			v.DecodeMeasured = t.took[i]
		}
		out.Stages = append(out.Stages, v)
	}
	return out
}
