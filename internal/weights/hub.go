package weights

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/shoal-llm/shoal/internal/fetch"
	"github.com/shoal-llm/shoal/internal/library/checkpoint"
	"github.com/shoal-llm/shoal/internal/store"
	"github.com/shoal-llm/shoal/pkg/safetensors"
)

// Hub is a model hub and its cache on this machine, as its own tools know them.
type Hub struct {
	Endpoint string // https://…
	Cache    string // folder that its tools fill; it is read only
	Token    string // that proves who asks; empty is nobody
	Offline  bool   // nothing is asked of it
}

// HubFromEnv reads HF_ENDPOINT, HF_HUB_CACHE, HF_HOME, HF_TOKEN, HF_TOKEN_PATH and
// HF_HUB_OFFLINE.
func HubFromEnv() Hub {
	home := os.Getenv("HF_HOME")
	if home == "" {
		cache := os.Getenv("XDG_CACHE_HOME")
		if dir, err := os.UserHomeDir(); cache == "" && err == nil {
			cache = filepath.Join(dir, ".cache")
		}
		home = filepath.Join(cache, "huggingface")
	}
	or := func(name, otherwise string) string {
		if v := os.Getenv(name); v != "" {
			return v
		}
		return otherwise
	}
	h := Hub{
		Endpoint: strings.TrimSuffix(or("HF_ENDPOINT", "https://huggingface.co"), "/"),
		Cache:    or("HF_HUB_CACHE", filepath.Join(home, "hub")),
		Token:    os.Getenv("HF_TOKEN"),
	}
	switch strings.ToLower(os.Getenv("HF_HUB_OFFLINE")) {
	case "1", "true", "yes", "on":
		h.Offline = true
	}
	if h.Token == "" {
		if b, err := os.ReadFile(or("HF_TOKEN_PATH", filepath.Join(home, "token"))); err == nil {
			h.Token = strings.TrimSpace(string(b))
		}
	}
	return h
}

// TokenFor returns the token for a server: it is shown to the hub and nobody else.
func (h Hub) TokenFor(host string) string {
	if u, err := url.Parse(h.Endpoint); err == nil && u.Host == host {
		return h.Token
	}
	return ""
}

// cached returns the path of a file or a folder in the hub's cache, if all of it is
// there.
func (h Hub) cached(r hubRef) (string, bool) {
	if h.Cache == "" {
		return "", false
	}
	repo := filepath.Join(h.Cache, "models--"+strings.ReplaceAll(r.repo, "/", "--"))
	commit := r.revision
	if b, err := os.ReadFile(filepath.Join(repo, "refs", filepath.FromSlash(r.revision))); err == nil {
		commit = strings.TrimSpace(string(b))
	}
	if !repoPart.MatchString(commit) {
		return "", false
	}
	snapshot := filepath.Join(repo, "snapshots", commit)
	if r.file != "" {
		at := filepath.Join(snapshot, filepath.FromSlash(r.file))
		return at, wholeGGUF(at)
	}
	if checkpoint.Is(snapshot) {
		return snapshot, wholeCheckpoint(snapshot)
	}
	files, _ := filepath.Glob(filepath.Join(snapshot, "*.gguf"))
	names := make([]string, len(files))
	for i, f := range files {
		names[i] = filepath.Base(f)
	}
	chosen, err := choose(names)
	if err != nil || len(chosen) == 0 {
		return "", false
	}
	at := filepath.Join(snapshot, chosen[0])
	return at, wholeGGUF(at)
}

// wholeGGUF reports whether a file is there, with all its parts if it is the first of
// several.
func wholeGGUF(at string) bool {
	for _, p := range parts(at) {
		if info, err := os.Stat(p); err != nil || !info.Mode().IsRegular() {
			return false
		}
	}
	return true
}

// wholeCheckpoint reports whether a folder has all files of weights that it names.
func wholeCheckpoint(dir string) bool {
	index, err := os.ReadFile(filepath.Join(dir, safetensors.IndexName))
	if err != nil {
		index = nil
	}
	names, err := safetensors.Listed(index)
	if err != nil {
		return false
	}
	for _, name := range names {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || !info.Mode().IsRegular() {
			return false
		}
	}
	return true
}

