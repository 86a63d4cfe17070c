package supervise

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/shoal-llm/shoal/internal/enrol"
)

// maxLine bounds a line of either direction.
const maxLine = 1 << 20

// goodbye is what a child gets to end by itself when its parent has gone.
const goodbye = 2 * time.Second

// Parent is the other side of a child.
type Parent struct {
	Settings Settings
	in       *bufio.Reader

	mu  sync.Mutex
	out io.Writer // guarded by mu

	newsMu sync.Mutex        // guards following, and orders calls of hear
	news   []enrol.ChildNews // what came before hear
	hear   func(enrol.ChildNews)
}

// keep hands on what changed, or keeps it.
func (p *Parent) keep(n enrol.ChildNews) {
	p.newsMu.Lock()
	defer p.newsMu.Unlock()
	if p.hear == nil {
		p.news = append(p.news, n)
		return
	}
	p.hear(n)
}

// News has hear told of everything that changes of the child's identity, and of
// what has changed already, one after the other.
func (p *Parent) News(hear func(enrol.ChildNews)) {
	p.newsMu.Lock()
	defer p.newsMu.Unlock()
	for _, n := range p.news {
		hear(n)
	}
	p.news, p.hear = nil, hear
}

// Meet reads the settings, the first line of a child's standard input.
func Meet(in io.Reader, out io.Writer) (*Parent, error) {
	p := &Parent{in: bufio.NewReaderSize(in, maxLine), out: out}
	line, err := p.in.ReadSlice('\n') // at most maxLine
	if err != nil {
		return nil, errors.New("nobody tells this program what to do: the shard role of shoal starts it")
	}
	if err := json.Unmarshal(line, &p.Settings); err != nil {
		return nil, fmt.Errorf("read settings: %w", err)
	}
	return p, nil
}

// Report tells the parent how the child is. It may be called from any goroutine.
// The parent's end shows in Follow.
func (p *Parent) Report(r Report) {
	line, err := json.Marshal(r)
	if err != nil {
		panic(err) // a Report has nothing that cannot be written
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	_, _ = p.out.Write(append(line, '\n'))
}

// Follow returns a context that ends with the parent. A process that is then
// still there after a moment is ended where it stands. What changes of the child's
// identity is kept for News.
func (p *Parent) Follow(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		for {
			line, err := p.in.ReadSlice('\n')
			if err != nil {
				break // its end, or a parent that makes no sense
			}
			var n enrol.ChildNews
			if json.Unmarshal(line, &n) == nil {
				p.keep(n)
			}
		}
		cancel()
		time.Sleep(goodbye)
		os.Exit(1)
	}()
	return ctx, cancel
}
