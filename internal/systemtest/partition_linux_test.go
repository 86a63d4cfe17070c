package systemtest

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shoal-llm/shoal/internal/measure"
)

// partitioned is a cluster whose processes are on machines of their own, with a client
// on another.
type partitioned struct {
	*system
	net *network
	at  map[string]int // machines
}

// startPartitioned runs the cluster of TestChaos on a network.
func startPartitioned(ctx context.Context, t *testing.T) *partitioned {
	t.Helper()
	w := newNetwork(t, len(chaosNodes)+1)
	c := &partitioned{prepareChaos(ctx, t), w, map[string]int{}}
	moved := map[string]string{} // addresses
	for i, name := range chaosNodes {
		n := c.nodes[name]
		c.at[name], n.machine = i, w.machines[i]
		for _, addr := range append([]string{n.gossip, n.grpc}, n.public...) {
			_, port, err := net.SplitHostPort(addr)
			if err != nil {
				t.Fatal(err)
			}
			moved[addr] = net.JoinHostPort(w.addr(i), port)
		}
	}
	for _, name := range chaosNodes {
		n := c.nodes[name]
		for i, arg := range n.args {
			flag, value, _ := strings.Cut(arg, "=")
			parts := strings.Split(value, ",")
			for j, addr := range parts {
				if to := moved[addr]; to != "" {
					parts[j] = to
				}
			}
			if value != "" {
				n.args[i] = flag + "=" + strings.Join(parts, ",")
			}
		}
	}
	c.url = "http://" + moved[strings.TrimPrefix(c.url, "http://")]
	c.dialer = w.dialer(len(chaosNodes))
	c.startAll(ctx, t)
	return c
}

// cuts are the kinds of partitions: a link, and in which direction it loses everything.
// Each returns the two nodes.
func (c *partitioned) cuts(ctx context.Context) []partition {
	stages := func(t *testing.T, i int) string { return c.stageNodes(ctx, t)[i%3] }
	links := []partition{
		{name: "coordinator_shard", ends: func(t *testing.T) (a, b string) { return "coordinator", stages(t, rand.IntN(3)) }},
		{name: "shard_shard", ends: func(t *testing.T) (a, b string) { // the last one's results go to the first
			i := rand.IntN(3)
			return stages(t, i), stages(t, i+1)
		}},
		{name: "gateway_coordinator", ends: func(*testing.T) (a, b string) { return "gateway", "coordinator" }},
	}
	var all []partition
	for _, direction := range []string{"there", "back", "both"} {
		for _, p := range links {
			p.direction = direction
			all = append(all, p)
		}
	}
	return all
}

// partition is a kind of partition.
type partition struct {
	name, direction string
	ends            func(t *testing.T) (a, b string)
}

// known returns when somebody first said that the link between two nodes was cut.
func (c *partitioned) known(p partition, a, b string, since time.Time) (time.Time, bool) {
	switch p.name {
	case "gateway_coordinator":
		return c.saidAfter("gateway", "no stream to the coordinator", since)
	case "coordinator_shard":
		return c.saidAfter("coordinator", "shard lost", since, `"shard":"`+b+`"`)
	}
	return c.saidAfter("coordinator", "pipeline lost", since, "node "+a+" ", "node "+b+" ") // and not of a layout that was prepared beside
}

// A cut lasts until it is known, and partitionLast at least. What is not known after
// partitionMost is between shards that have moved meanwhile: nothing goes over it.
const (
	partitionLast = 3 * time.Second
	partitionMost = 8 * time.Second
)

// TestPartitions cuts links between processes, each in one direction, in the other and in
// both, under eight streams: every stream is the undisturbed one, and after the mend the
// cluster is whole without anybody's help. SHOAL_CHAOS_PARTITIONS says how often.
func TestPartitions(t *testing.T) {
	cycles := howMany(t, "SHOAL_CHAOS_PARTITIONS", "make chaos-partitions")
	ctx := within(t, 3*time.Minute+time.Duration(cycles)*40*time.Second)
	c := startPartitioned(ctx, t)
	w := c.startWitnesses(ctx, t)
	var r chaosResult
	var heals []float64
	cuts := c.cuts(ctx)
	done := 0
	for i := 0; done < cycles && !t.Failed(); i++ {
		heal, known := c.partition(ctx, t, cuts[i%len(cuts)], w.all, &r)
		if known {
			heals = append(heals, float64(heal.Milliseconds()))
			done++
		}
	}
	w.end(&r)
	t.Logf("%d partitions; %d of %d answers were wrong, %d given up, %d requests refused", done, r.wrong, r.all, r.givenUp, r.refused)
	reportPartitions(t, &r, heals, done)
}

