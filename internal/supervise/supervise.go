package supervise

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/shoal-llm/shoal/internal/enrol"
)

// Config says which children there are.
type Config struct {
	Program  string   // path of the program
	Args     []string // its arguments; nil is serve
	Children []Settings
	// Notify hears how a child is, each time it changes. It is called by one
	// goroutine for each child.
	Notify func(s Settings, r Report)
	Log    *slog.Logger // also of what the children log
	// Vouch gives a child that is about to start an identity, and tells what changes
	// of it until ctx ends. Nil: the settings say all.
	Vouch func(ctx context.Context, node string, tell func(enrol.ChildNews)) (*enrol.Child, error)

	Patience time.Duration // with a child that starts; 0 is DefaultPatience
	Backoff  Backoff       // the zero value is DefaultBackoff
}

// Backoff is how long a child stays down that has ended.
type Backoff struct {
	Min, Max time.Duration // each end in a row doubles the pause
	Settled  time.Duration // a child that served so long begins at Min again
}

// DefaultPatience and DefaultBackoff suit devices: their drivers take seconds
// to compile what they run, and a device that fails often is broken.
const DefaultPatience = 2 * time.Minute

// DefaultBackoff returns the default of Config.Backoff.
func DefaultBackoff() Backoff {
	return Backoff{Min: 100 * time.Millisecond, Max: 10 * time.Second, Settled: 2 * time.Second}
}

// Run keeps the children running until ctx ends. Then all of them have ended.
func Run(ctx context.Context, cfg Config) error {
	if cfg.Args == nil {
		cfg.Args = []string{"serve"}
	}
	if cfg.Patience == 0 {
		cfg.Patience = DefaultPatience
	}
	if cfg.Backoff == (Backoff{}) {
		cfg.Backoff = DefaultBackoff()
	}
	var group errgroup.Group
	for _, s := range cfg.Children {
		group.Go(func() error {
			keep(ctx, &cfg, s)
			return nil
		})
	}
	return group.Wait()
}

// keep runs one child, again and again, until ctx ends or the child is refused.
func keep(ctx context.Context, cfg *Config, s Settings) {
	pause := cfg.Backoff.Min
	for ctx.Err() == nil {
		served, err := runOnce(ctx, cfg, s)
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, errRefused) {
			cfg.Log.Error("a device is refused", "child", s.Node, "device", s.Adapter.Name, "err", err)
			return
		}
		if served > cfg.Backoff.Settled {
			pause = cfg.Backoff.Min
		}
		cfg.Log.Error("a device is lost", "child", s.Node, "device", s.Adapter.Name, "err", err, "again_in", pause)
		cfg.Notify(s, Report{State: Lost, Reason: fmt.Sprintf("%v; it is started again in %v", err, pause)})
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, cfg.Backoff.Max)
	}
}

// errRefused says that a child has found its device wrong.
var errRefused = errors.New("refused")

// runOnce starts a child and waits for its end. It returns for how long the
// child served, and why it ended.
func runOnce(parent context.Context, cfg *Config, s Settings) (served time.Duration, err error) {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	news := make(chan enrol.ChildNews, 1)
	if cfg.Vouch != nil {
		s.Identity, err = cfg.Vouch(ctx, s.Node, func(n enrol.ChildNews) {
			select {
			case news <- n:
			case <-ctx.Done():
			}
		})
		if err != nil {
			return 0, fmt.Errorf("get an identity for it: %w", err)
		}
	}
	settings, err := json.Marshal(s)
	if err != nil {
		return 0, fmt.Errorf("write settings: %w", err)
	}
	c := &conversation{settings: s, notify: cfg.Notify, stop: cancel}
	words := &words{log: cfg.Log.With("child", s.Node)}
	stderr := &lines{each: words.hear}
	cmd := exec.CommandContext(ctx, cfg.Program, cfg.Args...) // #nosec G204 -- the program beside this one
	cmd.Stdout, cmd.Stderr = &lines{each: c.hear}, stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return 0, fmt.Errorf("start %s: %w", cfg.Program, err)
	}
	cmd.Cancel = func() error {
		if parent.Err() != nil { // it ends by itself, or is killed after a while
			return stdin.Close()
		}
		return cmd.Process.Kill()
	}
	cmd.WaitDelay = 2 * goodbye
	cfg.Notify(s, Report{State: Starting})
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("start %s: %w", cfg.Program, err)
	}
	defer time.AfterFunc(cfg.Patience, func() {
		if !c.settled() {
			cancel(fmt.Errorf("it was not ready within %v", cfg.Patience))
		}
	}).Stop()
	if _, err := stdin.Write(append(settings, '\n')); err != nil {
		cancel(fmt.Errorf("it takes no settings: %w", err))
	}
	told := make(chan struct{})
	go func() {
		defer close(told)
		sendNews(ctx, stdin, news, cancel)
	}()
	ended := cmd.Wait()
	cause := context.Cause(ctx)
	cancel(nil)
	<-told
	stderr.flush()
	served, refused := c.close()
	switch {
	case refused != "":
		return served, fmt.Errorf("%w: %s", errRefused, refused)
	case cause != nil:
		return served, cause
	}
	return served, ending(ended, words.last)
}

