package systemtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// joined is a cluster that lives by tokens, on loopback.
type joined struct {
	dir   string // of the coordinator's authority
	addr  string // of the coordinator's gRPC
	url   string // of the gateway
	state map[string]string
	ports map[string][]string // flags of a node's addresses
	nodes map[string]*process
}

// makeCluster starts a coordinator that makes the cluster's authority.
func makeCluster(ctx context.Context, t *testing.T, wishes ...string) *joined {
	t.Helper()
	c := &joined{dir: filepath.Join(t.TempDir(), "authority"), addr: freeAddr(t), state: map[string]string{}, ports: map[string][]string{}, nodes: map[string]*process{}}
	if len(wishes) == 0 {
		wishes = []string{"--min-shards=2", "--stages=2"}
	}
	c.nodes["head"] = start(t, nil, append([]string{"coordinator", "--node-id=head", "--identity-dir=" + c.dir, "--grpc-addr=" + c.addr,
		"--gossip-addr=" + freeAddr(t), "--join-addr=" + freeAddr(t), "--admin-addr=" + freeAddr(t)}, wishes...)...)
	c.nodes["head"].report(t)
	eventually(ctx, t, "no authority", func() error {
		_, err := os.Stat(filepath.Join(c.dir, "registry.json"))
		return errors.Join(err, c.nodes["head"].running())
	})
	return c
}

// token has the coordinator make one; it returns the argument of shoal join.
func (c *joined) token(ctx context.Context, t *testing.T, role string) string {
	t.Helper()
	var out string
	eventually(ctx, t, "no token", func() error {
		stdout, stderr, code := shoal(ctx, t, nil, "token", "--role="+role, "--identity-dir="+c.dir, "--coordinator="+c.addr)
		if code != 0 {
			return errors.New(stderr)
		}
		var ok bool
		if out, ok = strings.CutPrefix(strings.TrimSpace(stdout), "shoal join "); !ok {
			return fmt.Errorf("it says %q", stdout)
		}
		return nil
	})
	return out
}

// join runs a machine that joins with a token.
func (c *joined) join(t *testing.T, name, token string, more ...string) *process {
	t.Helper()
	if c.state[name] == "" {
		c.state[name] = t.TempDir()
		c.ports[name] = []string{"--grpc-addr=" + freeAddr(t), "--gossip-addr=" + freeAddr(t), "--admin-addr=" + freeAddr(t)}
	}
	return c.run(t, name, append([]string{"join", token, "--node-id=" + name}, more...)...)
}

// run runs a machine with the identity and the addresses that it had before.
func (c *joined) run(t *testing.T, name string, args ...string) *process {
	t.Helper()
	args = append(args, "--identity-dir="+c.state[name])
	c.nodes[name] = start(t, nil, append(args, c.ports[name]...)...)
	c.nodes[name].report(t)
	return c.nodes[name]
}

func (c *joined) ask(ctx context.Context, t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	return shoal(ctx, t, nil, append(args, "--identity-dir="+c.dir, "--coordinator="+c.addr)...)
}

func (c *joined) client() client { return client{url: c.url} }

// answers waits until the cluster answers.
func (c *joined) answers(ctx context.Context, t *testing.T) string {
	t.Helper()
	var text string
	eventually(ctx, t, "no answer", func() error {
		a, err := c.client().complete(ctx, chat("Hello!", object{"seed": 1, "max_tokens": 8}))
		if err == nil {
			text = a.Choices[0].Message.Content
		}
		return err
	})
	return text
}

// TestMachinesJoinByToken: two shards and a gateway come in with a token each and
// answer; a token works once; a node that comes back needs none; one that is shut
// out loses its place within five seconds and does not come back, and the others
// go on.
func TestMachinesJoinByToken(t *testing.T) {
	ctx := within(t, 3*time.Minute)
	c := makeCluster(ctx, t)
	first := c.token(ctx, t, "shard")
	c.join(t, "a", first)
	c.join(t, "b", c.token(ctx, t, "shard"))
	web := freeAddr(t)
	c.url = "http://" + web
	c.join(t, "gw", c.token(ctx, t, "gateway"), "--listen="+web, "--grpc-listen="+freeAddr(t))
	before := c.answers(ctx, t)

	// Once.
	p := c.join(t, "thief", first)
	if code := p.exitCode(ctx, t); code != 1 {
		t.Errorf("the second with one token ended with %d", code)
	}
	checkSentence(t, p.err.String(), "the token has been used, by node a")
	// A flag of another role has no effect, and so is refused.
	p = c.join(t, "confused", c.token(ctx, t, "gateway"), "--threads=1")
	if code := p.exitCode(ctx, t); code != 2 {
		t.Errorf("a gateway with a shard's flag ended with %d", code)
	}
	checkSentence(t, p.err.String(), "--threads", "gateway")

	// It comes back by itself.
	c.nodes["b"].kill()
	c.run(t, "b", "shard")
	if after := c.answers(ctx, t); after != before {
		t.Errorf("it answers %q, and before %q", after, before)
	}
	c.join(t, "d", c.token(ctx, t, "shard"))
	eventually(ctx, t, "the third shard is not there", func() error {
		out, stderr, _ := c.ask(ctx, t, "nodes")
		if strings.Count(out, " ready ") != 3 {
			return fmt.Errorf("%s%s", out, stderr)
		}
		return nil
	})

	// Out.
	out, stderr, code := c.ask(ctx, t, "node", "revoke", "a")
	if code != 0 || !strings.Contains(out, "a (shard) is shut out") {
		t.Fatalf("revoke: %s%s", out, stderr)
	}
	gone, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if code := c.nodes["a"].exitCode(gone, t); code != 1 {
		t.Errorf("the node that was shut out ended with %d", code)
	}
	if say := c.nodes["a"].err.String(); !strings.Contains(say, "this node was shut out of the cluster") {
		t.Errorf("it says %s", say)
	}
	if after := c.answers(ctx, t); after != before {
		t.Errorf("without it the answer is %q", after)
	}
	back := c.run(t, "a", "shard")
	eventually(ctx, t, "it is not refused", func() error {
		if !strings.Contains(back.err.String(), "no coordinator to follow") {
			return errors.New(back.err.tail())
		}
		return nil
	})
	if out, _, _ := c.ask(ctx, t, "nodes"); strings.Contains(lineOf(out, "a"), " ready ") {
		t.Errorf("it is back:\n%s", out)
	}
	out, _, _ = c.ask(ctx, t, "cert", "status")
	if !strings.Contains(lineOf(out, "a"), "revoked") || !strings.Contains(lineOf(out, "d"), "connected") {
		t.Errorf("status:\n%s", out)
	}
	if out, stderr, code := c.ask(ctx, t, "cert", "rotate"); code != 0 || !strings.HasPrefix(out, "gossip: ") {
		t.Errorf("rotate: %s%s", out, stderr)
	}
}

