package cpu

import (
	"errors"
	"fmt"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/quant"
)

// arena holds objects that are freed together.
type arena struct {
	be       *Backend
	used     compute.Memory
	mappings []mapping
}

var _ compute.Arena = (*arena)(nil)

// NewArena makes a holder of objects.
func (b *Backend) NewArena() compute.Arena {
	a := &arena{be: b}
	b.arenas[a] = struct{}{}
	return a
}

// Used returns what the arena holds.
func (a *arena) Used() compute.Memory { return a.used }

// Free frees all objects of the arena.
func (a *arena) Free() error {
	var err error
	for _, m := range a.mappings {
		err = errors.Join(err, m.free())
	}
	a.mappings, a.used = nil, compute.Memory{}
	delete(a.be.arenas, a)
	return err
}

// reserve checks that n more bytes fit the device.
func (b *Backend) reserve(n uint64) error {
	if held := b.Used().Total(); b.memory != 0 && (n > b.memory || held > b.memory-n) {
		return fmt.Errorf("%w: %d bytes wanted, %d of %d held", ErrMemory, n, held, b.memory)
	}
	return nil
}

// allocate returns n zero bytes that Free frees.
func (a *arena) allocate(n uint64) (mapping, error) {
	if err := a.be.reserve(n); err != nil {
		return nil, err
	}
	m, err := newMapping(int(n))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMemory, err)
	}
	a.mappings = append(a.mappings, m)
	return m, nil
}

// Load packs a matrix for the kernels of its format, or copies it in reference
// mode. The error wraps ErrFormat or ErrMemory, or says what is wrong with m.
func (a *arena) Load(m compute.Matrix) (compute.Weight, error) {
	w, err := a.load(m)
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", m.Name, err)
	}
	return w, nil
}

func (a *arena) load(m compute.Matrix) (*weight, error) {
	rowBytes, err := m.Format.RowBytes(m.Cols)
	if err != nil {
		return nil, err
	}
	if m.Rows <= 0 || len(m.Data)/rowBytes != m.Rows || len(m.Data)%rowBytes != 0 {
		return nil, fmt.Errorf("%d bytes are not %d rows of %d bytes", len(m.Data), m.Rows, rowBytes)
	}
	w := &weight{rows: m.Rows, cols: m.Cols, groups: groupsOf(m.Rows), format: m.Format, rowBytes: rowBytes}
	size := len(m.Data)
	if !a.be.reference {
		if m.Format.CPU == nil {
			return nil, fmt.Errorf("%w %s", ErrFormat, m.Format.Name)
		}
		w.cpu = m.Format.CPU
		w.multiply = w.cpu.MatMul(a.be.level)
		a.be.wide = a.be.wide || a.be.level == quant.AMX && w.cpu.Act == quant.ActInt8
		w.groupBytes = w.cpu.GroupBytes(m.Cols)
		size = w.groups * w.groupBytes
	}
	if w.data, err = a.allocate(uint64(size)); err != nil {
		return nil, err
	}
	if a.be.reference {
		copy(w.data, m.Data)
	} else {
		w.pack(m.Data, a.be.info.Threads)
	}
	a.used.Weights += uint64(size)
	return w, nil
}

// LoadVector copies a vector.
func (a *arena) LoadVector(v []float32) (compute.Vector, error) {
	if len(v) == 0 {
		return nil, errors.New("load vector: it is empty")
	}
	padded := padTo(len(v), quant.Lanes)
	if err := a.be.reserve(4 * uint64(padded)); err != nil {
		return nil, fmt.Errorf("load vector: %w", err)
	}
	out := &vector{n: len(v), data: make([]float32, padded)}
	copy(out.data, v)
	a.used.Weights += 4 * uint64(padded)
	return out, nil
}

// NewBuffer makes a buffer of up to rows rows of cols float32.
func (a *arena) NewBuffer(rows, cols int) (compute.Buffer, error) {
	if rows <= 0 || cols <= 0 {
		return nil, fmt.Errorf("new buffer: %d rows of %d", rows, cols)
	}
	stride := padTo(cols, quant.Lanes)
	size := 4 * uint64(padTo(rows, quant.WideTile)) * uint64(stride)
	m, err := a.allocate(size)
	if err != nil {
		return nil, fmt.Errorf("new buffer: %w", err)
	}
	a.used.Buffers += size
	return &buffer{rows: rows, cols: cols, stride: stride, data: m.float32s()}, nil
}

// NewCache makes the KV pages of a stage, all zero. The head dimension is a
// multiple of 8.
func (a *arena) NewCache(spec compute.CacheSpec) (compute.Cache, error) {
	if spec.Layers <= 0 || spec.Pages <= 0 || spec.KVHeads <= 0 || spec.HeadDim <= 0 || spec.HeadDim%8 != 0 {
		return nil, fmt.Errorf("new cache: %d layers, %d pages, %d heads of %d: want positive numbers, and heads in multiples of 8",
			spec.Layers, spec.Pages, spec.KVHeads, spec.HeadDim)
	}
	if err := spec.Class.CheckHead(spec.HeadDim); err != nil {
		return nil, fmt.Errorf("new cache: %w", err)
	}
	if p := spec.Pools; spec.Class.Steps() && (p.Recent <= 0 || spec.Class.Upper != 0 && p.Upper <= 0) {
		return nil, fmt.Errorf("new cache of class %s: %d pages in halves, %d in %d bits: want positive numbers", spec.Class, p.Recent, p.Upper, spec.Class.Upper)
	}
	if n := spec.Pools.Queries; spec.Class.Ratio != 0 && (n <= 0 || spec.Heads <= 0 || spec.Heads%spec.KVHeads != 0) {
		return nil, fmt.Errorf("new cache of class %s: queries of %d heads in %d places: want positive numbers, the heads a multiple of %d", spec.Class, spec.Heads, n, spec.KVHeads)
	}
	if a.be.reference && spec.Class != (compute.KVClass{}) {
		return nil, fmt.Errorf("new cache of class %s: %w: the reference keeps float32", spec.Class, compute.ErrUnsupported)
	}
	size := spec.Bytes()
	m, err := a.allocate(size)
	if err != nil {
		return nil, fmt.Errorf("new cache: %w", err)
	}
	a.used.Caches += size
	return newCache(spec, m, a.be.ops), nil
}
