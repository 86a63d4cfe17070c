package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/shoal-llm/shoal/internal/measure"
)

// The cores of the measurements: the one process and the first stage on the first,
// the second stage and all else on the second.
const (
	firstCore, secondCore = 0, 1
	where                 = "shards on cores 0 and 1, coordinator and gateway on core 1, client anywhere"
)

// splitDecode and splitPrompt are the tokens of an answer and of a long prompt.
const (
	splitDecode = 128
	splitPrompt = 1024
	splitLayers = 30 // of SmolLM2-135M
)

// words makes a prompt that nobody has asked before of about n tokens.
func words(n int) string {
	list := strings.Fields("river stone light garden yellow winter table music open seven quiet green letter field under morning")
	var b strings.Builder
	for range n {
		b.WriteString(" " + list[rand.IntN(len(list))])
	}
	return b.String()
}

// rates are what one side of a comparison reached, by round, in tokens a second.
type rates struct{ decode, prefill []float64 }

// measure asks for a decode and a prefill. A machine that is busy with something
// else may lose a shard for a moment: then it asks again.
func (r *rates) measure(ctx context.Context, n *nodes) error {
	const tries = 3
	var err error
	for range tries {
		var decode, prefill *told
		if decode, err = ask(ctx, n.url, question{prompt: words(16), tokens: splitDecode}); err == nil {
			prefill, err = ask(ctx, n.url, question{prompt: words(splitPrompt), tokens: 1})
		}
		if err == nil {
			r.decode = append(r.decode, decode.rate())
			r.prefill = append(r.prefill, float64(prefill.prompt-prefill.cached)/prefill.first().Seconds())
			return nil
		}
		if late := n.ready(ctx); late != nil {
			return errors.Join(err, late)
		}
	}
	return err
}

// splits compares SmolLM2 over two processes on one core each with one process on
// one core, and with llama.cpp's RPC backend on the same cores.
func (r *report) splits(ctx context.Context, s settings) (err error) {
	one, err := startNodes(ctx, s.program, s.models, q41, pinned(splitLayers, 1), secondCore, firstCore)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, one.stop()) }()
	two, err := startNodes(ctx, s.program, s.models, q41, pinned(splitLayers, 2), secondCore, firstCore, secondCore)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, two.stop()) }()
	var alone, split, rpc rates
	for round := range r.rounds + 1 {
		if err := errors.Join(alone.measure(ctx, one), split.measure(ctx, two)); err != nil {
			return err
		}
		if s.baseline != "" {
			if err := rpc.theirs(ctx, s); err != nil {
				return err
			}
		}
		if round == 0 { // warm-up
			alone, split, rpc = rates{}, rates{}, rates{}
		}
	}
	r.versus("split2_decode_ratio", split.decode, alone.decode, "of one process on one core; "+where)
	r.versus("split2_prefill_ratio", split.prefill, alone.prefill, "of one process on one core; "+where)
	if s.baseline != "" {
		r.versus("split2_vs_llamacpp_rpc_decode", split.decode, rpc.decode, "of llama.cpp's RPC backend, one server a core; "+where)
		r.versus("split2_vs_llamacpp_rpc_prefill", split.prefill, rpc.prefill, "of llama.cpp's RPC backend, one server a core; "+where)
	}
	return nil
}

// versus reports the ratio of two medians of tokens a second.
func (r *report) versus(name string, ours, theirs []float64, unit string) {
	a, b := measure.Median(ours), measure.Median(theirs)
	fmt.Fprintf(r.out, "%-32s %8.3f: %s tokens/s, beside %s\n", name, a/b, spread(ours), spread(theirs))
	r.add(name, a/b, unit, b, a/b)
}

// theirs runs llama-bench once over two RPC servers.
func (r *rates) theirs(ctx context.Context, s settings) (err error) {
	l := llamaCPP{name: "llama.cpp", bin: filepath.Join(s.baseline, "build", "bin")}
	var servers []string
	for _, core := range []int{firstCore, secondCore} {
		port, err := freePort()
		if err != nil {
			return err
		}
		c := exec.CommandContext(ctx, "taskset", "-c", strconv.Itoa(core), filepath.Join(l.bin, "ggml-rpc-server"),
			"-t", "1", "-H", "127.0.0.1", "-p", strconv.Itoa(port))
		if err := c.Start(); err != nil {
			return err
		}
		defer func() {
			_ = c.Process.Signal(os.Interrupt)
			_ = c.Wait() // it ends by the signal
		}()
		servers = append(servers, fmt.Sprintf("127.0.0.1:%d", port))
	}
	for _, at := range servers {
		if err := answers(ctx, at); err != nil {
			return err
		}
	}
	over := []string{"--rpc", strings.Join(servers, ","), "-ngl", "99"}
	model := filepath.Join(s.models, q41+".gguf")
	decode, err := l.bench(ctx, model, 1, 0, splitDecode, over...)
	if err != nil {
		return err
	}
	prefill, err := l.bench(ctx, model, 1, splitPrompt, 0, over...)
	r.decode, r.prefill = append(r.decode, decode), append(r.prefill, prefill)
	return err
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// answers waits until something listens at an address.
func answers(ctx context.Context, at string) error {
	for deadline := time.Now().Add(10 * time.Second); ; {
		conn, err := net.Dial("tcp", at)
		if err == nil {
			return conn.Close()
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}