// list asks the hub for the commit of a revision and the names of its files.
func (k *Keeper) list(ctx context.Context, r hubRef) (commit string, names []string, err error) {
	const most = 16 << 20
	address := fmt.Sprintf("%s/api/models/%s/revision/%s", k.cfg.Hub.Endpoint, r.repo, url.PathEscape(r.revision))
	text, err := k.cfg.Fetcher.Small(ctx, address, most)
	if err != nil {
		return "", nil, fmt.Errorf("ask the hub for its files: %w", err)
	}
	var said struct {
		SHA      string `json:"sha"`
		Siblings []struct {
			Name string `json:"rfilename"`
		} `json:"siblings"`
	}
	if err := json.Unmarshal(text, &said); err != nil {
		return "", nil, fmt.Errorf("the hub's answer: %w", err)
	}
	if !repoPart.MatchString(said.SHA) {
		return "", nil, fmt.Errorf("the hub's answer names no commit of %s", r.repo)
	}
	for _, s := range said.Siblings {
		names = append(names, s.Name)
	}
	return said.SHA, names, nil
}

// hubOrigin finds the files of a model on the hub.
func (k *Keeper) hubOrigin(ctx context.Context, r hubRef) (*origin, error) {
	if k.cfg.Hub.Offline {
		return nil, fmt.Errorf("%w by HF_HUB_OFFLINE, and the hub's cache %s does not have all of it", ErrOffline, k.cfg.Hub.Cache)
	}
	commit, names, err := k.list(ctx, r)
	if err != nil {
		return nil, err
	}
	wanted := parts(r.file)
	if r.file == "" {
		if wanted, err = choose(names); err != nil {
			return nil, err
		}
	}
	o := &origin{}
	for _, name := range wanted {
		if !slices.Contains(names, name) {
			return nil, fmt.Errorf("%w: the repository has no %s; it has %s", fetch.ErrNotFound, name, some(names))
		}
		escaped := make([]string, 0, 4)
		for part := range strings.SplitSeq(name, "/") {
			escaped = append(escaped, url.PathEscape(part))
		}
		f, err := k.look(ctx, fmt.Sprintf("%s/%s/resolve/%s/%s", k.cfg.Hub.Endpoint, r.repo, commit, strings.Join(escaped, "/")))
		if err != nil {
			return nil, err
		}
		f.name = path.Base(name)
		if sum, err := store.ParseHash(f.Linked); err == nil {
			f.sum = sum[:]
			f.ETag = "" // it is of the server that has the bytes, and may change with it
		}
		o.files = append(o.files, f)
	}
	return o, nil
}

// choose picks the files of a model from those of a repository.
func choose(names []string) ([]string, error) {
	var out, ggufs []string
	single, index := false, false
	for _, name := range names {
		switch {
		case strings.Contains(name, "/"):
		case name == safetensors.SingleName:
			single = true
		case name == safetensors.IndexName:
			index = true
		case strings.HasSuffix(name, ".gguf"):
			ggufs = append(ggufs, name)
		}
	}
	if slices.Contains(names, checkpoint.ConfigName) && (single || index) {
		for _, name := range names {
			weights := strings.HasSuffix(name, ".safetensors")
			if slices.Contains(checkpoint.SmallFiles(), name) || weights && !strings.Contains(name, "/") && (!index || name != safetensors.SingleName) {
				out = append(out, name)
			}
		}
		return out, nil
	}
	slices.Sort(ggufs)
	if len(ggufs) > 0 {
		if set := parts(ggufs[0]); len(set) == len(ggufs) {
			return set, nil
		}
	}
	return nil, fmt.Errorf("%w: name a file, as in hf://ORG/REPO/FILE: there are %s", ErrSource, some(names))
}

// some lists names, but not without end.
func some(names []string) string {
	const most = 20
	if len(names) > most {
		return strings.Join(names[:most], ", ") + fmt.Sprintf(" and %d more", len(names)-most)
	}
	return strings.Join(names, ", ")
}