// lineOf is the line of a table that begins with a word.
func lineOf(table, word string) string {
	for line := range strings.Lines(table) {
		if strings.HasPrefix(line, word+" ") {
			return line
		}
	}
	return ""
}

// TestAnOperatorJoins: a machine with an operator's token may run commands, and
// knows where.
func TestAnOperatorJoins(t *testing.T) {
	ctx := within(t, time.Minute)
	c := makeCluster(ctx, t)
	token, dir := c.token(ctx, t, "operator"), t.TempDir()
	if out, stderr, code := shoal(ctx, t, nil, "join", token, "--identity-dir="+dir); code != 0 || !strings.Contains(out, "may ask the cluster") {
		t.Fatalf("join: %d: %s%s", code, out, stderr)
	}
	out, stderr, code := shoal(ctx, t, nil, "cert", "status", "--identity-dir="+dir)
	if code != 0 || !strings.Contains(out, "operator") {
		t.Errorf("status: %d: %s%s", code, out, stderr)
	}
}

// TestTheAddressIsWrong: each direction that is shut is named.
func TestTheAddressIsWrong(t *testing.T) {
	ctx := within(t, time.Minute)
	c := makeCluster(ctx, t)
	token := c.token(ctx, t, "shard")
	p := c.join(t, "a", token, "--advertise=192.0.2.1") // a network that is nowhere
	if code := p.exitCode(ctx, t); code != 1 {
		t.Errorf("it ended with %d", code)
	}
	checkSentence(t, p.err.String(), "the way to the coordinator is open, the way back is not", "192.0.2.1", "--advertise")
	text, _, _ := strings.Cut(token, "@")
	p = c.join(t, "a", text+"@"+freeAddr(t))
	if code := p.exitCode(ctx, t); code != 1 {
		t.Errorf("it ended with %d", code)
	}
	checkSentence(t, p.err.String(), "this machine does not reach")
	p = c.join(t, "a", text+"@"+c.addr) // the port of nodes
	if code := p.exitCode(ctx, t); code != 1 {
		t.Errorf("it ended with %d", code)
	}
}

// TestGPUsOfAMachineThatJoined: its GPU's process has a certificate that the
// coordinator signed at its word, and is shut out with it.
func TestGPUsOfAMachineThatJoined(t *testing.T) {
	ctx := within(t, 3*time.Minute)
	program, devices, env := gpuProgram(ctx, t)
	c := makeCluster(ctx, t, "--min-shards=1", "--stages=1")
	dir := t.TempDir()
	p := start(t, env, "join", c.token(ctx, t, "shard"), "--node-id=box", "--identity-dir="+dir, "--grpc-addr="+freeAddr(t),
		"--gossip-addr="+freeAddr(t), "--admin-addr="+freeAddr(t), "--gpu-program="+program, "--device="+devices)
	p.report(t)
	eventually(ctx, t, "the GPU is not there", func() error {
		out, stderr, _ := c.ask(ctx, t, "nodes")
		if !strings.Contains(lineOf(out, "box.gpu0"), " ready ") {
			return errors.Join(fmt.Errorf("%s%s", out, stderr), p.running())
		}
		return nil
	})
	web := freeAddr(t)
	c.url = "http://" + web
	c.join(t, "gw", c.token(ctx, t, "gateway"), "--listen="+web, "--grpc-listen="+freeAddr(t))
	c.answers(ctx, t)
	if out, stderr, code := c.ask(ctx, t, "node", "revoke", "box"); code != 0 {
		t.Fatalf("revoke: %s%s", out, stderr)
	}
	eventually(ctx, t, "the GPU stays", func() error {
		out, _, _ := c.ask(ctx, t, "nodes")
		if strings.Contains(lineOf(out, "box.gpu0"), " ready ") {
			return errors.New(out)
		}
		return nil
	})
}
