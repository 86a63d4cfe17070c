package shard

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/shoal-llm/shoal/internal/library"
	gather "github.com/shoal-llm/shoal/internal/weights"
	"github.com/shoal-llm/shoal/models/tiny"
	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/engine"
	"github.com/shoal-llm/shoal/pkg/model"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// verifying is a cluster of a shard that has a file, and a plan of it.
type verifying struct {
	*boss
	t     *testing.T
	file  string
	store string
	loads atomic.Int32 // stages that were loaded
	found chan string  // what was known of the file as each was loaded
	want  *pb.Model
	epoch uint64
}

func newVerifying(t *testing.T) *verifying {
	v := &verifying{boss: newBench(t, 0).boss("boss"), t: t, file: filepath.Join(t.TempDir(), "here.gguf"), store: t.TempDir(), found: make(chan string, 8), epoch: 1}
	if err := os.WriteFile(v.file, tiny.Files()[0].Data, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := library.Library{}.Open(v.file)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	v.want = &pb.Model{Name: "here", Digest: l.Digest[:], Layers: uint32(l.Spec.Layers), Hidden: uint32(l.Spec.Hidden), Vocab: uint32(l.Spec.Vocab), Context: uint32(l.Spec.Context)}
	return v
}

func (v *verifying) keeper(when gather.Verify) *gather.Keeper {
	k, err := gather.Settings{Dir: v.store, Verify: when}.Keeper(nil)
	if err != nil {
		v.t.Fatal(err)
	}
	v.t.Cleanup(func() { k.Close() })
	return k
}

// standing is what the store has of the file.
func (v *verifying) standing() string {
	l, err := library.Library{}.Open(v.file)
	if err != nil {
		return err.Error()
	}
	defer l.Close()
	k, err := gather.Settings{Dir: v.store}.Keeper(nil)
	if err != nil {
		return err.Error()
	}
	defer k.Close()
	p, err := k.LocalPass(l)
	if err != nil {
		return err.Error()
	}
	state, _ := p.Standing()
	return state
}

// shard starts a shard that has the file, and gives it a plan.
func (v *verifying) shard(when gather.Verify) *node {
	v.t.Helper()
	k := v.keeper(when)
	n := v.start(fmt.Sprint("shard-", v.epoch), "k1", func(d *Deps) {
		d.Weights = k
		d.Open = func(string) (*Model, error) {
			l, err := library.Library{}.Open(v.file)
			if err != nil {
				return nil, err
			}
			return NewModel(l), nil
		}
		d.Load = func(be compute.Backend, arch model.Arch, src model.Source, spec model.Spec, cfg engine.Config) (Engine, error) {
			v.loads.Add(1)
			v.found <- v.standing()
			return loadFake(be, arch, src, spec, cfg)
		}
	})
	v.epoch++
	p := v.plan(v.epoch, n)
	p.Model = v.want
	p.Pipelines[0].Context = 256
	p.Pipelines[0].Stages[0].End = v.want.Layers
	p.Pipelines[0].Stages[0].Head = true
	v.lease(n)
	v.send(n, p)
	return n
}

// next returns what the shard says next.
func (v *verifying) next(n *node) *pb.ControlResponse {
	v.t.Helper()
	m, err := v.controls[n.id].Recv()
	if err != nil {
		v.t.Fatal(err)
	}
	return m
}

// damage changes a byte and leaves the times of the file.
func (v *verifying) damage(at int64) {
	info, err := os.Stat(v.file)
	if err != nil {
		v.t.Fatal(err)
	}
	data, err := os.ReadFile(v.file)
	if err != nil {
		v.t.Fatal(err)
	}
	data[at] ^= 1
	if err := os.WriteFile(v.file, data, 0o600); err != nil {
		v.t.Fatal(err)
	}
	if err := os.Chtimes(v.file, info.ModTime(), info.ModTime()); err != nil {
		v.t.Fatal(err)
	}
}

// TestRequiredVerification: nothing is loaded before all bytes were read back, and
// nothing of a file that has changed since.
func TestRequiredVerification(t *testing.T) {
	v := newVerifying(t)
	n := v.shard(gather.VerifyRequire)
	for state := pb.LoadState_LOAD_STATE_UNSPECIFIED; state != pb.LoadState_LOAD_STATE_READY; {
		if st := v.next(n).GetStage(); st != nil {
			if state = st.State; state == pb.LoadState_LOAD_STATE_FAILED {
				t.Fatal(st)
			}
		}
	}
	if got := <-v.found; got != gather.Verified {
		t.Errorf("a stage was loaded of a file that counted as %s", got)
	}
	n.kill()

	v.loads.Store(0)
	const at = 2_000_000
	v.damage(at)
	n = v.shard(gather.VerifyRequire)
	for {
		st := v.next(n).GetStage()
		if st == nil || st.State == pb.LoadState_LOAD_STATE_LOADING {
			continue
		}
		if st.State != pb.LoadState_LOAD_STATE_FAILED || !strings.Contains(st.Error, v.file+" at offset ") || v.loads.Load() != 0 {
			t.Errorf("a file with a flipped bit: %v, after %d loads", st, v.loads.Load())
		}
		break
	}
}

// TestBackgroundVerification: a stage is loaded at once; the file counts as verified
// after it was read back and not before, and a later change is told.
func TestBackgroundVerification(t *testing.T) {
	v := newVerifying(t)
	last := func(n *node) *pb.WeightCheck {
		for ready := false; ; {
			m := v.next(n)
			if st := m.GetStage(); st != nil {
				if st.State == pb.LoadState_LOAD_STATE_FAILED {
					t.Fatal(st)
				}
				ready = ready || st.State == pb.LoadState_LOAD_STATE_READY
			}
			if c := m.GetCheck(); c != nil {
				if !ready {
					t.Error("the file was read back before it was loaded")
				}
				if c.TotalBytes == 0 {
					return c
				}
			}
		}
	}
	n := v.shard(gather.VerifyBackground)
	if c := last(n); c.State != gather.Verified || c.Model != "here" {
		t.Errorf("after the pass: %v", c)
	}
	if got := <-v.found; got != gather.Unverified {
		t.Errorf("the file counted as %s before a pass", got)
	}
	n.kill()
	v.damage(2_000_000)
	if c := last(v.shard(gather.VerifyBackground)); c.State != gather.Damaged || !strings.Contains(c.Note, v.file+" at offset ") {
		t.Errorf("after a flipped bit: %v", c)
	}
}
