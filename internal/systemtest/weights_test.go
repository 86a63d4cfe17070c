package systemtest

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shoal-llm/shoal/internal/weights/weightstest"
	"github.com/shoal-llm/shoal/models/tiny"
)

// origin serves the built-in model under a name that no node has.
func origin(t *testing.T) (o *weightstest.Origin, path string, size int64) {
	t.Helper()
	dir, data := t.TempDir(), tiny.Files()[0].Data
	path = filepath.Join(dir, "fetched.gguf")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	o, err := weightstest.Start(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Close() })
	return o, path, int64(len(data))
}

// TestShardsWithoutTheFile: shards that lack a model's file bring the weights of their
// stages, each byte once from the origin or from a coordinator that has the file, and
// answer as one process does.
func TestShardsWithoutTheFile(t *testing.T) {
	o, path, size := origin(t)
	ctx := within(t, 3*time.Minute)
	want := solo(ctx, t, prompts[0])
	for name, c := range map[string]struct {
		model string
		most  int64 // bytes from the origin
	}{
		"from an origin":       {o.URL + "/fetched.gguf", size + 1<<20},
		"from the coordinator": {path, 0},
	} {
		t.Run(name, func(t *testing.T) {
			o.Sent()
			g := clusterOf(ctx, t, c.model)
			body := chat(prompts[0], object{"model": "fetched", "temperature": 0, "max_tokens": maxTokens})
			eventually(ctx, t, "no answer", func() error {
				a, err := g.complete(ctx, body)
				if err != nil {
					return err
				}
				if got := a.Choices[0].Message.Content; got != want {
					t.Fatalf("answer %q, want %q", got, want)
				}
				return nil
			})
			if sent := o.Sent(); sent > c.most || c.most > 0 && sent < size {
				t.Errorf("the origin sent %d bytes of a file of %d", sent, size)
			}
			var state struct {
				Loads []any `json:"loads"`
			}
			if err := g.read(ctx, "/v1/cluster", nil, &state); err != nil || len(state.Loads) > 0 {
				t.Errorf("loads of a model that answers: %v, %v", state.Loads, err)
			}
		})
	}
}

// clusterOf starts a coordinator, two shards with stores of their own and a gateway.
func clusterOf(ctx context.Context, t *testing.T, model string) client {
	t.Helper()
	secret := filepath.Join(t.TempDir(), "secret")
	if _, stderr, code := shoal(ctx, t, nil, "secret", secret); code != 0 {
		t.Fatal(stderr)
	}
	gossip, listen := freeAddr(t), freeAddr(t)
	run := func(role, id string, args ...string) {
		args = append([]string{
			role, "--node-id=" + id, "--cluster-secret-file=" + secret, "--advertise=127.0.0.1", "--grpc-addr=" + freeAddr(t), "--admin-addr=" + freeAddr(t),
		}, args...)
		if role != "gateway" {
			args = append(args, "--store="+filepath.Join(t.TempDir(), "store"), "--private-origin=127.0.0.0/8")
		}
		start(t, nil, args...).report(t)
	}
	run("coordinator", "c", "--gossip-addr="+gossip, "--model="+model, "--min-shards=2", "--stages=2")
	for i := range 2 {
		run("shard", fmt.Sprint("s", i), "--gossip-addr="+freeAddr(t), "--join="+gossip, "--state-dir=", "--device=cpu")
	}
	run("gateway", "g", "--gossip-addr="+freeAddr(t), "--join="+gossip, "--listen="+listen, "--grpc-listen="+freeAddr(t))
	return client{url: "http://" + listen}
}

