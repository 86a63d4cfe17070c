// Command weights measures what it takes to bring weights to where they are needed:
// real processes fetch a model from a web server of this machine that is no faster
// than a good line, while the bytes are counted.
package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/internal/measure"
	"github.com/shoal-llm/shoal/internal/store"
	"github.com/shoal-llm/shoal/internal/weights"
	"github.com/shoal-llm/shoal/internal/weights/weightstest"
	"github.com/shoal-llm/shoal/pkg/model"
)

func main() {
	var b bench
	flag.StringVar(&b.file, "model", ".cache/models/smollm2.gguf", "GGUF file with 30 layers")
	flag.StringVar(&b.shoal, "shoal", "bin/shoal", "program")
	flag.StringVar(&b.save, "save", "", "file of figures")
	flag.Float64Var(&b.rate, "rate", 60, "MiB a second that the origin sends")
	flag.IntVar(&b.kills, "kills", 20, "pulls that are killed")
	flag.StringVar(&b.part, "part", "", "cluster, resume, warm, bits, cold or large; empty is the first four")
	flag.IntVar(&b.flips, "flips", 1000, "bits that are changed")
	flag.StringVar(&b.largeFile, "large", "", "file of the model of 4 GB, which is made if it is not there; empty: one that is made and removed")
	flag.Parse()
	if err := b.run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "weights:", err)
		os.Exit(1)
	}
}

// patience bounds everything that is waited for.
const patience = 2 * time.Minute

type bench struct {
	file, shoal, save string
	part              string
	rate              float64
	kills, flips      int
	largeFile         string

	dir     string
	origin  *weightstest.Origin
	url     string
	size    int64
	figures []measure.Figure
}

func (b *bench) run(ctx context.Context) (err error) {
	info, err := os.Stat(b.file)
	if err != nil {
		return err
	}
	b.size = info.Size()
	if b.dir, err = os.MkdirTemp(filepath.Dir(b.file), "weights-"); err != nil { // on a disk, not in memory
		return err
	}
	defer os.RemoveAll(b.dir)
	if b.origin, err = weightstest.Start(filepath.Dir(b.file)); err != nil {
		return err
	}
	defer b.origin.Close()
	b.origin.Limit(b.rate * (1 << 20))
	b.url = b.origin.URL + "/" + filepath.Base(b.file)
	for _, p := range []struct {
		name string
		run  func(context.Context) error
		long bool // only when it is named
	}{{"cluster", b.cluster, false}, {"resume", b.resume, false}, {"warm", b.warm, false}, {"bits", b.bits, false}, {"cold", b.cold, true}, {"large", b.large, true}} {
		if b.part != p.name && (b.part != "" || p.long) {
			continue
		}
		if err := p.run(ctx); err != nil {
			return err
		}
	}
	if b.save == "" {
		return nil
	}
	return measure.Save(b.save, b.figures)
}

func (b *bench) note(name string, value float64, unit string, runs int) {
	fmt.Printf("%-28s %.4g %s (%d)\n", name, value, unit, runs)
	command := "make bench-weights"
	if b.part == "large" || b.part == "cold" {
		command = "make bench-weights-large"
	}
	b.figures = append(b.figures, measure.Figure{
		Name: name, Value: value, Unit: unit, Runs: runs, Command: command,
		Machine: fmt.Sprintf("%s, %d threads", runtime.GOARCH, runtime.NumCPU()),
	})
}

// flags are those of every process.
func (b *bench) flags(store string) []string {
	return []string{"--private-origin=127.0.0.0/8", "--store=" + filepath.Join(b.dir, store), "--catalogue="}
}

// process is a running shoal.
type process struct {
	cmd  *exec.Cmd
	over chan error

	mu    sync.Mutex
	lines []string // guarded by mu; of its log
	most  int64    // guarded by mu; bytes of memory, if it is observed
}

