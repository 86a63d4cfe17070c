package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"time"
)

// Files of a record of checks.
const (
	checkedFile = "checked" // notes: the hash of each segment as it was first read back
	passingFile = "passing" // notes of a pass that is not through
	passedFile  = "passed"  // notes of the last pass that was
	damagedFile = "damaged" // notes: segments that are not what they were, and the hash that they had
	stampFile   = "stamp"   // of the files that passing is about
	doneFile    = "done"    // stamp of the files that the last pass found as they were
)

// Checks is the record of passes over a model: what was read back, and what of it was
// not what it had been. It is kept on the disk. One pass writes at a time (Alone); all
// may read.
type Checks struct {
	store *Store
	dir   string
	n     int // segments
}

// Checks returns the record of a model of the store.
func (m *Model) Checks() *Checks { return &Checks{m.store, modelDir(m.ID), len(m.segments)} }

// LentChecks returns the record of files outside the store, by the absolute path of the
// model and the manifest that describes them.
func (s *Store) LentChecks(file string, manifest []byte) (*Checks, error) {
	_, segments, err := Decode(manifest)
	if err != nil {
		return nil, err
	}
	c := &Checks{s, path.Join(lentDir, HashOf(append([]byte(file+"\x00"), manifest...)).String()), len(segments)}
	if _, err := s.root.Stat(path.Join(c.dir, "path")); err == nil {
		return c, nil
	}
	if err := s.write(path.Join(c.dir, "path"), []byte(file+"\n")); err != nil {
		return nil, fmt.Errorf("keep the hashes of %s: %w", file, err)
	}
	return c, nil
}

// Alone makes its caller the only one that passes over the model, until release. It
// waits for another; waiting, if there is one, is called once before.
func (c *Checks) Alone(ctx context.Context, waiting func()) (release func(), err error) {
	return c.store.alone(ctx, path.Join(c.dir, "passer"), waiting)
}

// Begin begins a pass, or goes on with one that was not through, unless the files have
// another stamp since. It returns what that one had read. What a pass read that ended
// after since counts too.
func (c *Checks) Begin(stamp string, since time.Time) (read map[int]Hash, err error) {
	if old, err := c.text(stampFile); err != nil || old != stamp {
		if err := c.remove(passingFile); err != nil {
			return nil, err
		}
		if err := c.write(stampFile, stamp); err != nil {
			return nil, err
		}
	}
	if read, err = c.notes(passingFile); err != nil {
		return nil, err
	}
	if info, err := c.store.root.Stat(path.Join(c.dir, passedFile)); err == nil && info.ModTime().After(since) {
		if done, err := c.text(doneFile); err != nil || done != stamp {
			return read, nil
		}
		last, err := c.notes(passedFile)
		if err != nil {
			return nil, err
		}
		maps.Copy(read, last)
		return read, c.write(passingFile, notesOf(read)) // it is of this pass now
	}
	return read, nil
}

// Note notes that a segment was read back outside a pass, and its hash.
func (c *Checks) Note(i int, h Hash) error {
	if err := c.store.addNote(path.Join(c.dir, checkedFile), i, h); err != nil {
		return fmt.Errorf("note a check: %w", err)
	}
	return nil
}

// Read notes that the pass read a segment, and its hash. Known says that Checked has
// that hash of it.
func (c *Checks) Read(i int, h Hash, known bool) error {
	if !known {
		if err := c.Note(i, h); err != nil {
			return err
		}
	}
	if err := c.store.addNote(path.Join(c.dir, passingFile), i, h); err != nil {
		return fmt.Errorf("note a check: %w", err)
	}
	return nil
}

// End ends a pass: the files of that stamp were read through, and those segments are
// not what they were. It gives the hashes that they had.
func (c *Checks) End(stamp string, damaged map[int]Hash) error {
	if err := c.write(damagedFile, notesOf(damaged)); err != nil {
		return err
	}
	passing, err := c.notes(passingFile)
	if err != nil {
		return err
	}
	if err := c.write(passedFile, notesOf(passing)); err != nil {
		return err
	}
	if err := c.write(doneFile, stamp); err != nil {
		return err
	}
	return c.remove(passingFile)
}

// Checked returns the hashes of the segments that were ever read back.
func (c *Checks) Checked() (map[int]Hash, error) { return c.notes(checkedFile) }

// Damaged returns the segments that the last pass did not find as they had been, with
// the hashes that they had.
func (c *Checks) Damaged() (map[int]Hash, error) { return c.notes(damagedFile) }

// Done reports whether a pass over the files of that stamp was through.
func (c *Checks) Done(stamp string) bool {
	done, err := c.text(doneFile)
	return err == nil && done == stamp
}

// Forget makes the next pass the first.
func (c *Checks) Forget() error {
	for _, name := range []string{doneFile, damagedFile, passingFile, passedFile, checkedFile} {
		if err := c.remove(name); err != nil {
			return err
		}
	}
	return nil
}

// notesOf writes notes, in order.
func notesOf(of map[int]Hash) string {
	var out strings.Builder
	for _, i := range slices.Sorted(maps.Keys(of)) {
		out.WriteString(note(i, of[i]) + "\n")
	}
	return out.String()
}

func (c *Checks) notes(name string) (map[int]Hash, error) {
	out := map[int]Hash{}
	text, err := c.store.root.ReadFile(path.Join(c.dir, name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the record of checks: %w", err)
	}
	readNotes(text, c.n, out)
	return out, nil
}

func (c *Checks) text(name string) (string, error) {
	text, err := c.store.root.ReadFile(path.Join(c.dir, name))
	return string(text), err
}

func (c *Checks) write(name, text string) error {
	if err := c.store.write(path.Join(c.dir, name), []byte(text)); err != nil {
		return fmt.Errorf("write the record of checks: %w", err)
	}
	return nil
}

func (c *Checks) remove(name string) error {
	if err := c.store.root.Remove(path.Join(c.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("clear the record of checks: %w", err)
	}
	return nil
}