// partition does one cut and mends it, and returns how long it took then until the
// cluster was whole and all streams flowed. A cut that nobody knew of did no harm.
func (c *partitioned) partition(ctx context.Context, t *testing.T, p partition, clients []*witness, r *chaosResult) (heal time.Duration, known bool) {
	t.Helper()
	flowing(ctx, t, clients)
	pauseFor(ctx, time.Duration(rand.IntN(1000))*time.Millisecond)
	for _, w := range clients {
		w.longest()
	}
	a, b := p.ends(t)
	began := time.Now()
	var mends []func()
	if p.direction != "back" {
		mends = append(mends, c.net.cut(t, c.at[a], c.at[b]))
	}
	if p.direction != "there" {
		mends = append(mends, c.net.cut(t, c.at[b], c.at[a]))
	}
	var at time.Time
	for time.Since(began) < partitionMost && !known {
		if at, known = c.known(p, a, b, began); !known {
			pauseFor(ctx, 10*time.Millisecond)
		}
	}
	if !known {
		flowing(ctx, t, clients) // while it is cut
		if p.name != "shard_shard" {
			t.Errorf("nobody knows that %s and %s are apart (%s)", a, b, p.direction)
		}
	}
	pauseFor(ctx, partitionLast-time.Since(began))
	lasted := time.Since(began)
	for _, mend := range mends {
		mend()
	}
	mended := time.Now()
	flowing(ctx, t, clients)
	c.waitWhole(ctx, t)
	heal = time.Since(mended)
	gap := time.Duration(0)
	for _, w := range clients {
		gap = max(gap, w.longest())
	}
	if !known {
		t.Logf("%s and %s apart (%s): nothing went between them", a, b, p.direction)
		return heal, false
	}
	r.gap(p.name, gap)
	r.known(p.name, at.Sub(began))
	t.Logf("%s and %s apart (%s) for %v: known after %v, whole %v after the mend, the longest pause was %v", a, b, p.direction,
		lasted.Round(time.Millisecond), at.Sub(began).Round(time.Millisecond), heal.Round(time.Millisecond), gap.Round(time.Millisecond))
	return heal, true
}

// waitWhole waits until every shard is there, once, and answers are possible.
func (c *partitioned) waitWhole(ctx context.Context, t *testing.T) {
	t.Helper()
	eventually(ctx, t, "the cluster is not whole", func() error {
		var s struct {
			Ready  bool
			Reason string
			clusterState
		}
		if err := c.client().read(ctx, "/v1/cluster", nil, &s); err != nil {
			return err
		}
		if got := slices.Sorted(maps.Keys(s.Nodes)); !slices.Equal(got, chaosShards) {
			return fmt.Errorf("its shards are %v", got)
		}
		for name, n := range s.Nodes {
			if n.State != "ready" {
				return fmt.Errorf("%s is %s: %s", name, n.State, n.Reason)
			}
		}
		return nil
	})
}

// reportPartitions adds what was measured to the figures.
func reportPartitions(t *testing.T, r *chaosResult, heals []float64, cycles int) {
	t.Helper()
	const command = "make chaos-partitions"
	saveChaos(t, command,
		measure.Figure{Name: "partition_cycles", Unit: "links cut and mended, accumulated", Value: float64(cycles)},
		measure.Figure{Name: "partition_failed", Unit: "answers lost, wrong or repeated, accumulated", Value: float64(r.wrong)})
	file := os.Getenv("SHOAL_CHAOS_SAVE")
	if file == "" || len(heals) == 0 {
		return
	}
	var figures []measure.Figure
	add := func(name, unit string, v []float64) {
		slices.Sort(v)
		for q, of := range map[string]int{"p50": 50, "p99": 99} {
			figures = append(figures, measure.Figure{
				Name: strings.Replace(name, "%", q, 1), Unit: unit, Value: v[len(v)*of/100], Runs: len(v),
				Machine: fmt.Sprintf("%d threads", runtime.NumCPU()), Command: command,
			})
		}
	}
	var all []float64
	for _, link := range slices.Sorted(maps.Keys(r.detect)) {
		all = append(all, r.detect[link]...)
		add("partition_detect_"+link+"_%_ms", "ms until the cut of a link was known, the last run", slices.Clone(r.detect[link]))
		add("gap_partition_"+link+"_%_ms", "ms, the longest pause of eight streams, the last run", slices.Clone(r.gaps[link]))
	}
	add("partition_detect_%_ms", "ms until the cut of a link was known, the last run", all)
	add("partition_heal_%_ms", "ms from the mend until all shards were ready and all streams flowed, the last run", heals)
	slices.SortFunc(figures, func(a, b measure.Figure) int { return strings.Compare(a.Name, b.Name) })
	if err := measure.Save(file, figures); err != nil {
		t.Error(err)
	}
}
