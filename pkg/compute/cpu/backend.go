package cpu

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/compute/cpu/vec"
	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/quant/p16"
)

// The classes of this kernel set. A change of any bit changes the name.
const (
	class          = "cpu/v1"
	referenceClass = "cpu-reference/v1"
)

var (
	// ErrFormat says that there is no kernel for a weight format.
	ErrFormat = errors.New("no cpu kernel for the weight format")
	// ErrMemory says that an object does not fit the memory of the device.
	ErrMemory = errors.New("out of device memory")
)

// maxThreads bounds Config.Threads.
const maxThreads = 1024

// Config says how to open the CPU. The zero value uses all of it.
type Config struct {
	Threads   int          // workers; 0 is one per physical core that the process may use
	Level     *quant.Level // instruction set level; nil is the best the CPU has
	Reference bool         // exact weights, float32 activations, float64 sums: the oracle
	Memory    uint64       // bytes of weights, caches and buffers; 0 is what the machine has
	Log       *slog.Logger // nil discards
}

// Backend computes on the CPU. It implements compute.Backend.
type Backend struct {
	info      compute.Info
	level     quant.Level
	ops       *vec.Ops
	reference bool
	log       *slog.Logger

	memory    uint64         // limit, 0 for none
	used      compute.Memory // owner's goroutine only
	scratch   atomic.Uint64  // bytes of the gang's working memory
	mappings  []mapping
	free      chan *pass // passes that may be recorded
	queue     chan *pass // submitted passes
	done      chan compute.Completion
	gang      *gang
	finished  sync.WaitGroup
	closeOnce sync.Once
}

var _ compute.Backend = (*Backend)(nil)

// Open starts the workers of a CPU backend. Close stops them.
func Open(cfg Config) (*Backend, error) {
	level, err := cfg.level()
	if err != nil {
		return nil, fmt.Errorf("open cpu: %w", err)
	}
	threads := cfg.Threads
	if threads == 0 {
		threads = availableThreads()
	}
	if threads < 0 || threads > maxThreads {
		return nil, fmt.Errorf("open cpu: %d threads: want 1 to %d", threads, maxThreads)
	}
	memory := cfg.Memory
	if memory == 0 {
		memory = machineMemory()
	}
	log := cfg.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	b := &Backend{
		info:      compute.Info{Kind: "cpu", Name: processorName(), Class: class, Threads: threads, Memory: memory},
		level:     level,
		ops:       vec.For(level),
		reference: cfg.Reference,
		log:       log,
		memory:    memory,
		free:      make(chan *pass, compute.MaxPasses),
		queue:     make(chan *pass, compute.MaxPasses),
		done:      make(chan compute.Completion, compute.MaxPasses),
	}
	if cfg.Reference {
		b.info.Class = referenceClass
	}
	for range compute.MaxPasses {
		b.free <- &pass{be: b}
	}
	b.gang = newGang(b, threads)
	b.finished.Go(b.serve)
	log.Info("opened cpu", "name", b.info.Name, "threads", threads, "level", level, "class", b.info.Class, "memory", memory)
	return b, nil
}

func (cfg Config) level() (quant.Level, error) {
	best := p16.Best()
	if cfg.Level == nil {
		return best, nil
	}
	if *cfg.Level > quant.AVX512 {
		return 0, fmt.Errorf("unknown instruction set level %d", *cfg.Level)
	}
	if *cfg.Level > best {
		return 0, fmt.Errorf("this processor has no %s: the best it has is %s", *cfg.Level, best)
	}
	return *cfg.Level, nil
}

// serve runs submitted passes in order, as worker 0 of the gang, until Close.
func (b *Backend) serve() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(b.done)
	defer b.gang.stop()
	for p := range b.queue {
		c := b.gang.run(p)
		b.free <- p
		b.done <- c
	}
}

// Info describes the processor and the class.
func (b *Backend) Info() compute.Info { return b.info }

// Level returns the instruction set level in use.
func (b *Backend) Level() quant.Level { return b.level }

// Completions delivers one completion per submitted pass, in order. It is closed
// by Close.
func (b *Backend) Completions() <-chan compute.Completion { return b.done }

// Used returns what is held. Buffers include the workers' own.
func (b *Backend) Used() compute.Memory {
	used := b.used
	used.Buffers += b.scratch.Load()
	return used
}

// reserve checks that n more bytes fit the device.
func (b *Backend) reserve(n uint64) error {
	if held := b.Used().Total(); b.memory != 0 && (n > b.memory || held > b.memory-n) {
		return fmt.Errorf("%w: %d bytes wanted, %d of %d held", ErrMemory, n, held, b.memory)
	}
	return nil
}

