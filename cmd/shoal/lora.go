package main

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/services/coordinator"
)

// loraOptions are the flags that name low-rank adapters.
type loraOptions struct{ adapters []string }

func (o *loraOptions) flags(f *pflag.FlagSet, use string) {
	f.StringArrayVar(&o.adapters, "lora", nil, "low-rank adapter, as NAME=PATH of a GGUF file or a folder as PEFT saves it"+use)
}

// adapterName is how adapters may be called: as a model in a request.
var adapterName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/-]{0,63}$`)

// named are the adapters by their flags, in order.
func (o *loraOptions) named(taken []string) (names, paths []string, err error) {
	for _, text := range o.adapters {
		name, path, ok := strings.Cut(text, "=")
		switch {
		case !ok || path == "":
			return nil, nil, fmt.Errorf("--lora %q: want NAME=PATH", text)
		case !adapterName.MatchString(name):
			return nil, nil, fmt.Errorf("--lora %q: a name has letters, digits and ._/-, at most 64", text)
		case slices.Contains(taken, name), slices.Contains(names, name):
			return nil, nil, fmt.Errorf("--lora %q: the name is taken", text)
		}
		names, paths = append(names, name), append(paths, path)
	}
	return names, paths, nil
}

// open opens the adapters of a model, none of which may have a name that is taken. The
// caller closes them.
func (o *loraOptions) open(m *library.Model, taken []string) (out []*library.Adapter, paths []string, err error) {
	names, paths, err := o.named(taken)
	if err != nil {
		return nil, nil, err
	}
	for i, name := range names {
		a, err := library.OpenAdapter(name, paths[i], m)
		if err != nil {
			return nil, nil, errors.Join(err, closeAdapters(out))
		}
		out = append(out, a)
	}
	return out, paths, nil
}

func closeAdapters(all []*library.Adapter) error {
	var errs []error
	for _, a := range all {
		errs = append(errs, a.Close())
	}
	return errors.Join(errs...)
}

// offered describes adapters to a coordinator, and offers their files to shards.
func (m *models) offered(all []*library.Adapter, paths []string) (out []coordinator.Adapter, err error) {
	for i, a := range all {
		manifest, err := m.keeper.LendAdapter(a, paths[i])
		if err != nil {
			return nil, err
		}
		described, err := coordinator.NewAdapter(a, manifest)
		if err != nil {
			return nil, err
		}
		out = append(out, described)
	}
	return out, nil
}
