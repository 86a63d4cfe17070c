//go:build cgo && ((linux && amd64) || darwin || (windows && amd64))

package webgpu

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/compute/webgpu/device"
)

// Adapters lists the adapters of this machine, software ones too.
func Adapters() ([]Adapter, error) {
	found := device.Adapters()
	if len(found) == 0 {
		return nil, fmt.Errorf("%w: is a Vulkan, Metal or DX12 driver installed?", ErrUnavailable)
	}
	out := make([]Adapter, len(found))
	for i, a := range found {
		out[i] = Adapter{Index: i, Name: a.Name, Vendor: a.Vendor, Device: a.Device, Driver: a.Driver, API: a.API, Software: a.Software}
	}
	return out, nil
}

// names reports whether the configuration means the adapter with a number and a name. A
// number is never looked for in names: "NVIDIA H100" has a 1 and a 0.
func (cfg *Config) names(number int, name string) bool {
	if cfg.Adapter == "" {
		return true
	}
	if n, err := strconv.Atoi(cfg.Adapter); err == nil {
		return n == number
	}
	return strings.Contains(strings.ToLower(name), strings.ToLower(cfg.Adapter))
}

// choose returns the adapter that cfg names.
func (cfg *Config) choose() (device.Adapter, error) {
	found := device.Adapters()
	best := -1
	for i, a := range found {
		if a.Software && !cfg.Software || !cfg.names(i, a.Name) {
			continue
		}
		if best < 0 || a.Discrete && !found[best].Discrete || !a.Software && found[best].Software {
			best = i
		}
	}
	if best >= 0 {
		return found[best], nil
	}
	var names []string
	for i, a := range found {
		names = append(names, fmt.Sprintf("%d %s (%s)", i, a.Name, a.API))
	}
	if len(names) == 0 {
		return device.Adapter{}, fmt.Errorf("%w: is a Vulkan, Metal or DX12 driver installed?", ErrUnavailable)
	}
	return device.Adapter{}, fmt.Errorf("%w of that kind; there are: %s; software adapters must be asked for", ErrUnavailable, strings.Join(names, ", "))
}

// Backend computes on a GPU. It implements compute.Backend.
type Backend struct {
	info   compute.Info
	dev    *device.Device
	cfg    Config
	log    *slog.Logger
	kernel *registry

	queue sync.Mutex // who encodes and submits

	// Owner's goroutine only.
	arenas     map[*arena]struct{}
	orphaned   uint64 // bytes of arenas that are gone, in stores that others hold
	tuner      *tuner
	stages     stages
	nothing    *device.Buffer // bound where a kernel has no use for a buffer
	params     params
	groups     map[groupKey]*device.Group
	entries    map[kernel]*entry
	scratch    [scratches]*device.Buffer
	retired    []retired
	slots      [compute.MaxPasses]*slot
	begun      uint64 // passes
	profiling  bool
	profiler   profiler
	generation uint64 // changes when objects are freed; guarded by queue, written by the owner

	own        atomic.Uint64 // bytes of what the backend itself holds
	completed  atomic.Uint64 // passes
	unfinished atomic.Int32
	latest     atomic.Uint64 // number of the pass submitted last
	ahead      ahead         // guarded by queue
	sent       chan sent     // passes whose successor may be encoded
	running    chan *pass
	done       chan compute.Completion
	finished   sync.WaitGroup
	closeOnce  sync.Once
}

var _ compute.Backend = (*Backend)(nil)

// Open opens an adapter. The error wraps ErrUnavailable when there is none.
func Open(cfg Config) (compute.Backend, error) {
	b, err := open(cfg)
	if err != nil {
		return nil, fmt.Errorf("open webgpu: %w", err)
	}
	return b, nil
}