// TestStoreCommands: pull, ls, show, verify, manifest and rm, and a model that is run
// from the store while its origin is gone.
func TestStoreCommands(t *testing.T) {
	o, path, size := origin(t)
	ctx := within(t, 2*time.Minute)
	dir := filepath.Join(t.TempDir(), "store")
	catalogue := filepath.Join(t.TempDir(), "models.txt")
	url := o.URL + "/fetched.gguf"
	if err := os.WriteFile(catalogue, []byte("short "+url+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := []string{"SHOAL_STORE=" + dir, "SHOAL_PRIVATE_ORIGIN=127.0.0.0/8", "SHOAL_CATALOGUE=" + catalogue}
	do := func(code int, args ...string) (stdout, stderr string) {
		t.Helper()
		stdout, stderr, got := shoal(ctx, t, env, args...)
		if got != code {
			t.Fatalf("shoal %v: code %d, want %d: %s%s", args, got, code, stdout, stderr)
		}
		return stdout, stderr
	}
	has := func(text string, parts ...string) {
		t.Helper()
		for _, p := range parts {
			if !strings.Contains(text, p) {
				t.Errorf("%q lacks %q", text, p)
			}
		}
	}
	out, _ := do(0, "pull", "short")
	has(out, "fetched", "verified")
	if sent := o.Sent(); sent < size || sent > size+1<<20 {
		t.Errorf("%d bytes of %d were fetched", sent, size)
	}
	do(0, "pull", url)
	if sent := o.Sent(); sent != 0 {
		t.Errorf("%d bytes were fetched again", sent)
	}
	out, _ = do(0, "ls")
	has(out, "fetched", "100 %", "known", url, "short")
	out, _ = do(0, "show", "fetched")
	has(out, "llama", "layers", "SHA-256", url)
	out, _ = do(0, "verify")
	has(out, "0 segments had changed")

	// A changed bit is found and fetched again.
	files, err := filepath.Glob(filepath.Join(dir, "segments", "*", "*"))
	if err != nil || len(files) == 0 {
		t.Fatal(err)
	}
	b, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if err := os.WriteFile(files[0], b, 0o600); err != nil {
		t.Fatal(err)
	}
	_, complaint := do(1, "verify", "fetched")
	has(complaint, "1 segments had changed")
	do(0, "pull", "short")
	if sent := o.Sent(); sent != int64(len(b)) {
		t.Errorf("%d bytes were fetched for a segment of %d", sent, len(b))
	}
	do(0, "verify", "fetched")

	a, _ := do(0, "manifest", "fetched")
	want, _ := do(0, "manifest", path)
	if !sameManifest(t, a, want) {
		t.Errorf("the manifest of the store is not that of the file")
	}

	o.Close()
	for _, name := range []string{"short", "fetched", url} {
		out, _ = do(0, "run", name, prompts[1], "--offline", "--temperature=0", fmt.Sprint("--max-tokens=", maxTokens))
		if strings.TrimSuffix(out, "\n") != solo(ctx, t, prompts[1]) {
			t.Errorf("%s answers %q", name, out)
		}
	}
	out, _ = do(0, "rm", "short")
	has(out, "removed", "free")
	_, complaint = do(1, "run", url, prompts[1], "--offline")
	checkSentence(t, complaint, "not in the store")
	_, complaint = do(1, "show", "fetched")
	checkSentence(t, complaint, "shoal ls")
	_, complaint = do(2, "pull", "enormous")
	checkSentence(t, complaint, "enormous", "hf://")
	_, complaint = do(2, "pull", "short", "--private-origin=everywhere")
	checkSentence(t, complaint, "--private-origin", "everywhere")
	env[1] = "SHOAL_PRIVATE_ORIGIN="
	_, complaint = do(1, "pull", url)
	checkSentence(t, complaint, "127.0.0.1", "--private-origin")
}

// sameManifest compares all but where the files came from.
func sameManifest(t *testing.T, a, b string) bool {
	t.Helper()
	var x, y struct {
		Files []struct{ Name, Sha256, Hashes string }
	}
	if json.Unmarshal([]byte(a), &x) != nil || json.Unmarshal([]byte(b), &y) != nil || len(x.Files) != 1 {
		return false
	}
	return fmt.Sprint(x.Files) == fmt.Sprint(y.Files) && x.Files[0].Hashes != ""
}
