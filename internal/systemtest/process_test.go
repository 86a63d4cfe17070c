package systemtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
)

// process is one running shoal.
type process struct {
	cmd    *exec.Cmd
	out    *transcript
	err    *transcript
	exited chan struct{} // closed when the process has ended
}

// start runs the program with args. Of the environment only what is given and
// what programs need at all is passed on. The process is killed with the test.
func start(t *testing.T, env []string, args ...string) *process {
	t.Helper()
	return startCommand(t, env, binary, args...)
}

// startCommand is start for a command that runs the program.
func startCommand(t *testing.T, env []string, command string, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(command, args...), out: &transcript{}, err: &transcript{}, exited: make(chan struct{})}
	p.cmd.Env = append(baseEnv(), env...)
	p.cmd.Dir = t.TempDir()
	p.cmd.Env = append(p.cmd.Env, "XDG_STATE_HOME="+p.cmd.Dir) // no identity of this machine
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.err
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("start shoal %s: %v", args[0], err)
	}
	go func() {
		defer close(p.exited)
		_ = p.cmd.Wait() // ProcessState tells how it ended
	}()
	t.Cleanup(p.kill)
	return p
}

// report shows what the process wrote if the test fails.
func (p *process) report(t *testing.T) {
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("shoal %s; the end of what it wrote:\n%s%s", strings.Join(p.cmd.Args[1:], " "), p.out.tail(), p.err.tail())
		}
	})
}

// oneThread gives a process one CPU worker. A whole cluster shares this machine
// with its tests, and the workers of a device wait for each other: were they
// more than there are cores to run them, everything would wait.
const oneThread = "SHOAL_THREADS=1"

// baseEnv is the environment without settings of shoal and of telemetry, and
// with oneThread.
func baseEnv() []string {
	env := []string{oneThread}
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "SHOAL_") && !strings.HasPrefix(e, "OTEL_") {
			env = append(env, e)
		}
	}
	return env
}

// kill ends the process without a word (SIGKILL) and waits for its end.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.exited
}

// signal sends a signal.
func (p *process) signal(t *testing.T, s os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatalf("send %v: %v", s, err)
	}
}

// exitCode waits for the end of the process.
func (p *process) exitCode(ctx context.Context, t *testing.T) int {
	t.Helper()
	select {
	case <-p.exited:
		return p.cmd.ProcessState.ExitCode()
	case <-ctx.Done():
		t.Fatalf("%s does not end", strings.Join(p.cmd.Args[1:], " "))
		return -1
	}
}

// running is an error once the process has ended.
func (p *process) running() error {
	select {
	case <-p.exited:
		return fmt.Errorf("the process has ended with code %d: %s", p.cmd.ProcessState.ExitCode(), p.err.tail())
	default:
		return nil
	}
}

// shoal runs a command to its end and returns what it wrote and its exit code.
func shoal(ctx context.Context, t *testing.T, env []string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	p := start(t, env, args...)
	code = p.exitCode(ctx, t)
	return p.out.String(), p.err.String(), code
}

// transcript keeps what a process writes, up to a limit.
type transcript struct {
	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
}

// Write implements io.Writer.
func (w *transcript) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	const most = 4 << 20
	if w.text.Len()+len(p) > most {
		return 0, errors.New("the process writes too much")
	}
	return w.text.Write(p)
}

// String returns all of it.
func (w *transcript) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

// tail returns the last lines.
func (w *transcript) tail() string {
	const most = 4000
	s := w.String()
	return s[max(0, len(s)-most):]
}

// freeAddr returns a loopback address whose port is free for TCP and UDP. Ports
// are drawn below the range from which systems take those of outgoing
// connections, so that nobody takes one by accident before the process does.
func freeAddr(t *testing.T) string {
	t.Helper()
	const first, end, tries = 12000, 32000, 100
	for range tries {
		addr := fmt.Sprintf("127.0.0.1:%d", first+rand.IntN(end-first))
		tcp, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		udp, err := net.ListenPacket("udp", addr)
		if err == nil {
			err = udp.Close()
		}
		if err = errors.Join(err, tcp.Close()); err == nil {
			return addr
		}
	}
	t.Fatal("no free port")
	return ""
}
