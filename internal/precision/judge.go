package precision

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/engine"
	"github.com/shoal-llm/shoal/pkg/frame"
	"github.com/shoal-llm/shoal/pkg/model"
)

// Length is the ids of a sequence. It fills tiles of every width of the kernels.
const Length = 240

// Cut cuts ids into sequences, at most n of them; what is left over is dropped.
func Cut(ids []int32, n int) (out [][]int32) {
	for len(out) < n && len(ids) >= Length {
		out, ids = append(out, ids[:Length]), ids[Length:]
	}
	return out
}

// Quality is how far predictions are from those of the exact model, and how good.
type Quality struct {
	KL         float64 // mean Kullback-Leibler divergence from the exact prediction, nats
	Same       float64 // share of positions with the same likeliest token
	Perplexity float64 // of the text
}

// Judge compares models with an exact one, on sequences of texts.
type Judge struct {
	be    compute.Backend
	texts [][][]int32
	exact []prediction // one after the other
	Exact []Quality    // of the exact model, by text: its perplexity
}

// prediction is what the exact model says of a next token.
type prediction struct {
	shares  []float32 // probabilities
	entropy float64   // Σ p·log p
	top     int
}

// NewJudge runs the exact model. The backend is used until the judge is dropped, and
// the model no longer than this call.
func NewJudge(ctx context.Context, be compute.Backend, m *library.Model, texts ...[][]int32) (*Judge, error) {
	for _, sequences := range texts {
		if len(sequences) == 0 {
			return nil, fmt.Errorf("a text has fewer than %d tokens", Length)
		}
	}
	j := &Judge{be: be, texts: texts}
	sums := make([]sum, len(texts))
	err := j.each(ctx, m, func(text int, logits []float32, next int32) {
		total := logSumExp(logits)
		p := prediction{shares: make([]float32, len(logits)), top: slices.Index(logits, slices.Max(logits))}
		for i, v := range logits {
			if share := math.Exp(float64(v) - total); share > 0 {
				p.shares[i] = float32(share)
				p.entropy += share * (float64(v) - total)
			}
		}
		j.exact = append(j.exact, p)
		sums[text].add(0, true, total, logits, next)
	})
	j.Exact = means(sums)
	return j, err
}

// sum adds up what a text says of a model.
type sum struct {
	kl, loss           float64
	rows, same, losses int
}

func (s *sum) add(kl float64, same bool, total float64, logits []float32, next int32) {
	s.kl, s.rows = s.kl+kl, s.rows+1
	if same {
		s.same++
	}
	if next >= 0 {
		s.loss, s.losses = s.loss+total-float64(logits[next]), s.losses+1
	}
}

func means(sums []sum) (out []Quality) {
	for _, s := range sums {
		n := float64(s.rows)
		out = append(out, Quality{s.kl / n, float64(s.same) / n, math.Exp(s.loss / float64(s.losses))})
	}
	return out
}

// Of judges a model, which it does not close, by each text.
func (j *Judge) Of(ctx context.Context, m *library.Model) ([]Quality, error) {
	sums, at := make([]sum, len(j.texts)), 0
	err := j.each(ctx, m, func(text int, logits []float32, next int32) {
		exact := &j.exact[at]
		at++
		total, cross := logSumExp(logits), 0.0
		for i, share := range exact.shares {
			cross += float64(share) * float64(logits[i])
		}
		sums[text].add(exact.entropy-(cross-total), logits[exact.top] == slices.Max(logits), total, logits, next)
	})
	return means(sums), err
}

// each calls f with the logits of each position of each text, and the id that follows,
// or −1.
func (j *Judge) each(ctx context.Context, m *library.Model, f func(text int, logits []float32, next int32)) (err error) {
	l, err := open(j.be, m, Length)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	for text, sequences := range j.texts {
		for _, ids := range sequences {
			if err := ctx.Err(); err != nil {
				return err
			}
			logits, err := step(l, []frame.Op{{Open: &frame.Open{Attempt: 1}}}, ids, 0)
			if err != nil {
				return err
			}
			for i := range ids {
				next := int32(-1)
				if i+1 < len(ids) {
					next = ids[i+1]
				}
				f(text, logits[i*m.Spec.Vocab:][:m.Spec.Vocab], next)
			}
			if _, err := l.Step([]frame.Op{{Close: &frame.Close{}}}, nil); err != nil {
				return err
			}
		}
	}
	return nil
}

// open loads a whole model for sequences of n ids.
func open(be compute.Backend, m *library.Model, n int) (*engine.Local, error) {
	st, err := engine.Open(be, m.Arch, m.Source, m.Spec, engine.Config{
		Epoch: 1, Part: model.Whole(m.Spec), Pages: n/compute.PageTokens + 1, Slots: 1, Rows: Length, Context: n,
	})
	if err != nil {
		return nil, errors.Join(m.Err(), err)
	}
	return engine.NewLocal(st), nil
}

// step returns the logits of ids, the first of which stands at position at.
func step(l *engine.Local, ops []frame.Op, ids []int32, at int) ([]float32, error) {
	res, err := l.Step(ops, []frame.Span{{
		Attempt: 1, Start: int32(at), Tokens: ids, Output: frame.OutputLogits, Drafted: uint8(len(ids) - 1),
	}})
	if err != nil {
		return nil, err
	}
	if s := res.Sampled[0]; s.Err != "" {
		return nil, fmt.Errorf("position %d: %s", at, s.Err)
	}
	return res.Sampled[0].Logits, nil
}

// logSumExp is the logarithm of the sum of exp(logits).
func logSumExp(logits []float32) float64 {
	most := slices.Max(logits)
	var sum float64
	for _, v := range logits {
		sum += math.Exp(float64(v - most))
	}
	return math.Log(sum) + float64(most)
}

// Words returns n sequences that a model says of itself, drawn from all that it
// predicts: what it was made for, where nobody gives a text. First is the id that a
// text begins with. The same seed gives the same words.
func Words(ctx context.Context, be compute.Backend, m *library.Model, first int32, n int, seed uint64) (out [][]int32, err error) {
	l, err := open(be, m, Length)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	rng := rand.New(rand.NewPCG(seed, 1))
	for range n {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		ids, ops := []int32{first}, []frame.Op{{Open: &frame.Open{Attempt: 1}}}
		for len(ids) < Length {
			logits, err := step(l, ops, ids[len(ids)-1:], len(ids)-1)
			if err != nil {
				return nil, err
			}
			ids, ops = append(ids, draw(logits, rng.Float64())), nil
		}
		if _, err := l.Step([]frame.Op{{Close: &frame.Close{}}}, nil); err != nil {
			return nil, err
		}
		out = append(out, ids)
	}
	return out, nil
}

// draw returns the id at which the sum of probabilities passes x.
func draw(logits []float32, x float64) int32 {
	total := logSumExp(logits)
	for i, v := range logits {
		if x -= math.Exp(float64(v) - total); x < 0 {
			return int32(i)
		}
	}
	return int32(slices.Index(logits, slices.Max(logits)))
}
