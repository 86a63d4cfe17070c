package systemtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// hang is how long `shoal up` may take at most. The goal is three seconds, which
// is measured and not asserted: this machine may be busy.
const hang = 30 * time.Second

// chatLine is where `shoal up` prints its address.
var chatLine = regexp.MustCompile(`Chat\s+(http://\S+)`)

// up is a running `shoal up`.
type up struct {
	*process
	client
}

// startUp runs `shoal up` and waits for its address.
func startUp(ctx context.Context, t *testing.T, env []string, args ...string) *up {
	t.Helper()
	u := &up{process: start(t, env, append([]string{"up"}, args...)...)}
	u.report(t)
	eventually(ctx, t, "shoal up does not print its address", func() error {
		if err := u.running(); err != nil {
			t.Fatal(err)
		}
		m := chatLine.FindStringSubmatch(u.out.String())
		if m == nil {
			return fmt.Errorf("it prints %q", u.out.String())
		}
		u.url = m[1]
		return nil
	})
	return u
}

// TestUpAnswers is the first thing that people do: start, ask, read. It talks to
// no other machine on the way.
func TestUpAnswers(t *testing.T) {
	ctx := within(t, 4*hang) // it takes all cores, as users have it
	began := time.Now()
	u := startUp(ctx, t, []string{"SHOAL_THREADS=0"}, "--listen=127.0.0.1:0")
	printed := time.Since(began)
	var first time.Duration
	s := u.dial(ctx, t)
	eventually(ctx, t, "no answer", func() error { // the model may be loading
		if err := s.send(ctx, object{"prompt": prompts[0], "temperature": 0, "maxTokens": maxTokens}); err != nil {
			t.Fatal(err)
		}
		text, end, err := s.answer(ctx, func(message) error {
			if first == 0 {
				first = time.Since(began)
			}
			return nil
		})
		switch {
		case err != nil:
			t.Fatal(err)
		case end.Type == "error" && end.Retryable:
			return fmt.Errorf("%s: %s", end.Code, end.Message)
		case end.Type != "complete" || text != solo(ctx, t, prompts[0]):
			t.Errorf("answer %q, %+v", text, end)
		}
		return nil
	})
	t.Logf("address printed after %v, first token read after %v from the start of the process", printed, first)
	if runtime.GOOS == "linux" {
		for _, s := range sockets(t, u.cmd.Process.Pid) {
			if host, _, _ := net.SplitHostPort(s.remote); !s.listening && !net.ParseIP(host).IsLoopback() {
				t.Errorf("shoal up talks to %s", s.remote)
			}
			if host, _, _ := net.SplitHostPort(s.local); !net.ParseIP(host).IsLoopback() {
				t.Errorf("shoal up uses %s, which other machines reach", s.local)
			}
		}
	}
	u.signal(t, syscall.SIGTERM)
	if _, err := s.receive(ctx); websocket.CloseStatus(err) != websocket.StatusGoingAway {
		t.Errorf("the idle socket ends with %v, want that the server goes away", err)
	}
	if code := u.exitCode(ctx, t); code != 0 {
		t.Errorf("after SIGTERM it ends with code %d, want 0", code)
	}
}

// TestSignalsEndAnAnswer: while an answer is given, a signal ends the process
// within the drain time, and the client hears of the end.
func TestSignalsEndAnAnswer(t *testing.T) {
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(s.String(), func(t *testing.T) {
			ctx := within(t, hang+30*time.Second)
			u := startUp(ctx, t, nil, "--listen=127.0.0.1:0")
			c := u.dial(ctx, t)
			var end message
			eventually(ctx, t, "no answer", func() error {
				if err := c.send(ctx, longMessage(0)); err != nil {
					t.Fatal(err)
				}
				var err error
				_, end, err = c.answer(ctx, func(m message) error {
					if m.Seq == 1 {
						u.signal(t, s)
					}
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
				if end.Type == "error" && end.Retryable { // the model is loading
					return fmt.Errorf("%s: %s", end.Code, end.Message)
				}
				return nil
			})
			if end.Type != "complete" || end.Usage.CompletionTokens != longTokens {
				t.Errorf("the answer ended with %+v, want all of it: there is time to drain", end)
			}
			if _, err := c.receive(ctx); websocket.CloseStatus(err) != websocket.StatusGoingAway {
				t.Errorf("the socket ends with %v, want that the server goes away", err)
			}
			if code := u.exitCode(ctx, t); code != 0 {
				t.Errorf("it ended with code %d, want 0", code)
			}
			if e := u.err.String(); strings.Contains(e, "panic") || strings.Contains(e, `"level":"ERROR"`) {
				t.Errorf("it ended with noise: %s", e)
			}
		})
	}
}

// TestInterruptedRun: an answer in the terminal ends by Ctrl-C with the code that
// shells expect.
func TestInterruptedRun(t *testing.T) {
	ctx := within(t, hang)
	p := start(t, nil, "run", "tiny", longPrompt, "--temperature=2", "--seed=7", "--max-tokens="+fmt.Sprint(longTokens))
	eventually(ctx, t, "no text comes", func() error {
		if p.out.String() != "" {
			return nil
		}
		return errors.Join(errors.New("it is silent"), p.running())
	})
	p.signal(t, syscall.SIGINT)
	if code := p.exitCode(ctx, t); code != 130 {
		t.Errorf("it ended with code %d, want 130", code)
	}
}

// TestTakenPort: a port that is taken gives one sentence that says what to do.
func TestTakenPort(t *testing.T) {
	ctx := within(t, hang)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	addr := taken.Addr().String()
	secret := t.TempDir() + "/cluster.key"
	if _, stderr, code := shoal(ctx, t, nil, "secret", secret); code != 0 {
		t.Fatal(stderr)
	}
	node := []string{"shard", "--cluster-secret-file=" + secret, "--log-level=error"}
	for what, args := range map[string][]string{
		"--listen":      {"up", "--log-level=error", "--listen=" + addr},
		"--grpc-listen": {"up", "--log-level=error", "--listen=127.0.0.1:0", "--grpc-listen=" + addr},
		"--grpc-addr":   append(node, "--gossip-addr=127.0.0.1:0", "--admin-addr=127.0.0.1:0", "--grpc-addr="+addr),
		"--gossip-addr": append(node, "--grpc-addr=127.0.0.1:0", "--admin-addr=127.0.0.1:0", "--gossip-addr="+addr),
		"admin address": append(node, "--grpc-addr=127.0.0.1:0", "--gossip-addr=127.0.0.1:0", "--admin-addr="+addr),
	} {
		t.Run(what, func(t *testing.T) {
			_, stderr, code := shoal(ctx, t, nil, args...)
			if code != 1 {
				t.Errorf("code %d, want 1", code)
			}
			checkSentence(t, stderr, addr, "in use", what)
		})
	}
}

// checkSentence wants one line that holds all of words.
func checkSentence(t *testing.T, stderr string, words ...string) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(stderr), "\n")
	if len(lines) == 2 && strings.HasPrefix(lines[1], "Try '") {
		lines = lines[:1] // how to learn more
	}
	if len(lines) != 1 || !strings.HasPrefix(lines[0], "shoal: ") {
		t.Errorf("it says %q, want one sentence", stderr)
	}
	for _, w := range words {
		if !strings.Contains(lines[0], w) {
			t.Errorf("it says %q, which does not name %q", lines[0], w)
		}
	}
}