func open(cfg Config) (*Backend, error) {
	adapter, err := cfg.choose()
	if err != nil {
		return nil, err
	}
	dev, err := adapter.Open()
	if err != nil {
		return nil, err
	}
	if have := dev.Limits.Storage; have < leastBuffers {
		dev.Close()
		return nil, fmt.Errorf("%w: %s binds %d storage buffers to a shader, the kernels need %d", ErrUnavailable, adapter.Name, have, leastBuffers)
	}
	if n := cfg.Workgroup; n != 0 && (n < leastThreads || n&(n-1) != 0 || n > dev.Limits.Workgroup) {
		dev.Close()
		return nil, fmt.Errorf("workgroups of %d threads: %w: %s takes powers of two from %d to %d", n, ErrWorkgroup, adapter.Name, leastThreads, dev.Limits.Workgroup)
	}
	compilers := cfg.Compilers
	if compilers == 0 {
		compilers = runtime.GOMAXPROCS(0)
	}
	if compilers < 0 {
		dev.Close()
		return nil, fmt.Errorf("%d kernels compiled at a time: want 1 or more", compilers)
	}
	kernels, err := newRegistry(dev, compilers)
	if err != nil {
		dev.Close()
		return nil, err
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	class := fmt.Sprintf("webgpu/v%d %s, %s %s, %s", geometryVersion, kernelSet(), adapter.Name, adapter.API, adapter.Driver)
	tuner, err := newTuner(cfg, class)
	if err != nil {
		dev.Close()
		return nil, err
	}
	b := &Backend{
		info: compute.Info{
			Kind: "webgpu", Name: adapter.Name, Memory: cfg.Memory, Lacks: lacks,
			Class: class,
		},
		dev: dev, tuner: tuner, cfg: cfg, log: cfg.Log, kernel: kernels,
		arenas: map[*arena]struct{}{}, groups: map[groupKey]*device.Group{}, entries: map[kernel]*entry{},
		sent: make(chan sent, 1), running: make(chan *pass, compute.MaxPasses),
		done: make(chan compute.Completion, compute.MaxPasses),
	}
	b.finished.Go(b.encodeAhead)
	b.finished.Go(b.serve)
	b.log.Info("opened webgpu", "name", adapter.Name, "api", adapter.API, "driver", adapter.Driver, "class", b.info.Class)
	return b, nil
}

// Info describes the adapter and the class.
func (b *Backend) Info() compute.Info { return b.info }

// Completions delivers one completion per submitted pass, in order. It is closed
// by Close.
func (b *Backend) Completions() <-chan compute.Completion { return b.done }

// Used returns what all arenas hold. Buffers include the backend's own.
func (b *Backend) Used() compute.Memory {
	used := compute.Memory{Weights: b.orphaned, Buffers: b.own.Load()}
	for a := range b.arenas {
		used.Weights += a.used.Weights
		used.Caches += a.used.Caches
		used.Buffers += a.used.Buffers
	}
	return used
}

// reserve checks that n more bytes fit the limit.
func (b *Backend) reserve(n uint64) error {
	if held := b.Used().Total(); b.cfg.Memory != 0 && (n > b.cfg.Memory || held > b.cfg.Memory-n) {
		return fmt.Errorf("%w: %d bytes wanted, %d of %d held", ErrMemory, n, held, b.cfg.Memory)
	}
	return nil
}

// Close waits for submitted passes and frees everything. It closes the channel of
// completions.
func (b *Backend) Close() error {
	var err error
	b.closeOnce.Do(func() {
		close(b.sent)
		close(b.running)
		b.finished.Wait()
		for a := range b.arenas {
			err = errors.Join(err, a.Free())
		}
		for _, g := range b.groups {
			g.Free()
		}
		b.kernel.close()
		b.freeOwn()
		err = errors.Join(err, b.dev.Err())
		b.dev.Close()
	})
	return err
}

// freeOwn frees what the backend made for itself.
func (b *Backend) freeOwn() {
	b.stages.free()
	for _, s := range b.slots {
		s.free()
	}
	for _, r := range b.retired {
		r.buffer.Free()
	}
	for _, s := range b.scratch {
		if s != nil {
			s.Free()
		}
	}
	for _, p := range b.params.buffers {
		p.Free()
	}
	if b.nothing != nil {
		b.nothing.Free()
	}
	if b.profiler.queries != nil {
		b.profiler.queries.Free()
		b.profiler.times.Free()
	}
}

// leastBuffers is the number of storage buffers of the kernel that has most, but for
// ropeBuffers.
const leastBuffers = 10

// leastThreads is the least number of threads of a workgroup that may be asked for.
const leastThreads = 32

// hangs bounds a pass: a device that takes longer is taken for lost.
const hangs = 60 * time.Second

// prepare makes what all arenas share.
func (b *Backend) prepare() error {
	if b.nothing != nil {
		return nil
	}
	var err error
	b.nothing, err = b.ownBuffer(256, device.Storage)
	return err
}
