package sample

import (
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/shoal-llm/shoal/internal/golden"
)

// fixture is the layout of sampling.json.
type fixture struct {
	History []int32
	Vectors map[string]golden.Tensor
	Cases   []struct {
		Logits string
		Params struct {
			Temperature       *float32
			TopK              int32   `json:"top_k"`
			TopP              float32 `json:"top_p"`
			MinP              float32 `json:"min_p"`
			RepetitionPenalty float32 `json:"repetition_penalty"`
			PresencePenalty   float32 `json:"presence_penalty"`
			FrequencyPenalty  float32 `json:"frequency_penalty"`
		}
		Probs golden.Tensor
		Kept  int
	}
}

func TestFixtureProbs(t *testing.T) {
	var f fixture
	golden.JSON(t, "sampling.json", &f)
	if len(f.Cases) == 0 {
		t.Fatal("no cases")
	}
	for i, c := range f.Cases {
		spec := Spec{
			Temperature: 1, TopK: c.Params.TopK, TopP: c.Params.TopP, MinP: c.Params.MinP,
			RepetitionPenalty: c.Params.RepetitionPenalty,
			PresencePenalty:   c.Params.PresencePenalty,
			FrequencyPenalty:  c.Params.FrequencyPenalty,
		}
		if c.Params.Temperature != nil {
			spec.Temperature = *c.Params.Temperature
		}
		logits := f.Vectors[c.Logits].Float32(t)
		s := New(spec, len(logits), nil)
		for _, id := range f.History {
			s.Accept(id)
		}
		got := make([]float64, len(logits))
		if err := s.Probs(got, logits); err != nil {
			t.Errorf("case %d: %v", i, err)
			continue
		}
		want := c.Probs.Float32(t)
		if spec.TopP > 0 && (c.Logits == "flat" || c.Logits == "ties") {
			// Which of the equal logits the reference keeps is the whim of an
			// unstable sort; we keep the lowest ids. The distribution is one.
			slices.Sort(got)
			slices.Sort(want)
		}
		kept := 0
		for id := range want {
			if math.Abs(got[id]-float64(want[id])) > 1e-6 {
				t.Errorf("case %d (%s %+v): probability of %d is %v, want %v", i, c.Logits, c.Params, id, got[id], want[id])
				break
			}
			if got[id] > 0 {
				kept++
			}
		}
		if kept != c.Kept && spec.Temperature > 0.2 { // colder ones underflow in float32
			t.Errorf("case %d: %d ids kept, want %d", i, kept, c.Kept)
		}
	}
}

func gauss(seed uint64, n int, scale float64) []float32 {
	rng := rand.New(rand.NewPCG(seed, 0))
	out := make([]float32, n)
	for i := range out {
		out[i] = float32(scale * rng.NormFloat64())
	}
	return out
}

