package cpu

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
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
	// ErrFloatMode says that a worker's thread does not round to nearest or
	// drops denormals, so that a pass has other bits than those of the class.
	ErrFloatMode = errors.New("wrong floating-point mode")
	// ErrMemory says that an object does not fit the memory of the device.
	ErrMemory = compute.ErrMemory
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
	wide      bool // a weight is loaded that wide tiles pay for; owner's goroutine only
	ops       *vec.Ops
	reference bool
	log       *slog.Logger

	memory     uint64              // limit, 0 for none
	scratch    atomic.Uint64       // bytes of the gang's working memory
	arenas     map[*arena]struct{} // owner's goroutine only
	free       chan *pass          // passes that may be recorded
	unfinished atomic.Int32        // passes begun and not completed
	queue      chan *pass          // submitted passes
	done       chan compute.Completion
	gang       *gang
	finished   sync.WaitGroup
	closeOnce  sync.Once
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
		arenas: map[*arena]struct{}{},
		info: compute.Info{
			Kind: "cpu", Name: processorName(), Class: class,
			Threads: threads, Memory: memory, NUMA: memoryNodes(),
		},
		level:     level,
		ops:       vec.For(level),
		reference: cfg.Reference,
		log:       log,
		memory:    memory,
		free:      make(chan *pass, compute.MaxPasses+threads),
		queue:     make(chan *pass, compute.MaxPasses),
		done:      make(chan compute.Completion, compute.MaxPasses),
	}
	if cfg.Reference {
		b.info.Class, b.info.Lacks = referenceClass, compute.FeaturePackedKV
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
	if *cfg.Level > quant.NEON {
		return 0, fmt.Errorf("unknown instruction set level %d", *cfg.Level)
	}
	if !slices.Contains(p16.Levels(), *cfg.Level) {
		return 0, fmt.Errorf("this processor has no %s: the best it has is %s", *cfg.Level, best)
	}
	return *cfg.Level, nil
}

// serve runs submitted passes in order, as worker 0 of the gang, until Close. It
// is not bound to its thread: it waits between passes, and to wake a bound
// goroutine takes two switches of threads.
func (b *Backend) serve() {
	defer close(b.done)
	defer b.gang.stop()
	for p := range b.queue {
		c := b.gang.run(p)
		b.gang.retire(p, func(p *pass) { b.free <- p })
		b.unfinished.Add(-1)
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

// Used returns what all arenas hold. Buffers include the workers' own.
func (b *Backend) Used() compute.Memory {
	used := compute.Memory{Buffers: b.scratch.Load()}
	for a := range b.arenas {
		used.Weights += a.used.Weights
		used.Caches += a.used.Caches
		used.Buffers += a.used.Buffers
	}
	return used
}

// Close waits for submitted passes, stops the workers and frees all objects,
// which must not be used again. It closes the channel of completions.
func (b *Backend) Close() error {
	var err error
	b.closeOnce.Do(func() {
		close(b.queue)
		b.finished.Wait()
		for a := range b.arenas {
			err = errors.Join(err, a.Free())
		}
	})
	return err
}
