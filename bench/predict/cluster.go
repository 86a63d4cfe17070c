package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	patience     = 60 * time.Second
	answerTokens = 192
)

// cluster is the processes of one.
type cluster struct {
	dir       string
	url       string
	model     string
	processes []*exec.Cmd
}

// start starts a coordinator, shards and a gateway, and waits until they are
// ready. Shards keep in state what they measure.
func start(ctx context.Context, program, state string, up setup) (c *cluster, err error) {
	c = &cluster{model: strings.TrimSuffix(filepath.Base(up.model), ".gguf")}
	if c.dir, err = os.MkdirTemp("", "predict-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.stop())
		}
	}()
	ports, err := freePorts(3)
	if err != nil {
		return nil, err
	}
	grpc, gossip, web := ports[0], ports[1], ports[2]
	c.url = "http://" + web
	key := filepath.Join(c.dir, "key")
	if out, err := exec.CommandContext(ctx, program, "secret", key).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("make secret: %w: %s", err, out)
	}
	common := []string{"--cluster-secret-file", key, "--advertise", "127.0.0.1", "--admin-addr", "127.0.0.1:0"}
	n := fmt.Sprint(up.stages)
	last := runtime.NumCPU() - 1
	c.run(last, program, "coordinator", append(common, "--model", up.model, "--stages", n, "--min-shards", n, "--sessions", "1",
		"--context", "1024", "--grpc-addr", grpc, "--gossip-addr", gossip)...)
	joining := append(common, "--grpc-addr", "127.0.0.1:0", "--gossip-addr", "127.0.0.1:0", "--join", gossip)
	for i := range up.stages {
		core := i % (last + 1)
		if up.crowded {
			core = anyCore
		}
		c.run(core, program, "shard", append(joining, "--node-id", fmt.Sprint("shard-", i), "--models", filepath.Dir(up.model),
			"--threads", fmt.Sprint(up.threads), "--state-dir", state)...)
	}
	c.run(last, program, "gateway", append(joining, "--listen", web, "--grpc-listen", "127.0.0.1:0")...)
	for _, p := range c.processes {
		if err := p.Start(); err != nil {
			return nil, fmt.Errorf("start %v: %w", p.Args, err)
		}
	}
	return c, c.until(ctx, "ready", func(r *report) bool { return r.Ready })
}

// anyCore leaves it to the system where a process runs.
const anyCore = -1

// run notes a process to start on a core. What it logs goes to a file.
func (c *cluster) run(core int, program, role string, args ...string) {
	all := append([]string{program, role}, args...)
	if core != anyCore {
		all = append([]string{"taskset", "-c", strconv.Itoa(core)}, all...)
	}
	p := exec.Command(all[0], all[1:]...)
	log, err := os.Create(filepath.Join(c.dir, fmt.Sprintf("%s-%d.log", role, len(c.processes))))
	if err == nil {
		p.Stdout, p.Stderr = log, log
	}
	c.processes = append(c.processes, p)
}

// stop ends all processes.
func (c *cluster) stop() error {
	for _, p := range c.processes {
		if p.Process != nil {
			_ = p.Process.Signal(syscall.SIGTERM)
		}
	}
	for _, p := range c.processes {
		if p.Process == nil {
			continue
		}
		forced := time.AfterFunc(patience/4, func() { _ = p.Process.Kill() })
		_ = p.Wait() // by our signal
		forced.Stop()
	}
	return os.RemoveAll(c.dir)
}

// freePorts finds addresses on loopback that nobody listens on.
func freePorts(n int) ([]string, error) {
	var out []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		out = append(out, l.Addr().String())
	}
	return out, nil
}

// report is what GET /v1/cluster says, as far as it is read here.
type report struct {
	Ready     bool   `json:"ready"`
	Reason    string `json:"reason"`
	Pipelines []struct {
		Speed struct {
			Token  float64 `json:"tokenSeconds"`
			Stages []struct {
				Assumed bool `json:"assumed"`
			} `json:"stages"`
		} `json:"speed"`
	} `json:"pipelines"`
	Links map[string]map[string]any `json:"links"`
}

// until asks for the report again and again.
func (c *cluster) until(ctx context.Context, what string, ok func(*report) bool) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	last := errors.New("nothing was heard")
	for {
		r, err := c.report(ctx)
		if err == nil && ok(r) {
			return nil
		}
		if last = err; err == nil {
			last = fmt.Errorf("the cluster says: %s", r.Reason)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait until %s: %w", what, last)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (c *cluster) report(ctx context.Context) (*report, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url+"/v1/cluster", nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	r := &report{}
	return r, json.NewDecoder(resp.Body).Decode(r)
}

// predicted returns the predicted tokens a second, once devices and links have
// been measured and the report is not of before.
func (c *cluster) predicted(ctx context.Context, up setup) (float64, error) {
	const reportAge = time.Second
	select {
	case <-time.After(reportAge):
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	token := 0.0
	err := c.until(ctx, "predicted", func(r *report) bool {
		if len(r.Pipelines) != 1 || len(r.Pipelines[0].Speed.Stages) != up.stages || up.stages > 1 && len(r.Links) < up.stages {
			return false
		}
		for _, s := range r.Pipelines[0].Speed.Stages {
			if s.Assumed {
				return false
			}
		}
		token = r.Pipelines[0].Speed.Token
		return token > 0
	})
	return 1 / token, err
}

// answer streams one answer, without speculation, and returns the tokens a second
// after the first.
func (c *cluster) answer(ctx context.Context, n int) (float64, error) {
	body := fmt.Sprintf(`{"v":1,"type":"generate","prompt":%q,"raw":true,"maxTokens":%d,"temperature":0,"ignoreEos":true,`+
		`"config":{"tokenPredictionEnabled":false}}`, prompt(n), answerTokens)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url+"/streaming", strings.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	var first, last time.Time
	tokens, behind := 0, 0 // tokens until first
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data:")
		var e struct {
			Type   string `json:"type"`
			Tokens int    `json:"tokens"`
		}
		if !ok || json.Unmarshal([]byte(data), &e) != nil || e.Type != "token" {
			continue
		}
		last = time.Now()
		if tokens == 0 {
			first, behind = last, max(1, e.Tokens)
		}
		tokens += max(1, e.Tokens)
	}
	if err := lines.Err(); err != nil || tokens != answerTokens {
		return 0, errors.Join(fmt.Errorf("status %s, %d tokens instead of %d", resp.Status, tokens, answerTokens), err)
	}
	return float64(tokens-behind) / last.Sub(first).Seconds(), nil
}

// prompt is a text of about 128 tokens, different for each n, so that nothing of
// it is cached.
func prompt(n int) string {
	return fmt.Sprintf("%d. ", n) + strings.Repeat("Once upon a time there was a little fish that lived in the sea. ", 8)
}
