package shard

import (
	"encoding/binary"
	"errors"
	"hash/maphash"

	"github.com/shoal-llm/shoal/pkg/compute"
)

// weights are the weight matrices on a device, each held once however many
// stages use it: those of pipelines of several plans side by side, and those held
// in reserve. A matrix that nobody uses any more stays until sweep, so that the
// next plan need not load it again. The owner of the device calls its methods.
type weights struct {
	be   compute.Backend
	seed maphash.Seed
	held map[weightKey]*heldWeight
}

// weightKey is the identity of a matrix. Its sample tells apart the parts into
// which an architecture cuts one tensor.
type weightKey struct {
	model      [32]byte
	name       string
	format     string
	rows, cols int
	sample     uint64
}

type heldWeight struct {
	arena  compute.Arena // of this matrix alone
	weight compute.Weight
	users  int
}

func newWeights(be compute.Backend) *weights {
	return &weights{be: be, seed: maphash.MakeSeed(), held: map[weightKey]*heldWeight{}}
}

// keyOf names a matrix of a model.
func (w *weights) keyOf(model [32]byte, m compute.Matrix) weightKey {
	return weightKey{model, m.Name, m.Format.Name, m.Rows, m.Cols, w.sample(m.Data)}
}

// sample hashes a few pieces spread over data.
func (w *weights) sample(data []byte) uint64 {
	const pieces, piece = 16, 256
	var h maphash.Hash
	h.SetSeed(w.seed)
	var size [8]byte
	binary.LittleEndian.PutUint64(size[:], uint64(len(data)))
	h.Write(size[:])
	if len(data) <= pieces*piece {
		h.Write(data)
		return h.Sum64()
	}
	for i := range pieces {
		at := (len(data) - piece) / (pieces - 1) * i
		h.Write(data[at : at+piece])
	}
	return h.Sum64()
}

// take returns a matrix for one more user, and loads it if it is not there.
func (w *weights) take(k weightKey, m compute.Matrix) (compute.Weight, error) {
	if h := w.held[k]; h != nil {
		h.users++
		return h.weight, nil
	}
	arena := w.be.NewArena()
	var weight compute.Weight
	err := w.spare(func() (err error) {
		weight, err = arena.Load(m)
		return err
	})
	if err != nil {
		return nil, errors.Join(err, arena.Free())
	}
	w.held[k] = &heldWeight{arena, weight, 1}
	return weight, nil
}

// drop says that a user needs a matrix no more.
func (w *weights) drop(k weightKey) { w.held[k].users-- }

// spare tries what takes memory, and tries again without what nobody uses.
func (w *weights) spare(f func() error) error {
	err := f()
	if err == nil {
		return nil
	}
	freed, sweepErr := w.sweep()
	if freed == 0 || sweepErr != nil {
		return errors.Join(err, sweepErr)
	}
	return f()
}

// sweep frees what nobody uses and returns how many matrices those were.
func (w *weights) sweep() (freed int, err error) {
	for k, h := range w.held {
		if h.users == 0 {
			err = errors.Join(err, h.arena.Free())
			delete(w.held, k)
			freed++
		}
	}
	return freed, err
}

// used adds up what matrices take.
func (w *weights) used(keys []weightKey) (sum compute.Memory) {
	for _, k := range keys {
		u := w.held[k].arena.Used()
		sum.Weights += u.Weights
		sum.Caches += u.Caches
		sum.Buffers += u.Buffers
	}
	return sum
}

// tenant is a device's backend as a stage sees it: weights are shared with all
// others there. While it is loaded another goroutine than the device's owner
// calls, and every object that is made is a turn of the owner's between steps;
// once it is settled the owner alone calls.
type tenant struct {
	compute.Backend
	weights *weights
	model   [32]byte
	turn    func(func()) error // has the owner run something; nil once settled
	refuse  func() error       // says why what is loaded is not wanted any more; nil: it always is
}

// settle says that the stage is loaded. The owner calls it.
func (t *tenant) settle() { t.turn = nil }

// on runs f on the owner.
func (t *tenant) on(f func() error) error {
	if t.turn == nil {
		return f()
	}
	var err error
	if lost := t.turn(func() { err = f() }); lost != nil {
		return lost
	}
	return err
}

// NewArena makes a holder of objects. It cannot fail, so one whose owner has
// ended fails at its first use.
func (t *tenant) NewArena() compute.Arena {
	a := &sharedArena{tenant: t}
	a.lost = t.on(func() error {
		a.own = t.Backend.NewArena()
		return nil
	})
	return a
}

// sharedArena holds what a stage has for itself, and its share of weights.
type sharedArena struct {
	tenant *tenant
	own    compute.Arena
	lost   error // why own is not there
	taken  []weightKey
}

var _ compute.Arena = (*sharedArena)(nil)

// wanted says why nothing more is to be loaded: a newer plan does not wait for
// what an older one began.
func (a *sharedArena) wanted() error {
	if a.lost != nil || a.tenant.refuse == nil {
		return a.lost
	}
	return a.tenant.refuse()
}

// make makes an object of the stage's own.
func (a *sharedArena) make(f func() error) error {
	if err := a.wanted(); err != nil {
		return err
	}
	return a.tenant.on(func() error { return a.tenant.weights.spare(f) })
}

// Load takes a matrix, which others may use too.
func (a *sharedArena) Load(m compute.Matrix) (out compute.Weight, err error) {
	if err := a.wanted(); err != nil {
		return nil, err
	}
	store := a.tenant.weights
	k := store.keyOf(a.tenant.model, m)
	err = a.tenant.on(func() error {
		w, err := store.take(k, m)
		if err == nil {
			out, a.taken = w, append(a.taken, k)
		}
		return err
	})
	return out, err
}

// LoadVector takes a vector.
func (a *sharedArena) LoadVector(v []float32) (out compute.Vector, err error) {
	err = a.make(func() (err error) { out, err = a.own.LoadVector(v); return err })
	return out, err
}

// NewCache makes the KV pages of a stage.
func (a *sharedArena) NewCache(spec compute.CacheSpec) (out compute.Cache, err error) {
	err = a.make(func() (err error) { out, err = a.own.NewCache(spec); return err })
	return out, err
}

// NewBuffer makes an activation buffer.
func (a *sharedArena) NewBuffer(rows, cols int) (out compute.Buffer, err error) {
	err = a.make(func() (err error) { out, err = a.own.NewBuffer(rows, cols); return err })
	return out, err
}

// Used returns what the stage uses; shared weights count for everybody.
func (a *sharedArena) Used() (sum compute.Memory) {
	if a.lost != nil {
		return sum
	}
	_ = a.tenant.on(func() error { // a device that has ended holds nothing
		sum = a.tenant.weights.used(a.taken)
		own := a.own.Used()
		sum.Weights += own.Weights
		sum.Caches += own.Caches
		sum.Buffers += own.Buffers
		return nil
	})
	return sum
}

// Free frees what is the stage's own and gives back its share of weights.
func (a *sharedArena) Free() error {
	if a.lost != nil {
		return nil
	}
	return a.tenant.on(func() error {
		for _, k := range a.taken {
			a.tenant.weights.drop(k)
		}
		a.taken = nil
		return a.own.Free()
	})
}
