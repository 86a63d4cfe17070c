//go:build cgo && ((linux && amd64) || darwin || (windows && amd64))

package webgpu

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/shoal-llm/shoal/pkg/compute/webgpu/device"
)

// tuner knows the shapes of workgroups that were fastest on this device. A shape
// says which thread makes which outputs and never how a sum goes, so a tuned
// device gives the same bits as one that is not.
type tuner struct {
	file    string // empty: nothing is measured
	device  string // adapter, driver and kernel set
	shapes  map[shapeKey]shape
	warm    bool
	fixed   *shape // of every product, in tests
	threads int    // of a workgroup; 0 is free
}

// shapeKey is the products that have one shape: so many rows of so many segments of
// a weight format.
type shapeKey struct {
	format         string
	rows, segments int
}

// MarshalText writes the key as the file of what was measured has it.
func (k shapeKey) MarshalText() ([]byte, error) {
	return fmt.Appendf(nil, "%s %d×%d", k.format, k.rows, k.segments), nil
}

// UnmarshalText reads what MarshalText writes.
func (k *shapeKey) UnmarshalText(text []byte) error {
	if n, err := fmt.Sscanf(string(text), "%s %d×%d", &k.format, &k.rows, &k.segments); n < 3 {
		return fmt.Errorf("a shape's name is %q: %w", text, err)
	}
	return nil
}

// tunedBytes is the least size of a weight that is worth measuring.
const tunedBytes = 1 << 20

// newTuner reads what was measured on the device before, unless it is to be
// measured anew.
func newTuner(cfg Config, class string) (*tuner, error) {
	t := &tuner{file: cfg.Tuning, device: class, shapes: map[shapeKey]shape{}, threads: cfg.Workgroup}
	if cfg.Retune || t.file == "" {
		return t, nil
	}
	all, err := readTuning(t.file)
	if err != nil {
		return nil, err
	}
	for k, s := range all[class] {
		if s.Groups > 0 && s.Steps > 0 && (s.Rows == 2 || s.Rows == 4) {
			t.shapes[k] = s
		}
	}
	return t, nil
}

func readTuning(file string) (map[string]map[shapeKey]shape, error) {
	all := map[string]map[shapeKey]shape{}
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return all, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read tuning: %w", err)
	}
	if err := json.Unmarshal(data, &all); err != nil {
		return nil, fmt.Errorf("read tuning %s: %w; delete the file", file, err)
	}
	return all, nil
}

// save merges the device's shapes into the file.
func (t *tuner) save() error {
	all, err := readTuning(t.file)
	if err != nil {
		return err
	}
	all[t.device] = t.shapes
	data, err := json.MarshalIndent(all, "", " ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(t.file), 0o755); err != nil {
		return fmt.Errorf("save tuning: %w", err)
	}
	part := t.file + ".part"
	if err := os.WriteFile(part, data, 0o644); err != nil {
		return fmt.Errorf("save tuning: %w", err)
	}
	return os.Rename(part, t.file)
}

// candidates are shapes to try for rows of a geometry.
func candidates(g geometry, rows, threads, shared int) []shape {
	out := []shape{shapeOf(g, rows)}
	for _, s := range []shape{{1, 2, 1}, {1, 2, 4}, {1, 4, 1}, {2, 2, 1}, {2, 2, 4}, {2, 4, 1}, {4, 2, 1}, {4, 2, 4}, {8, 2, 1}} {
		n := s.Groups * g.lanes
		if n >= 64 && n <= min(threads, 512) && 4*(s.slots()+1)*g.stride() <= shared && s != out[0] {
			out = append(out, s)
		}
	}
	return out
}

