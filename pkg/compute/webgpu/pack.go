//go:build cgo && ((linux && amd64) || darwin || (windows && amd64))

package webgpu

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/shoal-llm/shoal/pkg/compute/webgpu/device"
	"github.com/shoal-llm/shoal/pkg/quant"
)

// Weights are packed into memory of the host that the device copies from, a few
// buffers in turn: while it copies one, processors fill the next.
const (
	stageBytes = 16 << 20
	stageCount = 4
)

// stages are the buffers that weights go through, made when first used. They lie in
// the host's memory, so Used does not count them.
type stages struct {
	buffers [stageCount]*device.Buffer
	next    int
}

// take returns a mapped buffer.
func (s *stages) take(dev *device.Device) (*device.Buffer, error) {
	i := s.next
	s.next = (i + 1) % stageCount
	if s.buffers[i] == nil {
		b, err := dev.NewBuffer(stageBytes, device.Upload)
		if err != nil {
			return nil, err
		}
		s.buffers[i] = b
		b.Map(stageBytes, true)
	}
	for began := time.Now(); ; device.Pause() {
		dev.Poll(false)
		done, err := s.buffers[i].Mapped()
		if done || err != nil {
			return s.buffers[i], err
		}
		if err := dev.Err(); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrLost, err)
		}
		if time.Since(began) > hangs {
			return nil, fmt.Errorf("%w: no room to upload for %v", ErrLost, hangs)
		}
	}
}

func (s *stages) free() {
	for _, b := range s.buffers {
		if b != nil {
			b.Free()
		}
	}
}

// pack packs the rows of a file into a store, some rows at a time. The device may
// still be copying when it returns; what is submitted later comes after that.
func (b *Backend) pack(w *weight, s *store, data []byte, rowBytes int) error {
	gpu, segments := w.format.GPU, w.geometry.segments
	vectors, words, supers := 16*gpu.Vectors*segments, 4*gpu.Words*segments, 0
	if gpu.Super {
		supers = 4 * (segments / 4)
	}
	chunk := (stageBytes - 64) / (vectors + words + supers)
	for row := 0; row < s.rows; row += chunk {
		n := min(chunk, s.rows-row)
		stage, err := b.stages.take(b.dev)
		if err != nil {
			return err
		}
		room := stage.Bytes(stageBytes)
		p := packed{room[:n*vectors], room[n*vectors:][:n*words], room[n*(vectors+words):][:n*supers]}
		p.pack(w, data[row*rowBytes:(row+n)*rowBytes], rowBytes, n)
		stage.Unmap()
		var c device.Commands
		c.Copy(s.vectors, uint64(row*vectors), stage, 0, uint64(n*vectors))
		if words > 0 {
			c.Copy(s.words, uint64(row*words), stage, uint64(n*vectors), uint64(n*words))
		}
		if supers > 0 {
			c.Copy(s.words, uint64(4*s.supers+row*supers), stage, uint64(n*(vectors+words)), uint64(n*supers))
		}
		b.submit(&c)
		stage.Map(stageBytes, true)
	}
	return b.dev.Err()
}

// submit encodes and submits commands.
func (b *Backend) submit(c *device.Commands) {
	b.queue.Lock()
	defer b.queue.Unlock()
	b.dev.Submit(b.dev.Encode(c))
}

// write copies data to a buffer before what is submitted next.
func (b *Backend) write(to *device.Buffer, offset uint64, data []byte) {
	b.queue.Lock()
	defer b.queue.Unlock()
	b.dev.Write(to, offset, data)
}

// packed is the planes of some rows.
type packed struct{ vectors, words, supers []byte }

// pack packs rows on all processors.
func (p *packed) pack(w *weight, data []byte, rowBytes, rows int) {
	workers := min(rows, runtime.GOMAXPROCS(0))
	var group sync.WaitGroup
	for worker := range workers {
		group.Go(func() {
			var s quant.Segment
			padded := make([]byte, w.geometry.segments*quant.SegmentCols/w.format.BlockElems*w.format.BlockBytes)
			for row := worker * rows / workers; row < (worker+1)*rows/workers; row++ {
				copy(padded, data[row*rowBytes:(row+1)*rowBytes])
				for i := range w.geometry.segments {
					w.format.GPU.Pack(&s, padded, i)
					p.put(w, &s, row, i)
				}
			}
		})
	}
	group.Wait()
}

// put places segment i of a row.
func (p *packed) put(w *weight, s *quant.Segment, row, i int) {
	gpu, segments := w.format.GPU, w.geometry.segments
	for v := range gpu.Vectors {
		to := p.vectors[16*((row*gpu.Vectors+v)*segments+i):][:16]
		x := &s.Vectors[v]
		binary.LittleEndian.PutUint64(to, uint64(x[0])|uint64(x[1])<<32)
		binary.LittleEndian.PutUint64(to[8:], uint64(x[2])|uint64(x[3])<<32)
	}
	for v := range gpu.Words {
		binary.LittleEndian.PutUint32(p.words[4*((row*gpu.Words+v)*segments+i):], s.Words[v])
	}
	if gpu.Super && i%4 == 0 {
		binary.LittleEndian.PutUint32(p.supers[4*(row*(segments/4)+i/4):], s.Super)
	}
}
