//go:build cgo && ((linux && amd64) || darwin || (windows && amd64))

package webgpu

import (
	"encoding/binary"
	"runtime"
	"sync"

	"github.com/shoal-llm/shoal/pkg/compute/webgpu/device"
	"github.com/shoal-llm/shoal/pkg/quant"
)

// packBytes is about how many bytes of a file are packed at a time.
const packBytes = 8 << 20

// pack packs the rows of a file into a store, some rows at a time.
func (b *Backend) pack(w *weight, s *store, data []byte, rowBytes int) error {
	chunk := max(1, packBytes/rowBytes)
	gpu, segments := w.format.GPU, w.geometry.segments
	for row := 0; row < s.rows; row += chunk {
		n := min(chunk, s.rows-row)
		p := packed{
			vectors: make([]byte, 16*n*gpu.Vectors*segments),
			words:   make([]byte, 4*n*gpu.Words*segments),
		}
		if gpu.Super {
			p.supers = make([]byte, 4*n*(segments/4))
		}
		p.pack(w, data[row*rowBytes:(row+n)*rowBytes], rowBytes, n)
		b.write(s.vectors, uint64(16*row*gpu.Vectors*segments), p.vectors)
		b.write(s.words, uint64(4*row*gpu.Words*segments), p.words)
		b.write(s.words, uint64(4*(s.supers+row*(segments/4))), p.supers)
		b.run(&device.Commands{})
	}
	return b.dev.Err()
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
