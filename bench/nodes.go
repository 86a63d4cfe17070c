package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// nodes are the processes of a cluster, one for each role and shard, each bound to
// a core.
type nodes struct {
	program string
	dir     string // of the secret
	procs   []*exec.Cmd
	url     string
	head    string // the coordinator's address
}

// pinned gives each of n shards an equal share of the layers.
func pinned(layers, n int) []string {
	var pins []string
	for i := range n {
		pins = append(pins, fmt.Sprintf("%d-%d=shard-%d", i*layers/n, (i+1)*layers/n-1, i))
	}
	return []string{"--stages", strconv.Itoa(n), "--pin", strings.Join(pins, ",")}
}

// startNodes runs a cluster that serves a model: one shard of one thread on each
// of shardCores, coordinator and gateway on restCore. The layout is by flags of the
// coordinator.
func startNodes(ctx context.Context, program, models, model string, layout []string, restCore int, shardCores ...int) (n *nodes, err error) {
	n = &nodes{program: program}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.stop())
		}
	}()
	if n.dir, err = os.MkdirTemp("", "bench-nodes"); err != nil {
		return n, err
	}
	secret := filepath.Join(n.dir, "key")
	if out, err := exec.CommandContext(ctx, program, "secret", secret).CombinedOutput(); err != nil {
		return n, fmt.Errorf("%s secret: %w: %s", program, err, out)
	}
	free, err := freePorts(3)
	if err != nil {
		return n, err
	}
	gossip, listen := free[0], free[1]
	n.head = free[2]
	common := []string{"--cluster-secret-file", secret, "--admin-addr", "127.0.0.1:0", "--log-level", "error"}
	run := func(core int, role, gossip string, args ...string) error {
		if err != nil {
			return err
		}
		all := append([]string{"-c", strconv.Itoa(core), program, role, "--gossip-addr", gossip}, append(common, args...)...)
		c := exec.CommandContext(ctx, "taskset", all...)
		c.Stderr = os.Stderr
		if err := c.Start(); err != nil {
			return fmt.Errorf("start %s: %w", role, err)
		}
		n.procs = append(n.procs, c)
		return nil
	}
	const anyPort = "127.0.0.1:0"
	err = run(restCore, "coordinator", gossip, append([]string{"--grpc-addr", n.head, "--models", models, "--model", model, "--objective", "throughput",
		"--min-shards", strconv.Itoa(len(shardCores)), "--replicas", "1", "--sessions", "4", "--context", "2048", "--rows", "512"}, layout...)...)
	err = errors.Join(err, run(restCore, "gateway", anyPort, "--grpc-addr", anyPort, "--join", gossip, "--listen", listen, "--grpc-listen", anyPort))
	for i, core := range shardCores {
		err = errors.Join(err, run(core, "shard", anyPort, "--grpc-addr", anyPort, "--join", gossip, "--models", models, "--threads", "1",
			"--gpu-program", "off", "--state-dir", "", "--node-id", fmt.Sprint("shard-", i)))
	}
	if err != nil {
		return n, err
	}
	n.url = "http://" + listen
	return n, n.ready(ctx)
}

// freePorts returns addresses that were free a moment ago.
func freePorts(n int) (out []string, err error) {
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

// operate runs a command of the cluster's operator.
func (n *nodes) operate(ctx context.Context, args ...string) error {
	args = append(args, "--coordinator", n.head, "--cluster-secret-file", filepath.Join(n.dir, "key"))
	if out, err := exec.CommandContext(ctx, n.program, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("shoal %s: %w: %s", args[0], err, out)
	}
	return nil
}

// stages returns the nodes of the first pipeline's stages, once they are all of
// those that ok takes.
func (n *nodes) stages(ctx context.Context, ok func([]string) bool) ([]string, error) {
	for {
		resp, err := http.Get(n.url + "/v1/cluster")
		if err != nil {
			return nil, err
		}
		var report struct {
			Pipelines []struct {
				Plan struct{ Stages []struct{ Node string } }
			}
		}
		err = errors.Join(json.NewDecoder(resp.Body).Decode(&report), resp.Body.Close())
		if err != nil {
			return nil, fmt.Errorf("read /v1/cluster: %w", err)
		}
		if len(report.Pipelines) == 1 {
			var out []string
			for _, s := range report.Pipelines[0].Plan.Stages {
				out = append(out, s.Node)
			}
			if ok(out) {
				return out, nil
			}
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// ready waits until the cluster answers.
func (n *nodes) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	for {
		_, err := ask(ctx, n.url, question{prompt: "Hello", tokens: 2})
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the cluster is not ready: %w", err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// stop ends the processes, gateway and coordinator first.
func (n *nodes) stop() error {
	for _, c := range n.procs {
		_ = c.Process.Signal(os.Interrupt)
	}
	var err error
	for _, c := range n.procs {
		late := time.AfterFunc(10*time.Second, func() { _ = c.Process.Kill() })
		err = errors.Join(err, c.Wait())
		late.Stop()
	}
	return errors.Join(err, os.RemoveAll(n.dir))
}

// question is asked over server-sent events. The answer has all its tokens,
// whatever they say, and none of them is guessed unless guess is set: rivals do
// not either.
type question struct {
	prompt string
	tokens int
	guess  bool
}

// told is what a client saw of an answer.
type told struct {
	prompt, cached int
	asked          time.Time
	times          []time.Time // of each token
	text           string
}

// rate returns tokens a second after the first.
func (t *told) rate() float64 {
	last := len(t.times) - 1
	return float64(last) / t.times[last].Sub(t.times[0]).Seconds()
}

// first returns the time to the first token.
func (t *told) first() time.Duration { return t.times[0].Sub(t.asked) }

// ask asks the gateway at an address.
func ask(ctx context.Context, url string, q question) (*told, error) {
	body, err := json.Marshal(map[string]any{
		"v": 1, "type": "generate", "prompt": q.prompt, "raw": true, "maxTokens": q.tokens, "temperature": 0, "ignoreEos": true,
		"config": map[string]bool{"tokenPredictionEnabled": q.guess},
	})
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/streaming", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	out := &told{asked: time.Now()}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		why, err := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		return nil, errors.Join(fmt.Errorf("the gateway answers %s: %s", resp.Status, why), err)
	}
	if err := out.read(resp); err != nil {
		return nil, err
	}
	if len(out.times) != q.tokens {
		return nil, fmt.Errorf("the answer has %d tokens, not %d", len(out.times), q.tokens)
	}
	return out, nil
}

// read reads the events of an answer to the end.
func (t *told) read(resp *http.Response) error {
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		data, ok := bytes.CutPrefix(lines.Bytes(), []byte("data:"))
		if !ok {
			continue
		}
		var e struct {
			Type    string `json:"type"`
			Text    string `json:"text"`
			Tokens  int    `json:"tokens"`
			Message string `json:"message"`
			Prompt  int    `json:"promptTokens"`
			Cached  int    `json:"cachedTokens"`
		}
		if err := json.Unmarshal(data, &e); err != nil {
			return fmt.Errorf("read event: %w", err)
		}
		switch e.Type {
		case "token":
			for range max(1, e.Tokens) {
				t.times = append(t.times, time.Now())
			}
			t.text += e.Text
		case "usage":
			t.prompt, t.cached = e.Prompt, e.Cached
		case "complete":
			return nil
		case "error", "stopped":
			return fmt.Errorf("the answer ended with %s: %s", e.Type, e.Message)
		}
	}
	return errors.Join(lines.Err(), errors.New("the stream ended early"))
}