func (b *bench) start(args ...string) (*process, error) {
	p := &process{cmd: exec.Command(b.shoal, args...), over: make(chan error, 1)}
	p.cmd.Env = append(os.Environ(), "OTEL_SDK_DISABLED=true")
	r, w := io.Pipe()
	p.cmd.Stdout, p.cmd.Stderr = w, w
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		lines := bufio.NewScanner(r)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			p.mu.Lock()
			p.lines = append(p.lines, lines.Text())
			p.mu.Unlock()
		}
	}()
	go func() {
		p.over <- p.cmd.Wait()
		w.Close()
	}()
	return p, nil
}

func (p *process) log() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.lines)
}

// stop ends a process as an operator does.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.over:
	case <-time.After(20 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.over
	}
}

// fetched adds up the bytes that a process says that it fetched, and from the origin.
func (p *process) fetched() (bytes, origin int64) {
	for _, line := range p.log() {
		var said struct {
			Msg           string
			Bytes, Origin int64
		}
		if json.Unmarshal([]byte(line), &said) == nil && said.Msg == "weights fetched" {
			bytes, origin = bytes+said.Bytes, origin+said.Origin
		}
	}
	return bytes, origin
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// nodes are the processes of a cluster.
type nodes struct {
	b           *bench
	secret      string
	gossip      string
	coordinator *process
	admin       string
	shards      []*process

	source string              // the model; empty is that of the origin
	extra  map[string][]string // flags of a shard by its name
	folder string              // begins the names of their stores
	watch  bool                // the memory of shards is observed
}

func (n *nodes) stop() {
	var wg sync.WaitGroup
	for _, p := range append(slices.Clone(n.shards), n.coordinator) {
		if p != nil {
			wg.Go(p.stop)
		}
	}
	wg.Wait()
	n.shards, n.coordinator = nil, nil
}

// up starts a coordinator and shards s0, s1, … with stores of their own, and waits
// until the model can answer.
func (n *nodes) up(ctx context.Context, shards int, pins ...string) (err error) {
	if n.gossip, err = freePort(); err != nil {
		return err
	}
	if n.admin, err = freePort(); err != nil {
		return err
	}
	common := []string{"--cluster-secret-file=" + n.secret, "--grpc-addr=127.0.0.1:0", "--advertise=127.0.0.1", "--log-format=json", "--log-level=info"}
	args := append([]string{
		"coordinator", "--model=" + cmp.Or(n.source, n.b.url), "--node-id=c", fmt.Sprintf("--min-shards=%d", shards), fmt.Sprintf("--stages=%d", shards),
		"--gossip-addr=" + n.gossip, "--admin-addr=" + n.admin, "--context=512", "--pin=" + strings.Join(pins, ","), "--replicas=1",
	}, append(common, n.b.flags(n.folder+"c")...)...)
	if n.coordinator, err = n.b.start(args...); err != nil {
		return err
	}
	for i := range shards {
		name := fmt.Sprint("s", i)
		p, err := n.b.start(append([]string{"shard", "--node-id=" + name, "--join=" + n.gossip, "--gossip-addr=127.0.0.1:0", "--admin-addr=127.0.0.1:0", "--state-dir=", "--device=cpu"}, append(append(common, n.b.flags(n.folder+name)...), n.extra[name]...)...)...)
		if err != nil {
			return err
		}
		if n.watch {
			go p.observe()
		}
		n.shards = append(n.shards, p)
	}
	return n.ready(ctx)
}

func (n *nodes) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.admin+"/readyz", nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case err := <-n.coordinator.over:
			return fmt.Errorf("the coordinator has ended: %w\n%s", err, strings.Join(n.coordinator.log(), "\n"))
		case <-ctx.Done():
			return fmt.Errorf("not ready\n%s", strings.Join(append(n.coordinator.log(), n.shards[0].log()...), "\n"))
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// fetched are the bytes that shards say that they fetched.
func (n *nodes) fetched() (bytes, origin int64) {
	for _, p := range n.shards {
		b, o := p.fetched()
		bytes, origin = bytes+b, origin+o
	}
	return bytes, origin
}

// cluster measures what three cold shards, a fourth and another split fetch.
func (b *bench) cluster(ctx context.Context) error {
	n := &nodes{b: b, secret: filepath.Join(b.dir, "secret")}
	if out, err := exec.Command(b.shoal, "secret", n.secret).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	defer n.stop()
	b.origin.Sent()
	if err := n.up(ctx, 3, "0-9=s0", "10-19=s1", "20-29=s2"); err != nil {
		return err
	}
	b.note("origin_bytes_ratio_3_shards", float64(b.origin.Sent())/float64(b.size), "× the model", 1)
	n.stop()
	if err := n.up(ctx, 4, "0-7=s0", "8-14=s1", "15-22=s2", "23-29=s3"); err != nil {
		return err
	}
	if bytes, _ := n.shards[3].fetched(); bytes == 0 {
		return errors.New("the fourth shard has fetched nothing at all")
	}
	b.note("origin_bytes_4th_shard", float64(b.origin.Sent()), "bytes", 1)
	n.stop()
	// s0 has layers 0 to 9 and s1 8 to 19. Layers 20 and 21 move to s1.
	if err := n.up(ctx, 3, "0-9=s0", "10-21=s1", "22-29=s2"); err != nil {
		return err
	}
	moved, err := b.layerBytes(20, 22)
	if err != nil {
		return err
	}
	bytes, _ := n.fetched()
	b.note("replan_bytes_ratio", float64(bytes)/float64(moved), "× the bytes of 2 layers", 1)
	b.note("replan_origin_bytes", float64(b.origin.Sent()), "bytes", 1)
	return nil
}

// cold measures how long three shards without anything take, from the start of all
// processes until they can answer, beside what the origin's line takes for the model.
func (b *bench) cold(ctx context.Context) error {
	n := &nodes{b: b, secret: filepath.Join(b.dir, "secret-cold"), folder: "cold-"}
	if out, err := exec.Command(b.shoal, "secret", n.secret).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	defer n.stop()
	rate := b.rate / 3 * (1 << 20)
	b.origin.Limit(rate)
	defer b.origin.Limit(b.rate * (1 << 20))
	b.origin.Sent()
	began := time.Now()
	if err := n.up(ctx, 3); err != nil {
		return err
	}
	took, sent := time.Since(began).Seconds(), b.origin.Sent()
	fmt.Printf("  %d MB at %.0f MB/s, ready in %.2f s, %d MB sent\n", b.size/1e6, rate/1e6, took, sent/1e6)
	b.note("cold_3_shards_time", took/(float64(b.size)/rate), "× bytes / rate", 1)
	return nil
}

// layerBytes are the bytes of tensors of layers [first, end).
func (b *bench) layerBytes(first, end int) (uint64, error) {
	m, err := library.Library{}.Open(b.file)
	if err != nil {
		return 0, err
	}
	defer m.Close()
	return m.Bytes(model.Part{First: first, End: end}), nil
}

// keeper opens a store of the bench in this process.
func (b *bench) keeper(name string) (*weights.Keeper, error) {
	return weights.Settings{Dir: filepath.Join(b.dir, name), Private: []string{"127.0.0.0/8"}}.Keeper(nil)
}

// held is how many bytes of the model a store has.
func (b *bench) held(name string) (int64, error) {
	k, err := b.keeper(name)
	if err != nil {
		return 0, err
	}
	defer k.Close()
	s, err := k.Store()
	if err != nil {
		return 0, err
	}
	m, err := s.Find(b.url)
	if errors.Is(err, store.ErrNoModel) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	_, missing := m.Missing(m.All())
	return m.Size() - missing, nil
}

// resume kills pulls at random moments: what was sent and is not in the store is
// fetched twice.
func (b *bench) resume(context.Context) error {
	r := rand.New(rand.NewPCG(7, 11))
	most, before := int64(0), int64(0)
	b.origin.Sent()
	store, n := "pull0", 0
	for range b.kills {
		p, err := b.start(append([]string{"pull", b.url}, b.flags(store)...)...)
		if err != nil {
			return err
		}
		select {
		case <-time.After(100*time.Millisecond + time.Duration(r.IntN(700))*time.Millisecond):
			_ = p.cmd.Process.Kill()
			<-p.over
		case err := <-p.over: // it was done: another begins
			if err != nil {
				return fmt.Errorf("pull: %w\n%s", err, strings.Join(p.log(), "\n"))
			}
			n++
			store, before = fmt.Sprint("pull", n), 0
			b.origin.Sent()
			continue
		}
		held, err := b.held(store)
		if err != nil {
			return err
		}
		most, before = max(most, b.origin.Sent()-(held-before)), held
	}
	if out, err := exec.Command(b.shoal, append([]string{"pull", b.url}, b.flags(store)...)...).CombinedOutput(); err != nil {
		return fmt.Errorf("pull: %w: %s", err, out)
	}
	b.note("resume_refetch_max_mib", float64(most)/(1<<20), "MiB", b.kills)
	return nil
}

// whole pulls the model into the store "whole".
func (b *bench) whole() error {
	out, err := exec.Command(b.shoal, append([]string{"pull", b.url}, b.flags("whole")...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("pull: %w: %s", err, out)
	}
	return nil
}

// warm measures from the start of a process until a model of the store can answer.
func (b *bench) warm(context.Context) error {
	if err := b.whole(); err != nil {
		return err
	}
	const runs = 5
	var times []float64
	for range runs {
		began := time.Now()
		p, err := b.start(append([]string{"up", b.url, "--listen=127.0.0.1:0", "--device=cpu", "--context=2048", "--offline"}, b.flags("whole")...)...)
		if err != nil {
			return err
		}
		ready := func() bool {
			return slices.ContainsFunc(p.log(), func(l string) bool { return strings.Contains(l, "ready in") })
		}
		for !ready() {
			if time.Since(began) > patience {
				p.stop()
				return fmt.Errorf("up: not ready\n%s", strings.Join(p.log(), "\n"))
			}
			time.Sleep(time.Millisecond)
		}
		times = append(times, time.Since(began).Seconds())
		p.stop()
	}
	slices.Sort(times)
	b.note("warm_start_s", times[runs/2], "s", runs)
	return nil
}

// bits changes bits in the store and counts the tensors that are loaded in spite of it.
func (b *bench) bits(ctx context.Context) error {
	if err := b.whole(); err != nil {
		return err
	}
	k, err := b.keeper("whole")
	if err != nil {
		return err
	}
	defer k.Close()
	s, err := k.Store()
	if err != nil {
		return err
	}
	m, err := s.Find(b.url)
	if err != nil {
		return err
	}
	r, loaded := rand.New(rand.NewPCG(13, 17)), 0
	for range b.flips {
		i := r.IntN(len(m.Segments()))
		ok, err := b.flip(ctx, k, m, i, r)
		if err != nil {
			return err
		}
		if ok {
			loaded++
		}
	}
	b.note("bitflips_loaded", float64(loaded), "of 1000", b.flips)
	return nil
}

// flip changes a bit of a segment and reports whether the segment is loaded all the
// same. It is put back afterwards.
func (b *bench) flip(ctx context.Context, k *weights.Keeper, m *store.Model, i int, r *rand.Rand) (loaded bool, err error) {
	data, err := m.Get(i)
	if err != nil {
		return false, err
	}
	name := store.HashOf(data).String()
	path := filepath.Join(b.dir, "whole", "segments", name[:2], name)
	changed := slices.Clone(data)
	changed[r.IntN(len(changed))] ^= 1 << r.IntN(8)
	if err := os.WriteFile(path, changed, 0o644); err != nil {
		return false, err
	}
	seg := m.Segments()[i]
	f := m.Manifest.Files[seg.File]
	if uint64(seg.Offset) < f.Head {
		l, err := k.Open(ctx, m, nil)
		if loaded = err == nil; loaded {
			l.Close()
		}
		return loaded, m.Put(i, data)
	}
	l, err := k.Open(ctx, m, nil)
	if err != nil {
		return false, err
	}
	defer l.Close()
	for _, tensor := range l.Arch.Tensors(l.Spec, model.Whole(l.Spec)) {
		for _, need := range l.Ranges(tensor) {
			if need.File == f.Name && need.Offset < uint64(seg.Offset)+uint64(seg.Size) && uint64(seg.Offset) < need.Offset+need.Size {
				t, _ := l.Source.Tensor(tensor)
				loaded = loaded || len(t.Data) > 0
			}
		}
	}
	return loaded, m.Put(i, data)
}