func pick(t *testing.T, s *Sampler, logits []float32, position int) Choice {
	t.Helper()
	c, err := s.Pick(logits, position)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestGreedyTakesTheLowestOfEqualLogits(t *testing.T) {
	for _, c := range []struct {
		logits []float32
		want   int32
	}{
		{[]float32{1, 3, 3, 2}, 1},
		{[]float32{-5, -3, -9, -3, -4}, 1},
		{[]float32{-1, float32(math.Copysign(0, -1)), 0, -2}, 1},
		{[]float32{float32(math.Inf(-1)), -7}, 1},
		{[]float32{0}, 0},
	} {
		if got := pick(t, New(Spec{}, len(c.logits), nil), c.logits, 0).ID; got != c.want {
			t.Errorf("greedy of %v is %d, want %d", c.logits, got, c.want)
		}
	}
}

func TestPickRefusesWhatIsNotFinite(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	negNaN := math.Float32frombits(0xffc00000)
	for _, bad := range []float32{nan, negNaN, inf} {
		for at := range 7 {
			logits := gauss(1, 7, 1)
			logits[at] = bad
			for _, spec := range []Spec{{}, {Temperature: 1}, {Temperature: 1, TopK: 2, TopP: 0.5}} {
				if _, err := New(spec, 7, nil).Pick(logits, 0); !errors.Is(err, ErrNotFinite) {
					t.Errorf("%v at %d: error %v, want ErrNotFinite", bad, at, err)
				}
			}
		}
	}
	masked := slices.Repeat([]float32{float32(math.Inf(-1))}, 5)
	if _, err := New(Spec{}, 5, nil).Pick(masked, 0); !errors.Is(err, ErrNotFinite) {
		t.Errorf("all masked: error %v, want ErrNotFinite", err)
	}
	if _, err := New(Spec{}, 5, nil).Pick(make([]float32, 4), 0); err == nil {
		t.Error("a row of the wrong length was accepted")
	}
}

// specs covers every path of the sampler.
var specs = map[string]Spec{
	"greedy":      {},
	"temperature": {Temperature: 0.8, Seed: 3},
	"top-k":       {Temperature: 0.8, TopK: 40, Seed: 3},
	"top-p":       {Temperature: 1.2, TopP: 0.9, Seed: 3},
	"min-p":       {Temperature: 1, MinP: 0.05, Seed: 3},
	"all": {
		Temperature: 0.7, TopK: 50, TopP: 0.95, MinP: 0.01, Seed: 9, RepetitionPenalty: 1.3, PresencePenalty: 0.4,
		FrequencyPenalty: 0.2, PenaltyWindow: 8, Bias: []Bias{{3, 4}, {5, -100}}, LogProbs: true, TopLogProbs: 5,
	},
}

func TestPickIsAFunctionOfItsInputs(t *testing.T) {
	for name, spec := range specs {
		a, b := New(spec, 300, []int32{1, 2, 3}), New(spec, 300, []int32{1, 2, 3})
		for p := range 40 {
			logits := gauss(uint64(p), 300, 2)
			before := slices.Clone(logits)
			want := pick(t, a, logits, p)
			// A detour with drafts that are taken back leaves no trace.
			n := b.Len()
			b.Accept(int32(p))
			pick(t, b, logits, p+1)
			b.Accept(7)
			b.Truncate(n)
			got := pick(t, b, logits, p)
			if got.ID != want.ID || got.LogProb != want.LogProb || !slices.Equal(got.Top, want.Top) {
				t.Fatalf("%s at %d: %v, then %v", name, p, want, got)
			}
			if !slices.Equal(logits, before) {
				t.Fatalf("%s: Pick changed the logits", name)
			}
			a.Accept(want.ID)
			b.Accept(want.ID)
		}
	}
}

func TestPickFollowsProbs(t *testing.T) {
	const draws = 20_000
	logits := gauss(5, 40, 1.5)
	for name, spec := range specs {
		s := New(spec, len(logits), []int32{1, 2})
		want := make([]float64, len(logits))
		if err := s.Probs(want, logits); err != nil {
			t.Fatal(err)
		}
		count := make([]float64, len(logits))
		for p := range draws {
			count[pick(t, s, logits, p).ID]++
		}
		for id, n := range count {
			deviation := math.Abs(n - draws*want[id])
			if deviation > 5*math.Sqrt(draws*want[id]*(1-want[id]))+1e-9 {
				t.Errorf("%s: id %d drawn %v times of %d, probability %v", name, id, n, draws, want[id])
			}
		}
	}
}

func TestTopPDoesNotDependOnHowItRanks(t *testing.T) {
	for _, scale := range []float64{0, 0.01, 1, 6, 30} {
		for _, p := range []float32{0.001, 0.5, 0.9, 0.999999} {
			logits := gauss(8, 2000, scale)
			s := New(Spec{Temperature: 1, TopP: p}, len(logits), nil)
			got := make([]float64, len(logits))
			if err := s.Probs(got, logits); err != nil {
				t.Fatal(err)
			}
			var all []candidate
			total := 0.0
			peak, _ := peakOf(logits)
			for id, v := range logits {
				w := exp(float64(v) - float64(peak))
				all = append(all, candidate{int32(id), v, w})
				total += w
			}
			slices.SortFunc(all, byRank)
			sum := 0.0
			for i, c := range all {
				if kept := i == 0 || sum < float64(p)*total; kept != (got[c.id] > 0) {
					t.Fatalf("scale %v, p %v: rank %d kept %v, want %v", scale, p, i, got[c.id] > 0, kept)
				}
				sum += c.weight
			}
		}
	}
}

func TestPenaltiesCountWhatTheyShould(t *testing.T) {
	flat := func() []float32 { return []float32{2, 2, 2, 2, -2, -2} }
	row := func(spec Spec, prompt, answer []int32) []float32 {
		s := New(spec, 6, prompt)
		for _, id := range answer {
			s.Accept(id)
		}
		out, _, err := s.prepare(flat())
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	for name, c := range map[string]struct {
		spec           Spec
		prompt, answer []int32
		want           []float32
	}{
		"repetition sees prompt and answer once": {Spec{RepetitionPenalty: 2}, []int32{0, 0, 4}, []int32{1}, []float32{1, 1, 2, 2, -4, -2}},
		"window forgets the oldest":              {Spec{RepetitionPenalty: 2, PenaltyWindow: 2}, []int32{0, 0}, []int32{1, 2}, []float32{2, 1, 1, 2, -2, -2}},
		"presence sees the answer once":          {Spec{PresencePenalty: 0.5}, []int32{0}, []int32{1, 1}, []float32{2, 1.5, 2, 2, -2, -2}},
		"frequency counts the answer":            {Spec{FrequencyPenalty: 0.5}, []int32{0}, []int32{1, 1}, []float32{2, 1, 2, 2, -2, -2}},
		"bias comes before the penalties":        {Spec{RepetitionPenalty: 2, Bias: []Bias{{4, 6}, {99, 1}}}, []int32{4}, nil, []float32{2, 2, 2, 2, 2, -2}},
		"ids outside the vocabulary":             {Spec{RepetitionPenalty: 2, PresencePenalty: 1}, []int32{-1, 99}, []int32{77}, flat()},
	} {
		if got := row(c.spec, c.prompt, c.answer); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestLogProbsAreOfTheModelsDistribution(t *testing.T) {
	logits := []float32{1, 3, 2, 3, float32(math.Inf(-1))}
	s := New(Spec{Temperature: 0.01, TopK: 1, Bias: []Bias{{0, 50}}, LogProbs: true, TopLogProbs: 20}, 5, nil)
	c := pick(t, s, logits, 0)
	norm := math.Log(math.Exp(1) + 2*math.Exp(3) + math.Exp(2))
	if c.ID != 0 || math.Abs(float64(c.LogProb)-(1-norm)) > 1e-6 {
		t.Errorf("choice %+v, want id 0 with %v", c, 1-norm)
	}
	var ids []int32
	for _, alt := range c.Top {
		ids = append(ids, alt.ID)
	}
	if !slices.Equal(ids, []int32{1, 3, 2, 0, 4}) {
		t.Errorf("alternatives %v", ids)
	}
	if p := float64(c.Top[0].LogProb); math.Abs(p-(3-norm)) > 1e-6 {
		t.Errorf("best alternative has %v, want %v", p, 3-norm)
	}
}

func TestValidateNamesTheField(t *testing.T) {
	nan := float32(math.NaN())
	for field, bad := range map[string][]Spec{
		"temperature":        {{Temperature: -0.1}, {Temperature: 101}, {Temperature: nan}, {Temperature: float32(math.Inf(1))}},
		"top_p":              {{TopP: -0.1}, {TopP: 1.1}, {TopP: nan}},
		"top_k":              {{TopK: -1}},
		"min_p":              {{MinP: 2}},
		"repetition_penalty": {{RepetitionPenalty: -1}, {RepetitionPenalty: nan}},
		"presence_penalty":   {{PresencePenalty: 2.5}},
		"frequency_penalty":  {{FrequencyPenalty: -3}},
		"max_tokens":         {{MaxTokens: -1}},
		"top_logprobs":       {{LogProbs: true, TopLogProbs: 21}, {TopLogProbs: 2}},
		"stop":               {{Stop: make([]int32, MaxStopIDs+1)}, {Stop: []int32{-1}}},
		"logit_bias":         {{Bias: make([]Bias, MaxBias+1)}, {Bias: []Bias{{1, nan}}}, {Bias: []Bias{{-1, 0}}}},
	} {
		for _, spec := range bad {
			var fe *FieldError
			if err := spec.Validate(); !errors.As(err, &fe) || fe.Field != field {
				t.Errorf("%+v: error %v, want one of %s", spec, err, field)
			} else if !strings.Contains(err.Error(), field) {
				t.Errorf("message %q does not name %s", err, field)
			}
		}
	}
	for name, spec := range specs {
		if err := spec.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPickAllocatesNothing(t *testing.T) {
	logits := gauss(1, 5000, 2)
	for name, spec := range specs {
		s := New(spec, len(logits), []int32{1, 2, 3})
		pick(t, s, logits, 0)
		p := 0
		if n := testing.AllocsPerRun(20, func() { p++; pick(t, s, logits, p) }); n != 0 {
			t.Errorf("%s: %v allocations a pick", name, n)
		}
	}
}

func BenchmarkPick(b *testing.B) {
	logits := gauss(1, 49_152, 3)
	for _, name := range []string{"greedy", "temperature", "top-k", "top-p", "min-p", "all"} {
		b.Run(name, func(b *testing.B) {
			s := New(specs[name], len(logits), nil)
			for p := 0; b.Loop(); p++ {
				if _, err := s.Pick(logits, p); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
