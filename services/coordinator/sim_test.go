package coordinator

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/shoal-llm/shoal/internal/measure"
	"github.com/shoal-llm/shoal/services/coordinator/plan"
	"github.com/shoal-llm/shoal/services/shard/command"
)

// The simulator runs a whole control plane in virtual time under faults: real
// coordinators (the owner with the machines plan and generation), shards around the
// machines command, driver and stage log, gateways and clients, over a network that
// cuts and resets streams. One seed decides all of it:
//
//	go test ./services/coordinator -run Sim -seed 17    replays a seed with its trace
//	go test ./services/coordinator -run Sim -seeds 10000
//
// What it holds runs to is in judge and in sim_client_test.go.
var (
	simSeed  = flag.Int64("seed", -1, "replay this seed of the simulator and print its events")
	simSeeds = flag.Int("seeds", 300, "how many seeds the simulator runs")
	simFrom  = flag.Uint64("seeds-from", 0, "the first of them")
	simWith  = flag.Int("seed-bug", 0, "plant this fault into what -seed replays")
)

// simulation is one run.
type simulation struct {
	*simWorld
	cluster  string
	model    Model
	wishes   plan.Wishes
	place    plan.Placer
	replicas bool              // place gives every node a pipeline of its own
	memory   map[string]uint64 // of shards
	loads    time.Duration     // of a stage, at most
	step     time.Duration     // that a step takes on a stage,
	row      time.Duration     // and each row of it

	shards   []*simShard
	heads    []*simHead
	gateways []*simGateway
	clients  []*simClient

	calm    time.Duration // all faults are over
	skewed  time.Duration // that clocks may be apart
	deaths  int           // shards that may be taken for dead
	ended   int           // clients
	last    time.Duration // when the last of them ended
	plans   int           // that were sent to shards
	givenUp int           // answers, for reasons that the faults explain
	tally   simTally
}

// simTally counts what happened, to see that the runs are not idle.
type simTally struct {
	tokens, resubmitted, moved, pipelines int // of clients; to a coordinator; to another pipeline; that ended
}

func (t *simTally) add(o simTally) {
	t.tokens += o.tokens
	t.resubmitted += o.resubmitted
	t.moved += o.moved
	t.pipelines += o.pipelines
}

// run runs to the end, and says what was wrong.
func (s *simulation) run() []string {
	defer func() {
		if r := recover(); r != nil {
			s.violate("panic: %v\n%s", r, debug.Stack())
		}
	}()
	s.runUntil(max(s.calm, simTrouble), nil)
	s.trace(nil, "the faults are over")
	s.runUntil(s.now+simPatient, func() bool { return s.ended == len(s.clients) })
	for _, c := range s.clients {
		if c.ended == "" && len(s.wrong) == 0 {
			s.violate("%s has not ended, with %d tokens of %d", c.name, len(c.ids), len(c.golden.ids))
		}
	}
	s.settle()
	if s.say != nil && len(s.wrong) > 0 {
		s.report()
	}
	return s.wrong
}

// report writes what coordinators say of themselves in the end.
func (s *simulation) report() {
	for _, h := range s.heads {
		if h.o == nil {
			continue
		}
		code, why := h.o.reason()
		s.trace(h.simProc, "standing by: %t; %s %s; %d run, %d wait", h.o.standing, code, why, len(h.o.running), h.o.waiting.len())
		for _, p := range h.o.sortedPipes() {
			s.trace(h.simProc, "pipeline %v serves: %t; %d slots are taken, %d of %d pages are free", p.plan.Key, p.serves(), p.running(), p.free, p.plan.Pages)
		}
		if p := h.o.machine.Plan(); p != nil {
			s.trace(h.simProc, "%s", p.Explain())
		}
	}
}

// settle waits until everything is at rest for longer than a lease lasts.
func (s *simulation) settle() {
	const slice = 500 * time.Millisecond
	restless, since, plans := "", s.now, s.plans
	for end := s.now + simPatient; s.now < end && len(s.wrong) == 0; {
		s.runUntil(s.now+slice, nil)
		if why := s.judge(); why != "" || s.plans != plans {
			if restless, since, plans = why, s.now, s.plans; why == "" {
				restless = "plans are made again and again"
			}
			continue
		}
		if s.now-since >= simSteady {
			return
		}
	}
	if len(s.wrong) == 0 {
		s.violate("it does not come to rest: %s", restless)
	}
}

