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
	ropes   map[*compute.Rope]*device.Buffer
}

var _ compute.Arena = (*arena)(nil)

// NewArena makes a holder of objects.
func (b *Backend) NewArena() compute.Arena {
	a := &arena{be: b, ropes: map[*compute.Rope]*device.Buffer{}}
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
	a.buffers, a.ropes, a.used = nil, nil, compute.Memory{}
	delete(a.be.arenas, a)
	return a.be.dev.Err()
}

// allocate makes a buffer that Free frees and adds its size to purpose.
func (a *arena) allocate(size uint64, purpose *uint64) (*device.Buffer, error) {
	if limit := a.be.dev.Limits.Binding; size > limit {
		return nil, fmt.Errorf("%w: %d bytes in one buffer, the device allows %d", ErrMemory, size, limit)
	}
	if err := a.be.reserve(size); err != nil {
		return nil, err
	}
	b, err := a.be.dev.NewBuffer(size, device.Storage)
	if errors.Is(err, device.ErrMemory) {
		return nil, fmt.Errorf("%w: %w", ErrMemory, err)
	}
	if err != nil {
		return nil, err
	}
	a.buffers = append(a.buffers, b)
	*purpose += b.Size
	return b, nil
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
	s, err := a.newStore(w, rows)
	if err != nil {
		return nil, err
	}
	return s, a.be.pack(w, s, data, rowBytes)
}

// newStore makes room for rows like those of w.
func (a *arena) newStore(w *weight, rows int) (*store, error) {
	if err := a.be.prepare(); err != nil {
		return nil, err
	}
	gpu, segments := w.format.GPU, w.geometry.segments
	s := &store{rows: rows, supers: rows * gpu.Words * segments, words: a.be.nothing}
	words := s.supers
	if gpu.Super {
		words += rows * (segments / 4)
	}
	var err error
	if s.vectors, err = a.allocate(uint64(16*rows*gpu.Vectors*segments), &a.used.Weights); err != nil {
		return nil, err
	}
	if words > 0 {
		s.words, err = a.allocate(uint64(4*words), &a.used.Weights)
	}
	return s, err
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
	if spec.Class != (compute.KVClass{}) {
		return nil, fmt.Errorf("new cache of class %s: %w: keys and values are float32", spec.Class, compute.ErrUnsupported)
	}
	c := &cache{spec: spec, arena: a}
	for range spec.Layers {
		b, err := a.allocate(uint64(spec.Pages)*pageBytes(spec), &a.used.Caches)
		if err != nil {
			return nil, fmt.Errorf("new cache: %w", err)
		}
		c.layers = append(c.layers, b)
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
