//go:build linux

package systemtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/shoal-llm/shoal/internal/golden"
	"github.com/shoal-llm/shoal/internal/measure"
)

// gpuProgram builds shoal-gpu with faults that can be injected. The CPU plays the
// GPUs, unless SHOAL_TEST_GPU names devices: then the program must have been built
// for them (make gpu-faults).
func gpuProgram(ctx context.Context, t *testing.T) (path, devices string, env []string) {
	t.Helper()
	if devices := os.Getenv("SHOAL_TEST_GPU"); devices != "" {
		return filepath.Join(golden.Root(), "bin", "shoal-gpu-faults"), devices, nil
	}
	path = filepath.Join(t.TempDir(), "shoal-gpu")
	c := exec.CommandContext(ctx, "go", "build", "-trimpath", "-tags", "gputest", "-o", path, "./cmd/shoal-gpu")
	c.Dir, c.Env = golden.Root(), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("build shoal-gpu: %v\n%s", err, out)
	}
	return path, "gpu", []string{"SHOAL_GPU_PLAYED=right"}
}

// gpuShards are the shards of gpuCluster.
var gpuShards = shards[:2]

// gpuCluster is services of docker-compose.yml, with two shards that compute on
// GPUs alone.
type gpuCluster struct {
	*system
	env []string
}

func startGPUs(ctx context.Context, t *testing.T) gpuCluster {
	t.Helper()
	program, devices, env := gpuProgram(ctx, t)
	c := gpuCluster{prepareCluster(ctx, t), env}
	for _, name := range gpuShards {
		n := c.nodes[name]
		n.args = append(n.args, "--gpu-program="+program, "--device="+devices)
	}
	head := c.nodes["coordinator"]
	// A GPU that is back is used at once, however often it was lost.
	head.args = append(head.args, "--min-shards=2", "--stages=2", "--steady=1ms", "--max-losses=0")
	names := append([]string{"coordinator", "gateway"}, gpuShards...)
	for _, name := range names {
		c.startGPU(t, name)
	}
	c.waitHealthy(ctx, t, names...)
	return c
}

// startGPU runs a service with the environment of its GPUs.
func (c gpuCluster) startGPU(t *testing.T, name string) {
	t.Helper()
	n := c.nodes[name]
	n.process = start(t, c.env, n.args...)
	n.report(t)
}

// clusterState is what this test reads of /v1/cluster.
type clusterState struct {
	Nodes map[string]struct {
		State   string
		Reason  string
		Devices []struct{ Name string }
	}
	Plan struct {
		Stages []struct{ Node string }
	}
	Events []struct {
		Number uint64
		TimeMs int64
		Kind   string
		Node   string
		Text   string
	}
}

func (c gpuCluster) state(ctx context.Context) (s clusterState, err error) {
	err = c.client().read(ctx, "/v1/cluster", nil, &s)
	return s, err
}

// newest is the number of the newest event.
func (s clusterState) newest() uint64 {
	if len(s.Events) == 0 {
		return 0
	}
	return s.Events[len(s.Events)-1].Number
}

// child returns the process of a shard's GPU (proc(5)).
func (c gpuCluster) child(t *testing.T, shard string) int {
	t.Helper()
	parent := c.nodes[shard].cmd.Process.Pid
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		// "pid (name) state ppid": the name may hold anything.
		fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
		if len(fields) > 1 && fields[1] == fmt.Sprint(parent) && fields[0] != "Z" {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			if err != nil {
				t.Fatal(err)
			}
			return pid
		}
	}
	return 0
}

// gpuTokens is how long the answers are into which faults come.
const gpuTokens = 200

func gpuChat() object {
	return chat(longPrompt, object{"temperature": 2, "seed": 7, "max_tokens": gpuTokens})
}