// judge says what is not at rest: of the coordinators one serves and all others
// stand by, and nothing is left of any answer.
func (s *simulation) judge() string {
	var head *simHead
	for _, h := range s.heads {
		if h.o.standing {
			continue
		}
		if head != nil {
			return fmt.Sprintf("%s and %s serve", head.name, h.name)
		}
		head = h
	}
	if head == nil {
		return "nobody serves"
	}
	o := head.o
	if code, why := o.reason(); code != "" {
		return fmt.Sprintf("%s does not serve: %s", head.name, why)
	}
	for _, h := range s.heads {
		if n := len(h.o.running) + h.o.waiting.len(); n > 0 {
			return fmt.Sprintf("%s has %d answers", h.name, n)
		}
	}
	for _, p := range o.sortedPipes() {
		switch {
		case !p.serves():
			return fmt.Sprintf("pipeline %v does not serve", p.plan.Key)
		case p.running() > 0 || p.free != p.plan.Pages:
			return fmt.Sprintf("of pipeline %v %d slots and %d pages are taken", p.plan.Key, p.running(), p.plan.Pages-p.free)
		}
	}
	for _, sh := range s.shards {
		if why := sh.judge(o.machine.Plan()); why != "" {
			return why
		}
	}
	return ""
}

// judge says what a shard holds and should not.
func (sh *simShard) judge(p *plan.Plan) string {
	if sh.cmd.Epoch() != p.Epoch && len(sh.parts) > 0 {
		return fmt.Sprintf("%s has the plan of epoch %#x, that in force is %#x", sh.name, sh.cmd.Epoch(), p.Epoch)
	}
	for _, k := range sh.keys() {
		part := sh.parts[k]
		switch {
		case part.ended != nil:
			return fmt.Sprintf("%s has pipeline %v, which has ended", sh.name, k)
		case p.Find(plan.Key{Epoch: k.Epoch, ID: k.ID}) == nil:
			return fmt.Sprintf("%s has pipeline %v, which is in no plan", sh.name, k)
		}
		kept := sh.s.kept(k)
		for i, st := range part.stages {
			if st.log == nil {
				return fmt.Sprintf("%s has not loaded stage %d of %v", sh.name, i, k)
			}
			if used := st.log.Pages() - st.log.Free(); used != kept {
				return fmt.Sprintf("%s, stage %d of %v: %d pages are taken, %d of them by prefixes", sh.name, i, k, used, kept)
			}
		}
	}
	return ""
}

// kept is how many pages of a pipeline hold prefixes for later sessions.
func (s *simulation) kept(k command.Key) int {
	for _, sh := range s.shards {
		if p := sh.parts[k]; p != nil && p.drive != nil {
			return p.drive.machine.Stats().Prefixes
		}
	}
	return 0
}

func simKey(k plan.Key) command.Key { return command.Key{Epoch: k.Epoch, ID: k.ID} }

// simResult is what came of a number of seeds.
type simResult struct {
	seeds, givenUp int
	tally          simTally
	wrong          map[uint64][]string
}

// simRunSeeds runs seeds on all cores until one of them is found wrong, if only
// the first counts.
func simRunSeeds(from uint64, n int, bug simBug, first bool) simResult {
	r := simResult{wrong: map[uint64][]string{}}
	var next atomic.Uint64
	var mu sync.Mutex
	var workers sync.WaitGroup
	var enough atomic.Bool
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for i := next.Add(1) - 1; i < uint64(n) && !enough.Load(); i = next.Add(1) - 1 {
				s := newSimulation(from+i, bug)
				wrong := s.run()
				mu.Lock()
				r.seeds++
				r.givenUp += s.givenUp
				r.tally.add(s.tally)
				if len(wrong) > 0 {
					r.wrong[from+i] = wrong
					enough.Store(first || len(r.wrong) >= 20)
				}
				mu.Unlock()
			}
		})
	}
	workers.Wait()
	return r
}

// TestSim runs the seeds that found something once, and then others; or it replays
// one.
func TestSim(t *testing.T) {
	if *simSeed >= 0 {
		simReplay(t, uint64(*simSeed), simBug(*simWith))
		return
	}
	t.Run("cases", func(t *testing.T) {
		for _, seed := range simCases(t) {
			for _, wrong := range newSimulation(seed, simNoBug).run() {
				t.Errorf("seed %d: %s", seed, wrong)
			}
		}
	})
	if file := os.Getenv("SHOAL_SIM_SAVE"); file != "" {
		simAccumulate(t, file)
		return
	}
	simReport(t, simRunSeeds(*simFrom, *simSeeds, simNoBug, false))
}

func simReport(t *testing.T, r simResult) {
	t.Helper()
	for _, seed := range slices.Sorted(maps.Keys(r.wrong)) {
		t.Errorf("seed %d: %s\nreplay it: go test ./services/coordinator -run Sim -seed %d", seed, r.wrong[seed][0], seed)
	}
	t.Logf("%d seeds, %d of them wrong: %+v; %d answers were given up for faults that explain it", r.seeds, len(r.wrong), r.tally, r.givenUp)
}