// allocate returns n zero bytes that Close frees.
func (b *Backend) allocate(n uint64) (mapping, error) {
	if err := b.reserve(n); err != nil {
		return nil, err
	}
	m, err := newMapping(int(n))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMemory, err)
	}
	b.mappings = append(b.mappings, m)
	return m, nil
}

// Load packs a matrix for the kernels of its format, or copies it in reference
// mode. The error wraps ErrFormat or ErrMemory, or says what is wrong with m.
func (b *Backend) Load(m compute.Matrix) (compute.Weight, error) {
	w, err := b.load(m)
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", m.Name, err)
	}
	return w, nil
}

func (b *Backend) load(m compute.Matrix) (*weight, error) {
	rowBytes, err := m.Format.RowBytes(m.Cols)
	if err != nil {
		return nil, err
	}
	if m.Rows <= 0 || len(m.Data)/rowBytes != m.Rows || len(m.Data)%rowBytes != 0 {
		return nil, fmt.Errorf("%d bytes are not %d rows of %d bytes", len(m.Data), m.Rows, rowBytes)
	}
	w := &weight{rows: m.Rows, cols: m.Cols, groups: groupsOf(m.Rows), format: m.Format, rowBytes: rowBytes}
	size := len(m.Data)
	if !b.reference {
		if m.Format.CPU == nil {
			return nil, fmt.Errorf("%w %s", ErrFormat, m.Format.Name)
		}
		w.cpu = m.Format.CPU
		w.multiply = w.cpu.MatMul(b.level)
		w.groupBytes = w.cpu.GroupBytes(m.Cols)
		size = w.groups * w.groupBytes
	}
	if w.data, err = b.allocate(uint64(size)); err != nil {
		return nil, err
	}
	if b.reference {
		copy(w.data, m.Data)
	} else {
		w.pack(m.Data, b.info.Threads)
	}
	b.used.Weights += uint64(size)
	return w, nil
}

// LoadVector copies a vector.
func (b *Backend) LoadVector(v []float32) (compute.Vector, error) {
	if len(v) == 0 {
		return nil, errors.New("load vector: it is empty")
	}
	padded := padTo(len(v), quant.Lanes)
	if err := b.reserve(4 * uint64(padded)); err != nil {
		return nil, fmt.Errorf("load vector: %w", err)
	}
	out := &vector{n: len(v), data: make([]float32, padded)}
	copy(out.data, v)
	b.used.Weights += 4 * uint64(padded)
	return out, nil
}

// NewBuffer makes a buffer of up to rows rows of cols float32.
func (b *Backend) NewBuffer(rows, cols int) (compute.Buffer, error) {
	if rows <= 0 || cols <= 0 {
		return nil, fmt.Errorf("new buffer: %d rows of %d", rows, cols)
	}
	stride := padTo(cols, quant.Lanes)
	size := 4 * uint64(padTo(rows, quant.TileTokens[0])) * uint64(stride)
	m, err := b.allocate(size)
	if err != nil {
		return nil, fmt.Errorf("new buffer: %w", err)
	}
	b.used.Buffers += size
	return &buffer{rows: rows, cols: cols, stride: stride, data: m.float32s()}, nil
}

// NewCache makes the KV pages of a stage, all zero. The head dimension is a
// multiple of 8.
func (b *Backend) NewCache(spec compute.CacheSpec) (compute.Cache, error) {
	if spec.Layers <= 0 || spec.Pages <= 0 || spec.KVHeads <= 0 || spec.HeadDim <= 0 || spec.HeadDim%8 != 0 {
		return nil, fmt.Errorf("new cache: %d layers, %d pages, %d heads of %d: want positive numbers, and heads in multiples of 8",
			spec.Layers, spec.Pages, spec.KVHeads, spec.HeadDim)
	}
	head := spec.HeadDim * compute.PageTokens
	size := 2 * 4 * uint64(spec.Layers) * uint64(spec.Pages) * uint64(spec.KVHeads) * uint64(head)
	m, err := b.allocate(size)
	if err != nil {
		return nil, fmt.Errorf("new cache: %w", err)
	}
	b.used.Caches += size
	return &cache{spec: spec, head: head, page: 2 * spec.KVHeads * head, data: m.float32s()}, nil
}

// Close waits for submitted passes, stops the workers and frees all objects,
// which must not be used again. It closes the channel of completions.
func (b *Backend) Close() error {
	var err error
	b.closeOnce.Do(func() {
		close(b.queue)
		b.finished.Wait()
		for _, m := range b.mappings {
			err = errors.Join(err, m.free())
		}
		b.mappings, b.used = nil, compute.Memory{}
	})
	return err
}