// shapeFor returns the shape of a product with a part of a weight. The first time,
// if nothing else is under way, it measures.
func (p *pass) shapeFor(w *weight, part part) shape {
	t := p.be.tuner
	if t.fixed != nil {
		return *t.fixed
	}
	if t.threads > 0 {
		return shapeWith(w.geometry, t.threads, p.be.dev.Limits.Shared)
	}
	bytes := 16 * part.rows * w.format.GPU.Vectors * w.geometry.segments
	if t.file == "" || bytes < tunedBytes {
		return shapeOf(w.geometry, part.rows)
	}
	key := shapeKey{w.format.Name, part.rows, w.geometry.segments}
	if s, ok := t.shapes[key]; ok {
		return s
	}
	if p.err != nil || p.be.unfinished.Load() > 1 {
		return shapeOf(w.geometry, part.rows)
	}
	best, err := p.be.measure(w, part)
	if err == nil {
		t.shapes[key] = best
		err = t.save()
	}
	if err != nil {
		p.be.log.Warn("shapes are not tuned", "weight", key, "error", err)
		t.shapes[key] = shapeOf(w.geometry, part.rows)
	}
	return t.shapes[key]
}

// shapeWith returns the shape whose workgroups have so many threads: as many groups
// of lanes as fit, and as the device's shared memory has room for. Rows of more lanes
// have a workgroup of one group.
func shapeWith(g geometry, threads, shared int) shape {
	s := shape{Groups: max(1, threads/g.lanes), Rows: 2, Steps: 1}
	for s.Groups > 1 && 4*(s.slots()+1)*g.stride() > shared {
		s.Groups--
	}
	return s
}

// margin is what another shape must gain to be preferred to shapeOf's: a product
// measured by itself finds its code in the caches, which it does not between the
// kernels of a layer, and small gains turn into losses there.
const margin = 1.25

// measure returns the fastest shape.
func (b *Backend) measure(w *weight, part part) (shape, error) {
	best, least := shapeOf(w.geometry, part.rows), time.Duration(0)
	x := &buffer{rows: 1, cols: w.cols, segments: w.geometry.segments}
	y := &buffer{rows: 1, cols: part.rows, segments: geometryOf(part.rows).segments, linear: true}
	for _, side := range []*buffer{x, y} {
		var err error
		if side.buffer, err = b.ownBuffer(uint64(4*side.stride()), device.Storage); err != nil {
			return best, err
		}
		defer b.retire(side.buffer)
	}
	words := words(part.store.supers, part.first, part.rows, 0, part.rows, part.rows, 0, 0,
		0, bits(float32(w.cols)), 0, 0, 0, 0, 0, 0).shapes(x, y, y, y)
	param, err := b.param(words)
	if err != nil {
		return best, err
	}
	for _, s := range candidates(w.geometry, part.rows, b.dev.Limits.Workgroup, b.dev.Limits.Shared) {
		k := kernel{op: matvecOp, format: w.format.GGML, segments: w.geometry.segments, groups: s.Groups, rows: s.Rows, steps: s.Steps}
		e, err := b.compiled(k)
		if err == nil {
			_, err = e.ready()
		}
		if err != nil {
			return best, err
		}
		g, err := b.group(e, k, param, []*device.Buffer{part.store.vectors, part.store.words, x.buffer, b.nothing, y.buffer, y.buffer, y.buffer})
		if err != nil {
			return best, err
		}
		took := b.tuner.time(b, e, g, tiles(part.rows, s.slots()))
		if least == 0 {
			least = time.Duration(float64(took) / margin)
		} else if took < least {
			best, least = s, took
		}
	}
	return best, b.dev.Err()
}

// time returns what some dispatches take at best.
func (t *tuner) time(b *Backend, e *entry, g *device.Group, x int) time.Duration {
	const dispatches, runs = 16, 4
	var c device.Commands
	for range dispatches {
		c.Dispatch(e.pipeline, g, b.slots[int((b.begun-1)%uint64(len(b.slots)))].group, x, 1, 1)
	}
	run := func() time.Duration {
		began := time.Now()
		b.submit(&c)
		b.dev.Poll(true)
		return time.Since(began)
	}
	const awake = 100 * time.Millisecond // until the device's clock is up
	for began := time.Now(); !t.warm && time.Since(began) < awake; {
		run()
	}
	t.warm = true
	least := run()
	for range runs {
		least = min(least, run())
	}
	return least
}
