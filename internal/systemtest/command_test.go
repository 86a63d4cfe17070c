package systemtest

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestMistakes: a mistake on the command line is one sentence and code 2; what
// fails for another reason is one sentence and code 1.
func TestMistakes(t *testing.T) {
	ctx := within(t, time.Minute)
	config := filepath.Join(t.TempDir(), "shoal.yaml")
	if err := os.WriteFile(config, []byte("stagse: 3\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args []string
		env  []string
		code int
		say  []string
	}{
		"unknown flag":       {args: []string{"up", "--stagse=3"}, code: 2, say: []string{"--stagse"}},
		"malformed value":    {args: []string{"up", "--stages=many"}, code: 2, say: []string{"--stages", "many"}},
		"unknown command":    {args: []string{"upp"}, code: 2, say: []string{"upp"}},
		"too many arguments": {args: []string{"health", "now"}, code: 2, say: []string{"1 arguments"}},
		"malformed variable": {args: []string{"up"}, env: []string{"SHOAL_STAGES=many"}, code: 2, say: []string{"SHOAL_STAGES", "many"}},
		"unknown setting":    {args: []string{"up", "--config=" + config}, code: 2, say: []string{config, "stagse"}},
		"missing file":       {args: []string{"up", "--config=" + config + "x"}, code: 2, say: []string{"--config", config + "x"}},
		"bad TLS mode":       {args: []string{"up", "--tls=maybe"}, code: 2, say: []string{"--tls", "maybe"}},
		"out of range":       {args: []string{"up", "--listen=127.0.0.1:0", "--stages=-1", "--log-level=error"}, code: 2, say: []string{"--stages", "-1"}},
		"open to others":     {args: []string{"up", "--listen=0.0.0.0:0", "--log-level=error"}, code: 1, say: []string{"--api-key"}},
		"no such model":      {args: []string{"run", "enormous", "Hi"}, code: 1, say: []string{"enormous", "tiny"}},
		"no identity":        {args: []string{"shard"}, code: 1, say: []string{"--cluster-secret-file", "shoal join", "shoal token --role shard"}},
		"no operator":        {args: []string{"nodes"}, code: 1, say: []string{"--cluster-secret-file", "shoal join", "shoal token --role operator"}},
		"half a certificate": {args: []string{"shard", "--cert-file=a", "--key-file=b"}, code: 1, say: []string{"--ca-file", "--gossip-key-file", "belong together"}},
		"not a token":        {args: []string{"join", "SHOAL1-AB@head"}, code: 2, say: []string{"not a join token", "was all of it copied"}},
		"role of a token":    {args: []string{"token", "--role=root"}, code: 2, say: []string{"--role", "root", "operator"}},
		"life of a token":    {args: []string{"token", "--life=1s"}, code: 2, say: []string{"--life", "1m"}},
		"empty prompt":       {args: []string{"run", "tiny", ""}, code: 1, say: []string{"prompt", "empty"}},
	} {
		t.Run(name, func(t *testing.T) {
			stdout, stderr, code := shoal(ctx, t, c.env, c.args...)
			if code != c.code {
				t.Errorf("code %d, want %d: %s", code, c.code, stdout)
			}
			checkSentence(t, stderr, c.say...)
		})
	}
}

// TestSettings: flags win over the environment, the environment over the file,
// the file over the defaults. What counts is what the program then does.
func TestSettings(t *testing.T) {
	config := filepath.Join(t.TempDir(), "shoal.yaml")
	text := "stages: 3\nlisten: 127.0.0.1:0\nmin-shards: 1\nalias: [one, two]\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	env := []string{"SHOAL_STAGES=4", "SHOAL_LISTEN=127.0.0.1:0"}
	file := "--config=" + config
	for name, c := range map[string]struct {
		env    []string
		args   []string
		stages int
	}{
		"default":     {args: []string{"--listen=127.0.0.1:0"}, stages: 2},
		"file":        {args: []string{file}, stages: 3},
		"environment": {env: env, args: []string{file}, stages: 4},
		"flag":        {env: env, args: []string{file, "--stages=1"}, stages: 1},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := within(t, hang)
			u := startUp(ctx, t, c.env, c.args...)
			eventually(ctx, t, "wrong stages", func() error {
				var models struct {
					Data []struct {
						Shoal struct {
							Stages  []string `json:"stages"`
							Aliases []string `json:"aliases"`
						} `json:"shoal"`
					} `json:"data"`
				}
				if err := u.read(ctx, "/v1/models", nil, &models); err != nil {
					return err
				}
				if len(models.Data) != 1 || len(models.Data[0].Shoal.Stages) != c.stages {
					return fmt.Errorf("%+v, want %d stages", models, c.stages)
				}
				if got := strings.Join(models.Data[0].Shoal.Aliases, " "); name != "default" && got != "one two" {
					t.Errorf("aliases %q, want those of the file", got)
				}
				return nil
			})
		})
	}
}

// TestHealthCodes: 0 ready, 1 not ready (with the reasons) or no answer.
func TestHealthCodes(t *testing.T) {
	ctx := within(t, time.Minute)
	state := http.StatusOK
	node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/livez" {
			return
		}
		w.WriteHeader(state)
		fmt.Fprint(w, `{"ready":false,"reasons":{"coordinator":"needs 1 more shard"}}`)
	}))
	defer node.Close()
	at := "--admin-addr=" + strings.TrimPrefix(node.URL, "http://")
	if out, stderr, code := shoal(ctx, t, nil, "health", at); code != 0 || out != "ok\n" {
		t.Errorf("ready: code %d, %q %q", code, out, stderr)
	}
	state = http.StatusServiceUnavailable
	_, stderr, code := shoal(ctx, t, nil, "health", at)
	if code != 1 {
		t.Errorf("not ready: code %d", code)
	}
	checkSentence(t, stderr, "not ready", "needs 1 more shard")
	if _, stderr, code := shoal(ctx, t, nil, "health", at, "--live"); code != 0 {
		t.Errorf("alive: code %d, %q", code, stderr)
	}
	_, stderr, code = shoal(ctx, t, nil, "health", "--admin-addr="+freeAddr(t))
	if code != 1 {
		t.Errorf("nobody there: code %d", code)
	}
	checkSentence(t, stderr, "no node answers")
}
