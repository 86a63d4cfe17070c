//go:build cgo && ((linux && amd64) || darwin || (windows && amd64))

package webgpu

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/compute/webgpu/device"
)

// arena holds objects that are freed together.
type arena struct {
	be      *Backend
	used    compute.Memory
	buffers []*device.Buffer
	stores  map[*store]uint64 // bytes of it that are the arena's
	ropes   map[*compute.Rope]*device.Buffer
}

var _ compute.Arena = (*arena)(nil)

// NewArena makes a holder of objects.
func (b *Backend) NewArena() compute.Arena {
	a := &arena{be: b, stores: map[*store]uint64{}, ropes: map[*compute.Rope]*device.Buffer{}}
	b.arenas[a] = struct{}{}
	return a
}

// Used returns what the arena holds.
func (a *arena) Used() compute.Memory { return a.used }

// Free frees all objects of the arena.
func (a *arena) Free() error {
	a.be.forget(a.buffers)
	for _, b := range a.buffers {
		b.Free()
	}
	for s := range a.stores {
		a.leave(s)
	}
	a.buffers, a.stores, a.ropes, a.used = nil, nil, nil, compute.Memory{}
	delete(a.be.arenas, a)
	return a.be.dev.Err()
}

// allocate makes a buffer that Free frees and adds its size to purpose.
func (a *arena) allocate(size uint64, purpose *uint64) (*device.Buffer, error) {
	b, err := a.be.allocate(size)
	if err != nil {
		return nil, err
	}
	a.buffers = append(a.buffers, b)
	*purpose += b.Size
	return b, nil
}

// allocate makes a buffer within the limits of the device and of the backend.
func (b *Backend) allocate(size uint64) (*device.Buffer, error) {
	if limit := b.dev.Limits.Binding; size > limit {
		return nil, fmt.Errorf("%w: %d bytes in one buffer, the device allows %d", ErrMemory, size, limit)
	}
	if err := b.reserve(size); err != nil {
		return nil, err
	}
	buffer, err := b.dev.NewBuffer(size, device.Storage)
	if errors.Is(err, device.ErrMemory) {
		return nil, fmt.Errorf("%w: %w", ErrMemory, err)
	}
	return buffer, err
}

// hold makes n bytes of a store the arena's.
func (a *arena) hold(s *store, n uint64) {
	if _, ok := a.stores[s]; !ok {
		s.holders++
	}
	a.stores[s] += n
	a.used.Weights += n
}

// leave gives up the arena's part of a store, which is freed with its last holder.
func (a *arena) leave(s *store) {
	n := a.stores[s]
	delete(a.stores, s)
	a.used.Weights -= n
	s.orphaned += n
	a.be.orphaned += n
	if s.holders--; s.holders > 0 {
		return
	}
	a.be.orphaned -= s.orphaned
	a.be.free(s)
}

// free frees a store's buffers.
func (b *Backend) free(s *store) {
	buffers := []*device.Buffer{s.vectors}
	if s.words != b.nothing {
		buffers = append(buffers, s.words)
	}
	b.forget(buffers)
	for _, buffer := range buffers {
		buffer.Free()
	}
}

// Load packs a matrix for the device. The error wraps ErrFormat or ErrMemory, or
// says what is wrong with m.
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
	if m.Format.GPU == nil {
		return nil, fmt.Errorf("%w %s", ErrFormat, m.Format.Name)
	}
	w := &weight{arena: a, rows: m.Rows, cols: m.Cols, format: m.Format, geometry: geometryOf(m.Cols)}
	if w.geometry.lanes > maxLanes || w.geometry.segments > 1<<15 {
		return nil, fmt.Errorf("rows of %d columns are too long", m.Cols)
	}
	most := int(a.be.dev.Limits.Binding / uint64(16*m.Format.GPU.Vectors*w.geometry.segments))
	if most == 0 {
		return nil, fmt.Errorf("%w: a row of %d columns does not fit a binding", ErrMemory, m.Cols)
	}
	for row := 0; row < m.Rows; row += most {
		n := min(most, m.Rows-row)
		s, err := a.upload(w, m.Data[row*rowBytes:(row+n)*rowBytes], n, rowBytes)
		if err != nil {
			return nil, err
		}
		w.parts = append(w.parts, part{store: s, rows: n})
	}
	return w, nil
}

// upload makes a store of rows.
func (a *arena) upload(w *weight, data []byte, rows, rowBytes int) (*store, error) {
	s, err := a.be.newStore(w, rows)
	if err != nil {
		return nil, err
	}
	a.hold(s, s.bytes(a.be.nothing))
	return s, a.be.pack(w, s, data, rowBytes)
}

