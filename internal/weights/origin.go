package weights

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/shoal-llm/shoal/internal/fetch"
	"github.com/shoal-llm/shoal/internal/library/checkpoint"
	"github.com/shoal-llm/shoal/internal/store"
	"github.com/shoal-llm/shoal/pkg/gguf"
	"github.com/shoal-llm/shoal/pkg/safetensors"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// ManifestSuffix makes the name of a manifest of the name of the file beside it.
const ManifestSuffix = ".manifest.json"

const (
	maxParts        = 1000
	maxManifestText = 64 << 20
)

var firstPart = regexp.MustCompile(`^(.*)-00001-of-(\d{5})\.gguf$`)

// parts returns the names of all files of a model whose first is named.
func parts(first string) []string {
	m := firstPart.FindStringSubmatch(first)
	if m == nil {
		return []string{first}
	}
	n, err := strconv.Atoi(m[2])
	if err != nil || n < 1 || n > maxParts {
		return []string{first}
	}
	out := make([]string, n)
	for i := range out {
		out[i] = gguf.PartName(m[1], i, n)
	}
	return out
}

// origin finds the files of a source.
func (k *Keeper) origin(ctx context.Context, s Source) (*origin, error) {
	if s.hub.repo != "" {
		return k.hubOrigin(ctx, s.hub)
	}
	u, err := url.Parse(s.url)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSource, err)
	}
	beside := func(name string) string {
		v := *u
		v.Path, v.RawPath = path.Join(path.Dir(u.Path), name), ""
		return v.String()
	}
	o := &origin{}
	first := path.Base(u.Path)
	if first == checkpoint.ConfigName {
		o.files, err = k.besides(ctx, beside)
		return o, err
	}
	for i, name := range parts(first) {
		at := s.url
		if i > 0 {
			at = beside(name)
		}
		f, err := k.look(ctx, at)
		if err != nil {
			return nil, err
		}
		f.name = name
		o.files = append(o.files, f)
	}
	o.manifest, err = k.offered(ctx, s, beside(first+ManifestSuffix), o.files)
	return o, err
}

// look asks a server for a file.
func (k *Keeper) look(ctx context.Context, address string) (file, error) {
	r, err := k.cfg.Fetcher.Look(ctx, address)
	return file{Remote: r}, err
}

// besides finds the files of a checkpoint by its config.json.
func (k *Keeper) besides(ctx context.Context, beside func(string) string) ([]file, error) {
	var out []file
	add := func(name string, must bool) error {
		f, err := k.look(ctx, beside(name))
		if errors.Is(err, fetch.ErrNotFound) && !must {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		f.name = name
		out = append(out, f)
		return nil
	}
	for _, name := range checkpoint.SmallFiles() {
		if err := add(name, name == checkpoint.ConfigName); err != nil {
			return nil, err
		}
	}
	var index []byte
	if i := slices.IndexFunc(out, func(f file) bool { return f.name == safetensors.IndexName }); i >= 0 {
		const most = 64 << 20
		text, err := k.cfg.Fetcher.Small(ctx, out[i].URL, most)
		if err != nil {
			return nil, err
		}
		index = text
	}
	names, err := safetensors.Listed(index)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if err := add(name, true); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// offered takes the manifest that an origin has beside the file, if it has one. It
// may say what the bytes are, not where they come from.
func (k *Keeper) offered(ctx context.Context, s Source, address string, files []file) ([]byte, error) {
	text, err := k.cfg.Fetcher.Small(ctx, address, maxManifestText)
	if errors.Is(err, fetch.ErrNotFound) || errors.Is(err, fetch.ErrDenied) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read its manifest: %w", err)
	}
	m := &pb.Manifest{}
	if err := protojson.Unmarshal(text, m); err != nil {
		if !strings.HasPrefix(strings.TrimSpace(string(text)), "{") {
			return nil, nil // a page that says that there is none
		}
		return nil, fmt.Errorf("read its manifest: %w", err)
	}
	m.Source = s.Text
	if len(m.Files) != len(files) {
		return nil, fmt.Errorf("%w: its manifest is of %d files, there are %d", store.ErrManifest, len(m.Files), len(files))
	}
	for _, f := range m.Files {
		i := slices.IndexFunc(files, func(x file) bool { return x.name == f.Name })
		if i < 0 || uint64(files[i].Size) != f.Size {
			return nil, fmt.Errorf("%w: its manifest is of another file than the %s that is there", store.ErrManifest, f.Name)
		}
		f.Url, f.Etag = files[i].URL, files[i].ETag
	}
	encoded, err := store.Encode(m)
	if err != nil {
		return nil, err
	}
	_, _, err = store.Decode(encoded)
	return encoded, err
}