// sendNews writes what changes of a child's identity, until ctx ends.
func sendNews(ctx context.Context, to io.Writer, news <-chan enrol.ChildNews, stop context.CancelCauseFunc) {
	for {
		select {
		case <-ctx.Done():
			return
		case n := <-news:
			line, err := json.Marshal(n)
			if err == nil {
				_, err = to.Write(append(line, '\n'))
			}
			if err != nil {
				stop(fmt.Errorf("it takes no news: %w", err))
				return
			}
		}
	}
}

// ending says how a process has ended, with its last words.
func ending(err error, words string) error {
	how := "it ended"
	if err != nil {
		how = err.Error() // "signal: aborted", "exit status 1"
	}
	if words != "" {
		how += ": " + words
	}
	return fmt.Errorf("the process of the device ended: %s", how)
}

// conversation is what a child has said.
type conversation struct {
	settings Settings
	notify   func(Settings, Report)
	stop     context.CancelCauseFunc

	mu      sync.Mutex
	ready   time.Time // guarded by mu
	refused string    // guarded by mu
	closed  bool      // guarded by mu
}

// hear takes a line of the child's standard output.
func (c *conversation) hear(line []byte) {
	var r Report
	if json.Unmarshal(line, &r) != nil {
		return // a library that talks there
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return
	case r.State == Ready:
		c.ready = time.Now()
	case r.State == Refused:
		c.refused = r.Reason
		c.stop(errRefused)
	case r.State == Lost:
		c.stop(errors.New(r.Reason))
		return // it is told when it has ended
	default:
		return
	}
	c.notify(c.settings, r)
}

// settled reports whether the child has got anywhere.
func (c *conversation) settled() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed || c.refused != "" || !c.ready.IsZero()
}

// close ends the conversation.
func (c *conversation) close() (served time.Duration, refused string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if !c.ready.IsZero() {
		served = time.Since(c.ready)
	}
	return served, c.refused
}

// lines cuts what is written into lines. It belongs to one writer.
type lines struct {
	each func(line []byte)
	rest []byte
}

// Write implements io.Writer.
func (l *lines) Write(p []byte) (int, error) {
	l.rest = append(l.rest, p...)
	for {
		line, rest, ok := bytes.Cut(l.rest, []byte("\n"))
		if !ok {
			break
		}
		l.each(line)
		l.rest = rest
	}
	if len(l.rest) > maxLine {
		l.flush()
	}
	return len(p), nil
}

// flush takes what is left as a line.
func (l *lines) flush() {
	if len(l.rest) > 0 {
		l.each(l.rest)
	}
	l.rest = nil
}

// words are what a child says on its standard error: entries of its log, and
// what a native library has to say before it ends the process.
type words struct {
	log  *slog.Logger
	last string // that is no entry of a log
}

// hear takes a line.
func (w *words) hear(line []byte) {
	const most = 300
	entry := map[string]any{}
	var level slog.Level
	text, ok := "", json.Unmarshal(line, &entry) == nil
	if ok {
		name, _ := entry[slog.LevelKey].(string)
		text, _ = entry[slog.MessageKey].(string)
		ok = level.UnmarshalText([]byte(name)) == nil
	}
	if !ok {
		if w.last = strings.ToValidUTF8(string(line[:min(len(line), most)]), ""); w.last != "" {
			w.log.Warn("the device's process says", "text", w.last)
		}
		return
	}
	delete(entry, slog.LevelKey)
	delete(entry, slog.MessageKey)
	delete(entry, slog.TimeKey)
	var attrs []any
	for _, key := range slices.Sorted(maps.Keys(entry)) {
		attrs = append(attrs, key, entry[key])
	}
	w.log.Log(context.Background(), level, text, attrs...)
}