// TestGPUs: shards whose devices are in processes of their own answer as one
// process does, and a process that is killed or whose device fails takes nothing
// with it: nobody hears a wrong token, its end is known within two seconds, and
// answers go on.
func TestGPUs(t *testing.T) {
	faults := 4
	if n, err := strconv.Atoi(os.Getenv("SHOAL_GPU_FAULTS")); err == nil {
		faults = n
	}
	ctx := within(t, 2*time.Minute+time.Duration(faults)*20*time.Second)
	c := startGPUs(ctx, t)
	state, err := c.state(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range gpuShards {
		if n := state.Nodes[name+".gpu0"]; n.State != "ready" || len(n.Devices) != 1 {
			t.Errorf("%s.gpu0 is %+v in %+v", name, n, state.Nodes)
		}
	}
	if len(c.env) > 0 { // the CPU, which computes exactly, plays the GPU
		stdout, stderr, code := shoal(ctx, t, nil, "run", "tiny", prompts[0], "--temperature=0", "--reference", "--max-tokens", fmt.Sprint(maxTokens))
		if code != 0 {
			t.Fatal(stderr)
		}
		checkText(t, strings.TrimSuffix(stdout, "\n"), func() (string, error) { return c.client().whole(ctx, prompts[0]) })
	}
	whole, err := c.client().stream(ctx, gpuChat(), nil)
	if err != nil || whole.done != 1 || len(whole.errors) > 0 {
		t.Fatalf("%v: %+v", err, whole)
	}
	short, err := c.client().whole(ctx, prompts[0])
	if err != nil {
		t.Fatal(err)
	}
	var slowest time.Duration
	for i := range faults {
		signal := []syscall.Signal{syscall.SIGKILL, syscall.SIGUSR1}[i%2]
		slowest = max(slowest, c.checkFault(ctx, t, i, signal, whole.text))
		checkAnswered(ctx, t, c.system, fmt.Sprintf("after fault %d", i), short)
	}
	t.Logf("%d faults; the slowest was known after %v", faults, slowest.Round(time.Millisecond))
	c.checkOrphan(ctx, t, gpuShards[0])
	if file := os.Getenv("SHOAL_GPU_SAVE"); file != "" && !t.Failed() {
		machine := "played by the CPU"
		if len(c.env) == 0 {
			machine = os.Getenv("SHOAL_TEST_GPU")
		}
		err := measure.Save(file, []measure.Figure{{
			Name: "device_fault_known", Value: float64(slowest.Microseconds()) / 1000, Unit: "ms, the slowest", Runs: faults, Machine: machine, Command: "make gpu-faults",
		}})
		if err != nil {
			t.Error(err)
		}
	}
}

// victim names a shard whose GPU has a stage of the plan.
func (c gpuCluster) victim(ctx context.Context, t *testing.T, i int) (shard string, s clusterState) {
	t.Helper()
	eventually(ctx, t, "no GPU has a stage", func() (err error) {
		if s, err = c.state(ctx); err != nil {
			return err
		}
		for j := range gpuShards {
			shard = gpuShards[(i+j)%len(gpuShards)]
			for _, stage := range s.Plan.Stages {
				if stage.Node == shard+".gpu0" && s.Nodes[stage.Node].State == "ready" {
					return nil
				}
			}
		}
		return fmt.Errorf("the plan is %+v of %+v", s.Plan, s.Nodes)
	})
	return shard, s
}

// checkFault injects a fault in the middle of an answer and returns how long it
// took until the cluster knew.
func (c gpuCluster) checkFault(ctx context.Context, t *testing.T, i int, signal syscall.Signal, want string) time.Duration {
	t.Helper()
	shard, before := c.victim(ctx, t, i)
	var injected time.Time
	tokens, at := 0, 3+i*7%60
	inject := func(ch chunk) error {
		if len(ch.Choices) == 1 && ch.Choices[0].Delta.Content != "" {
			tokens++
		}
		if tokens == at && injected.IsZero() {
			pid := c.child(t, shard)
			if pid == 0 {
				return errors.New("the process of the GPU is not there")
			}
			injected = time.Now()
			return syscall.Kill(pid, signal)
		}
		return nil
	}
	s, err := c.client().stream(ctx, gpuChat(), inject)
	switch {
	case err != nil || injected.IsZero():
		t.Fatalf("fault %d: %v after %d tokens", i, err, tokens)
	case !strings.HasPrefix(want, s.text):
		t.Errorf("fault %d: a wrong token came: %q, want %q", i, s.text, want)
	case len(s.errors) == 0 && s.text != want, s.done+len(s.errors) != 1:
		t.Errorf("fault %d: the answer ended with %d errors and %d [DONE] after %q", i, len(s.errors), s.done, s.text)
	}
	known := time.Duration(0)
	eventually(ctx, t, "nobody knows of the lost GPU", func() error {
		now, err := c.state(ctx)
		for _, e := range now.Events {
			if e.Number > before.newest() && e.Kind == "node_lost" && e.Node == shard+".gpu0" && strings.Contains(e.Text, "started again") {
				known = time.UnixMilli(e.TimeMs).Sub(injected)
				return nil
			}
		}
		return errors.Join(err, fmt.Errorf("events %+v", now.Events))
	})
	if known > tellWithin {
		t.Errorf("fault %d (%v): the cluster knew after %v", i, signal, known)
	}
	if err := c.nodes[shard].running(); err != nil {
		t.Fatalf("fault %d: the parent: %v", i, err)
	}
	return known
}

// checkOrphan kills a parent: its child ends.
func (c gpuCluster) checkOrphan(ctx context.Context, t *testing.T, shard string) {
	t.Helper()
	pid := 0
	eventually(ctx, t, "no child", func() error {
		if pid = c.child(t, shard); pid == 0 {
			return errors.New("not there")
		}
		return nil
	})
	c.nodes[shard].kill()
	eventually(ctx, t, "the child outlives its parent", func() error {
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("process %d: %v", pid, err)
		}
		return nil
	})
}

// TestWrongGPU: a device that computes wrongly is refused, and the cluster says
// which operation was wrong.
func TestWrongGPU(t *testing.T) {
	if os.Getenv("SHOAL_TEST_GPU") != "" {
		t.Skip("real devices are right")
	}
	ctx := within(t, time.Minute)
	program, _, _ := gpuProgram(ctx, t)
	u := startUp(ctx, t, []string{"SHOAL_GPU_PLAYED=wrong"}, "--listen=127.0.0.1:0", "--device=cpu,gpu", "--gpu-program="+program, "--stages=1")
	eventually(ctx, t, "no refusal", func() error {
		var s clusterState
		if err := u.read(ctx, "/v1/cluster", nil, &s); err != nil {
			return err
		}
		n := s.Nodes["shard.gpu0"]
		if n.State != "refused" || !strings.Contains(n.Reason, "self-test with F32") || !strings.Contains(n.Reason, "Head is off") {
			return fmt.Errorf("nodes %+v", s.Nodes)
		}
		if len(n.Devices) != 1 || n.Devices[0].Name != "Played GPU" {
			t.Errorf("devices %+v", n.Devices)
		}
		return nil
	})
	if _, err := u.whole(ctx, prompts[0]); err != nil {
		t.Errorf("beside a refused GPU, the CPU answers %v", err)
	}
}
