package shard

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// speedsFile holds what was measured on this machine, in the state directory.
const speedsFile = "speeds.json"

// speeds is what is known of this node's devices. It outlives the process: a
// device with the same name, threads and kernels need not be measured again. Its
// methods may be called from any goroutine.
type speeds struct {
	path    string // empty: it is not kept
	kernels string

	mu    sync.Mutex
	known map[string]*deviceSpeed // guarded by mu; by device
	dirty bool                    // guarded by mu; changed since it was written
}

// deviceSpeed is what the file holds of a device. Times are seconds, rates bytes
// a second.
type deviceSpeed struct {
	Pass      float64               `json:"pass"`
	Turn      float64               `json:"turn"`
	Shown     bool                  `json:"shown"` // Turn is what real steps have shown
	Bandwidth float64               `json:"bandwidth"`
	Shapes    map[string]shapeSpeed `json:"shapes"`
}

type shapeSpeed struct {
	Fixed float64 `json:"fixed"`
	Row   float64 `json:"row"`
	Key   float64 `json:"key"`
}

// openSpeeds reads what was kept in dir; empty keeps nothing. A file that cannot
// be read is as good as none: everything can be measured again.
func openSpeeds(dir, kernels string) (*speeds, error) {
	s := &speeds{kernels: kernels, known: map[string]*deviceSpeed{}}
	if dir == "" {
		return s, nil
	}
	s.path = filepath.Join(dir, speedsFile)
	return s, s.read()
}

// read takes over what the file holds and is not known here: other nodes of this
// machine may have written it.
func (s *speeds) read() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.path == "" {
		return nil
	}
	kept := map[string]*deviceSpeed{}
	b, err := os.ReadFile(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(b, &kept)
	}
	if err != nil {
		return fmt.Errorf("read measured speeds: %w", err)
	}
	for k, theirs := range kept {
		if theirs == nil {
			continue
		}
		if theirs.Shapes == nil {
			theirs.Shapes = map[string]shapeSpeed{}
		}
		ours := s.known[k]
		if ours == nil {
			s.known[k] = theirs
			continue
		}
		if ours.Pass == 0 {
			ours.Pass, ours.Turn, ours.Shown = theirs.Pass, theirs.Turn, theirs.Shown
		}
		if ours.Bandwidth == 0 {
			ours.Bandwidth = theirs.Bandwidth
		}
		for shape, v := range theirs.Shapes {
			if _, ok := ours.Shapes[shape]; !ok {
				ours.Shapes[shape] = v
			}
		}
	}
	return nil
}

// key names a device by everything that its speed depends on.
func (s *speeds) key(d *device) string {
	info := d.be.Info()
	return fmt.Sprintf("%s%d threads, %s %s, kernels %s", machineOf(d), info.Threads, info.Class, d.variant, s.kernels)
}

// machineOf is the part of a key that the same processor has however it is used.
func machineOf(d *device) string {
	info := d.be.Info()
	return info.Kind + " " + info.Name + ", "
}

// turn is how long a turn takes on d: what real steps have shown there, or else on
// the same machine with other threads, or else what was measured. The caller
// holds mu.
func (s *speeds) turn(d *device) float64 {
	own := s.device(d)
	if own.Shown {
		return own.Turn
	}
	for _, key := range slices.Sorted(maps.Keys(s.known)) {
		if k := s.known[key]; k != nil && k.Shown && strings.HasPrefix(key, machineOf(d)) {
			return k.Turn
		}
	}
	return own.Turn
}

// device returns what is known of d, to be filled in. The caller holds mu.
func (s *speeds) device(d *device) *deviceSpeed {
	k := s.key(d)
	if s.known[k] == nil {
		s.known[k] = &deviceSpeed{}
	}
	if s.known[k].Shapes == nil {
		s.known[k].Shapes = map[string]shapeSpeed{}
	}
	return s.known[k]
}

// knows reports whether a shape was measured on d.
func (s *speeds) knows(d *device, shape string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.device(d).Shapes[shape]
	return ok
}

// set notes a shape's speed.
func (s *speeds) set(d *device, shape string, v *pb.ShapeSpeed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.device(d).Shapes[shape], s.dirty = shapeSpeed{v.Fixed, v.Row, v.Key}, true
}

// setPass notes what any step costs, and how long it takes from the arrival of a
// message to the step that it begins, unless real steps have shown that.
func (s *speeds) setPass(d *device, pass, turn float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.device(d)
	k.Pass, s.dirty = pass, true
	if !k.Shown {
		k.Turn = turn
	}
}

// setTurn notes what real steps have shown.
func (s *speeds) setTurn(d *device, turn float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.device(d)
	k.Turn, k.Shown, s.dirty = turn, true, true
}

func (s *speeds) bandwidth(d *device) float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.device(d).Bandwidth
}

func (s *speeds) setBandwidth(d *device, rate float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.device(d).Bandwidth, s.dirty = rate, true
}

// of tells what is known of d and parts.
func (s *speeds) of(d *device, parts []*pb.MeasurePart) *pb.DeviceSpeed {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.device(d)
	out := &pb.DeviceSpeed{Device: uint32(d.index), PassSeconds: k.Pass, TurnSeconds: s.turn(d), Bandwidth: k.Bandwidth}
	for _, p := range parts {
		if v, ok := k.Shapes[p.GetShape()]; ok {
			out.Shapes = append(out.Shapes, &pb.ShapeSpeed{Shape: p.GetShape(), Fixed: v.Fixed, Row: v.Row, Key: v.Key})
		}
	}
	return out
}

// save writes the file whole, or leaves it as it is.
func (s *speeds) save() error {
	_ = s.read() // a file that cannot be read is replaced
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.path == "" || !s.dirty {
		return nil
	}
	b, err := json.MarshalIndent(s.known, "", " ")
	if err == nil {
		err = os.MkdirAll(filepath.Dir(s.path), 0o755)
	}
	if err == nil {
		err = replace(s.path, append(b, '\n'))
	}
	if err != nil {
		return fmt.Errorf("keep measured speeds: %w", err)
	}
	s.dirty = false
	return nil
}

// replace writes a file whole or not at all, whoever else writes it.
func replace(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Chmod(0o644), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // what failed before is said
	}
	return err
}