// bytes returns what the store's buffers take.
func (s *store) bytes(nothing *device.Buffer) uint64 {
	if s.words == nothing {
		return s.vectors.Size
	}
	return s.vectors.Size + s.words.Size
}

// newStore makes room for rows like those of w, which nobody holds yet.
func (b *Backend) newStore(w *weight, rows int) (*store, error) {
	if err := b.prepare(); err != nil {
		return nil, err
	}
	gpu, segments := w.format.GPU, w.geometry.segments
	s := &store{rows: rows, supers: rows * gpu.Words * segments, words: b.nothing}
	words := s.supers
	if gpu.Super {
		words += rows * (segments / 4)
	}
	var err error
	if s.vectors, err = b.allocate(uint64(16 * rows * gpu.Vectors * segments)); err != nil || words == 0 {
		return s, err
	}
	if s.words, err = b.allocate(uint64(4 * words)); err != nil {
		s.vectors.Free()
		return nil, err
	}
	return s, nil
}

// LoadVector copies a vector.
func (a *arena) LoadVector(v []float32) (compute.Vector, error) {
	if len(v) == 0 {
		return nil, errors.New("load vector: it is empty")
	}
	data := arranged(v)
	b, err := a.allocate(uint64(len(data)), &a.used.Weights)
	if err != nil {
		return nil, fmt.Errorf("load vector: %w", err)
	}
	a.be.write(b, 0, data)
	return &vector{n: len(v), buffer: b}, nil
}

// NewBuffer makes a buffer of up to rows rows of cols float32.
func (a *arena) NewBuffer(rows, cols int) (compute.Buffer, error) {
	if rows <= 0 || cols <= 0 {
		return nil, fmt.Errorf("new buffer: %d rows of %d", rows, cols)
	}
	b := &buffer{rows: rows, cols: cols, segments: geometryOf(cols).segments}
	var err error
	if b.buffer, err = a.allocate(4*uint64(rows)*uint64(b.stride()), &a.used.Buffers); err != nil {
		return nil, fmt.Errorf("new buffer: %w", err)
	}
	return b, nil
}

// NewCache makes the KV pages of a stage, all zero. The head dimension is a
// multiple of 8, up to 256.
func (a *arena) NewCache(spec compute.CacheSpec) (compute.Cache, error) {
	if spec.Layers <= 0 || spec.Pages <= 0 || spec.KVHeads <= 0 || spec.HeadDim <= 0 || spec.HeadDim%8 != 0 || spec.HeadDim > 256 {
		return nil, fmt.Errorf("new cache: %d layers, %d pages, %d heads of %d: want positive numbers, and heads in multiples of 8 up to 256",
			spec.Layers, spec.Pages, spec.KVHeads, spec.HeadDim)
	}
	if err := spec.Class.CheckHead(spec.HeadDim); err != nil {
		return nil, fmt.Errorf("new cache: %w", err)
	}
	if class := spec.Class; class.Steps() && spec.Pools.Recent <= 0 || class.Upper != 0 && spec.Pools.Upper <= 0 {
		return nil, fmt.Errorf("new cache of class %s: %d pages in halves, %d in %d bits: want positive numbers", class, spec.Pools.Recent, spec.Pools.Upper, class.Upper)
	}
	c := &cache{spec: spec, arena: a}
	for range spec.Layers {
		b, err := a.allocate(spec.Bytes()/uint64(spec.Layers), &a.used.Caches)
		if err != nil {
			return nil, fmt.Errorf("new cache: %w", err)
		}
		c.layers = append(c.layers, b)
	}
	if err := a.be.compileCache(spec); err != nil {
		return nil, fmt.Errorf("new cache: %w", err)
	}
	return c, nil
}

// angles returns a rope's cosines and sines in the device's memory.
func (a *arena) angles(rope *compute.Rope) (*device.Buffer, error) {
	if t, ok := a.ropes[rope]; ok {
		return t, nil
	}
	data := make([]byte, 0, 8*len(rope.Cos))
	for i, cos := range rope.Cos {
		data = binary.LittleEndian.AppendUint32(data, math.Float32bits(cos))
		data = binary.LittleEndian.AppendUint32(data, math.Float32bits(rope.Sin[i]))
	}
	t, err := a.allocate(uint64(len(data)), &a.used.Buffers)
	if err != nil {
		return nil, fmt.Errorf("load rope table: %w", err)
	}
	a.be.write(t, 0, data)
	a.ropes[rope] = t
	return t, nil
}