// simCases reads the seeds of testdata.
func simCases(t *testing.T) []uint64 {
	t.Helper()
	b, err := os.ReadFile("testdata/sim_seeds.txt")
	if err != nil {
		t.Fatal(err)
	}
	var out []uint64
	for line := range strings.Lines(string(b)) {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		seed, err := strconv.ParseUint(line, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, seed)
	}
	return out
}

// simBatch is how many seeds are run between two savings.
const simBatch = 5000

// simAccumulate goes on behind the seeds that a file of figures counts, up to the
// next multiple of those asked for, and adds to the figures.
func simAccumulate(t *testing.T, file string) {
	old, err := measure.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	done := 0
	if f := measure.Find(old, "sim_seeds"); f != nil {
		done = int(f.Value)
	}
	for end := (done / *simSeeds + 1) * *simSeeds; done < end && !t.Failed(); {
		r := simRunSeeds(uint64(done), min(simBatch, end-done), simNoBug, false)
		done += r.seeds
		simReport(t, r)
		if err := measure.Add(file, []measure.Figure{
			simFigure("sim_seeds", "seeds of the simulator, accumulated", float64(r.seeds)),
			simFigure("sim_violations", "seeds that were found wrong, accumulated", float64(len(r.wrong))),
		}); err != nil {
			t.Fatal(err)
		}
	}
}

func simFigure(name, unit string, value float64) measure.Figure {
	return measure.Figure{Name: name, Value: value, Unit: unit, Runs: 1, Machine: fmt.Sprintf("%d threads", runtime.NumCPU()), Command: "make sim"}
}

// simReplay runs a seed and prints its trace.
func simReplay(t *testing.T, seed uint64, bug simBug) {
	s := newSimulation(seed, bug)
	fmt.Fprint(os.Stdout, s)
	s.say = func(line string) { fmt.Fprintln(os.Stdout, line) }
	for _, wrong := range s.run() {
		t.Error(wrong)
	}
}

// TestSimReplays: equal seeds give equal traces.
func TestSimReplays(t *testing.T) {
	for seed := range uint64(40) {
		var traces [2][]string
		for i := range traces {
			s := newSimulation(seed, simNoBug)
			s.say = func(line string) { traces[i] = append(traces[i], line) }
			s.run()
		}
		for i, line := range traces[0] {
			if i >= len(traces[1]) || traces[1][i] != line {
				t.Fatalf("seed %d: line %d is %q, and then it is another", seed, i, line)
			}
		}
	}
}

// TestSimTime: the clocks of simulated processes are what package time takes them
// for: durations are true, the wall clock is skewed.
func TestSimTime(t *testing.T) {
	a, b := simTime(time.Second, time.Hour), simTime(3*time.Second, -time.Hour)
	if d := b.Sub(a); d != 2*time.Second {
		t.Errorf("%v passed, want 2s", d)
	}
	if got, want := a.UnixNano(), (simEpoch+3601)*int64(time.Second); got != want {
		t.Errorf("the wall clock shows %d, want %d", got, want)
	}
	if !time.Unix(simEpoch, 0).Before(a) || b.After(time.Unix(simEpoch, 0)) {
		t.Error("deadlines do not go by the wall clock")
	}
}

// simBugs are the faults that are planted.
var simBugs = []struct {
	name string
	bug  simBug
}{{"fencing off", simFencingOff}, {"double commit", simDoubleCommit}, {"stale page", simStalePage}}

// simSoon is within how many seeds a planted fault has to be found.
const simSoon = 10_000

// TestSimFindsPlantedFaults: the simulator can fail.
func TestSimFindsPlantedFaults(t *testing.T) {
	found := 0
	for _, b := range simBugs {
		r := simRunSeeds(0, simSoon, b.bug, true)
		if len(r.wrong) == 0 {
			t.Errorf("%s: not found in %d seeds", b.name, r.seeds)
			continue
		}
		found++
		for seed, wrong := range r.wrong {
			t.Logf("%s: seed %d, after %d seeds: %s", b.name, seed, r.seeds, wrong[0])
		}
	}
	if file := os.Getenv("SHOAL_SIM_SAVE"); file != "" {
		f := simFigure("planted_bugs_found", fmt.Sprintf("of %d planted faults, in at most %d seeds each", len(simBugs), simSoon), float64(found))
		if err := measure.Save(file, []measure.Figure{f}); err != nil {
			t.Error(err)
		}
	}
}
