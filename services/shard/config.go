// Package shard offers a node's devices to a cluster: it loads the stages that
// plans give it and runs them.
//
// One goroutine per device owns the device and all its stages (device.go); it
// starts frames and finishes them, and never waits for anything but the next
// event. Frames come from the stage before over a Push stream, or on the first
// stage from the driver (drive.go), and go to the next stage by a hop
// (push.go). The last stage's results go to everyone who subscribed
// (results.go). Plans and the lease of a coordinator are in control.go.
//
// All stages of a pipeline in one epoch share a fate: when a stream to a
// neighbour breaks or a stage fails, the node ends everything that belongs to
// the pipeline, its neighbours see their streams end and do the same, and the
// driver tells the coordinator.
package shard

import (
	"errors"
	"fmt"
	"log/slog"
	"net"

	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/internal/pki"
	"github.com/shoal-llm/shoal/internal/telemetry"
	gather "github.com/shoal-llm/shoal/internal/weights"
	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/engine"
	"github.com/shoal-llm/shoal/pkg/frame"
	"github.com/shoal-llm/shoal/pkg/grammar"
	"github.com/shoal-llm/shoal/pkg/model"
)

// Config says what a shard is.
type Config struct {
	Version   string // of the program
	KernelSet string // the version of the kernels: nodes of one cluster have the same
	Chunk     int    // rows of one prompt in a step; 0 is as many as a step has
	State     string // folder for what is kept between runs; empty keeps nothing
}

// Validate reports the first setting that cannot work, by the name of its flag.
func (c Config) Validate() error {
	if c.Chunk < 0 || c.Chunk > frame.MaxRows {
		return fmt.Errorf("--chunk %d: want 0 (a whole step) to %d", c.Chunk, frame.MaxRows)
	}
	return nil
}

// Deps are what a shard works with.
type Deps struct {
	Identity  *pki.Identity
	Listener  net.Listener                      // for other nodes; Run closes it
	Devices   []Device                          // the shard is their one user
	Children  bool                              // others serve devices for it (Announce): it may have none
	Open      func(name string) (*Model, error) // a model of this node's own
	Weights   *gather.Keeper                    // brings what it lacks; nil: it has what plans name
	Load      Loader                            // nil is engine.Open
	Telemetry *telemetry.Telemetry              // nil forgets everything
	Log       *slog.Logger
}

// Device is something to compute on.
type Device struct {
	Backend     compute.Backend // closed by its maker, after Run
	Fingerprint [32]byte        // of its self-test
	Variant     string          // what else its speed depends on: the kernels that it has
	// Bandwidth measures how many bytes a second its memory is read, in a part
	// of a second; nil: nobody can tell.
	Bandwidth func() (float64, error)
	// Reference opens an exact device, against which a layer of every stage is
	// held before it serves; nil: the device is trusted.
	Reference func() (compute.Backend, error)
	Tolerance compute.Tolerance // of that
}

// Model is an open model file, as far as a shard needs it.
type Model struct {
	Arch   model.Arch
	Spec   model.Spec
	Source model.Source
	KV     compute.KVClass           // of keys and values, as the plan says
	Digest [32]byte                  // of the file, and of the recipe its weights are rounded by
	File   [32]byte                  // SHA-256 of metadata and tensor table
	Bytes  func(p model.Part) uint64 // of the tensors of a part
	Close  func() error              // called once all stages are loaded

	// Rounded gives the model with weights rounded by a recipe as they are loaded, which
	// takes its place; nil: it cannot be.
	Rounded func(recipe string) (*Model, error)

	Vision Encoder // nil: the model reads text alone

	Spelling func() (*grammar.Vocabulary, error) // for stages with the head; nil: no constrained answers

	// Ahead begins to read a part before it is asked for; end waits until nothing is
	// read any more. Nil: Source is in memory.
	Ahead func(p model.Part) (src model.Source, end func())

	StandIns model.Source // as fast to compute with as Source, which may have to be fetched or rounded; nil: Source is here
	Err      func() error // why Source could not be read; nil: it can
	stored   *storedModel // what of it is in the store; nil: it is this node's own

	file     *library.Model // that adapters are opened for; nil: it takes none
	adapters []*adapter     // of the plan
}

// failure adds to an error why weights could not be read.
func (m *Model) failure(err error) error {
	if err == nil || m.Err == nil {
		return err
	}
	return errors.Join(m.Err(), err)
}

// Engine is a part of a model on a device. Its methods are called by the
// goroutine that owns the device. A *engine.Stage is one.
type Engine interface {
	// Start applies a frame and submits its pass under tag. The frame belongs
	// to the engine until Finish.
	Start(tag uint64, f *frame.Frame) error
	// Finish takes the completion of the oldest started frame. The output is
	// valid until compute.MaxPasses frames later.
	Finish(c compute.Completion) (engine.Output, error)
	// Pages tells how many KV pages are held, and how many there are.
	Pages() (used, capacity int)
	// Close frees what the engine holds. Nothing is started any more.
	Close() error
}

// Loader loads a part of a model onto a device. It runs on the goroutine that
// owns the device.
type Loader func(be compute.Backend, arch model.Arch, src model.Source, spec model.Spec, cfg engine.Config) (Engine, error)

// loadEngine is the Loader of real models.
func loadEngine(be compute.Backend, arch model.Arch, src model.Source, spec model.Spec, cfg engine.Config) (Engine, error) {
	s, err := engine.Open(be, arch, src, spec, cfg)
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (d *Deps) check() error {
	switch {
	case d.Identity == nil:
		return errors.New("shard: no identity")
	case d.Listener == nil:
		return errors.New("shard: no listener")
	case len(d.Devices) == 0 && !d.Children:
		return errors.New("shard: no device")
	case d.Open == nil:
		return errors.New("shard: no models")
	case d.Log == nil:
		return errors.New("shard: no log")
	}
	if d.Load == nil {
		d.Load = loadEngine
	}
	if d.Telemetry == nil {
		d.Telemetry = telemetry.Nop()
	}
	return nil
}
