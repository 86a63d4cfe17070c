//go:build linux

package main

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"golang.org/x/sys/unix"

	"github.com/shoal-llm/shoal/internal/pki"
)

// scenario is one load.
type scenario struct {
	name    string
	kind    kind
	streams int
	rate    int // tokens a second of each
	run     func(settings, *report, scenario) error
}

func scenarios(s settings) []scenario {
	list := []scenario{
		{"ws_5k", webSocket, 5000, 8, steady},
		{"ws_10k", webSocket, 10000, 2, steady},
		{"ws_10k_x8", webSocket, 10000, 8, steady},
		{"sse_5k", sse, 5000, 4, steady},
		{"stalled", webSocket, 5000, 8, stalled},
		{"ttft", webSocket, 128, 8, firstTokens},
		{"churn", webSocket, 500, 0, churn},
	}
	if s.short {
		for i := range list {
			list[i].streams = max(list[i].streams/10, 20)
		}
	}
	return list
}

// raiseFileLimit takes as many descriptors as this process may; its children
// inherit the limit.
func raiseFileLimit() error {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return fmt.Errorf("read the limit of open files: %w", err)
	}
	l.Cur = l.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return fmt.Errorf("raise the limit of open files: %w", err)
	}
	return nil
}

// bench is a gateway, what feeds it, and a crowd before it.
type bench struct {
	settings
	feeder, gateway *child
	crowd           *crowd
	clients         []*client
	baseline        usage // of the gateway before its first client
	stop            chan struct{}
	stopped         chan struct{}
}

// setUp starts the processes; warm lets the gateway serve once, so that the
// baseline holds what is made for the first client and kept.
func setUp(s settings, feeder string) (*bench, error) {
	b := &bench{settings: s, stop: make(chan struct{}), stopped: make(chan struct{})}
	secret := pki.NewSecret().Text()
	var err error
	if b.feeder, err = startChild(secret, feeder); err != nil {
		return nil, err
	}
	b.gateway, err = startChild(secret, roleGateway,
		"-coordinator", b.feeder.addr, "-cpuprofile", s.profile, "-heapprofile", s.heap)
	if err != nil {
		return nil, errors.Join(err, b.feeder.stop())
	}
	b.crowd, err = newCrowd(b.gateway.addr)
	if err != nil {
		return nil, errors.Join(err, b.gateway.stop(), b.feeder.stop())
	}
	go func() { b.crowd.run(b.stop); close(b.stopped) }()
	err = awaitReady("http://" + b.gateway.addr + "/readyz")
	if err == nil {
		err = b.warm()
	}
	if err != nil {
		return nil, errors.Join(err, b.tearDown())
	}
	return b, nil
}

// awaitReady asks until the gateway says that it can answer.
func awaitReady(url string) error {
	defer http.DefaultClient.CloseIdleConnections()
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		resp, err := http.Get(url)
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		if time.Now().After(end) {
			return fmt.Errorf("the gateway is not ready after %v: %w", patience, err)
		}
	}
}

// warm serves one short stream of each kind and takes the baseline.
func (b *bench) warm() error {
	for k := range 2 {
		c := &client{kind: kind(k), prompt: "20 0", tokens: 2}
		var err error
		b.crowd.do(func() { err = b.crowd.open(c, 0) })
		if err == nil && c.kind == webSocket {
			if err = b.until("a first socket", func() bool { return c.phase == idle }); err == nil {
				b.crowd.do(func() { err = b.crowd.ask(c) })
			}
		}
		if err == nil {
			err = b.until("a first answer", func() bool { return c.phase == complete })
		}
		if err != nil {
			return err
		}
		b.crowd.do(func() { b.crowd.close(c) })
	}
	time.Sleep(200 * time.Millisecond) // the closes arrive
	b.crowd.do(func() { b.crowd.opened, b.crowd.first, b.crowd.completed = 0, 0, 0 })
	var err error
	b.baseline, err = b.gateway.usage()
	return err
}

func (b *bench) tearDown() error {
	close(b.stop)
	<-b.stopped
	return errors.Join(b.gateway.stop(), b.feeder.stop())
}

// patience is how long anything may take that is not measured.
const patience = 60 * time.Second

// until waits for a condition that it looks at in the crowd's goroutine. A
// client that failed ends it.
func (b *bench) until(what string, ok func() bool) error {
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		var done bool
		var problems []error
		b.crowd.do(func() { done, problems = ok(), b.crowd.problems })
		switch {
		case len(problems) > 0:
			return fmt.Errorf("wait for %s: %w", what, errors.Join(problems...))
		case done:
			return nil
		case time.Now().After(end):
			return fmt.Errorf("wait for %s: not after %v", what, patience)
		}
	}
}

// Clients arrive at this pace, and ask at the same.
const (
	arrivals     = 2000 // a second
	arrivalEvery = 10 * time.Millisecond
)

// arrive calls f n times in the crowd's goroutine, spread over time.
func (b *bench) arrive(n int, f func(i int) error) error {
	began := time.Now()
	for done := 0; done < n; {
		due := min(n, int(time.Since(began).Seconds()*arrivals)+1)
		var err error
		b.crowd.do(func() {
			for ; done < due && err == nil; done++ {
				err = f(done)
			}
		})
		if err != nil {
			return err
		}
		time.Sleep(arrivalEvery)
	}
	return nil
}

// endless is more tokens than any stream gets before it is told to finish.
const endless = 1 << 20

// fill opens n more clients and lets each ask; afterwards all of them stream.
// prompt and receive buffer may differ by client.
func (b *bench) fill(k kind, n int, prompt func(i int) (text string, group, buffer int)) error {
	var opened, first int
	b.crowd.do(func() { opened, first = b.crowd.opened+n, b.crowd.first+n })
	before := len(b.clients)
	err := b.arrive(n, func(i int) error {
		text, group, buffer := prompt(i)
		c := &client{kind: k, prompt: text, tokens: endless, group: group}
		b.clients = append(b.clients, c)
		return b.crowd.open(c, buffer)
	})
	if err == nil {
		err = b.until("open sockets", func() bool { return b.crowd.opened == opened })
	}
	if err == nil && k == webSocket {
		err = b.arrive(n, func(i int) error { return b.crowd.ask(b.clients[before+i]) })
	}
	if err == nil {
		err = b.until("first tokens", func() bool { return b.crowd.first == first })
	}
	return err
}

// window is what was measured while all streams ran.
type window struct {
	length    time.Duration
	tokens    uint64
	latency   histogram
	gateway   usage // CPU of the window, the rest at its end
	feeder    usage
	generator time.Duration // CPU
	garbage   uint32
}

// measure looks at the present load for a while.
func (b *bench) measure(d time.Duration) (window, error) {
	before, err := b.gateway.usage()
	if err != nil {
		return window{}, err
	}
	feeder, err := b.feeder.usage() // begins its counts
	if err != nil {
		return window{}, err
	}
	own, err := ownUsage()
	if err != nil {
		return window{}, err
	}
	began := time.Now()
	b.crowd.do(func() {
		b.crowd.latency, b.crowd.tokens, b.crowd.measuring = [2]histogram{}, 0, true
	})
	time.Sleep(d)
	v := window{}
	b.crowd.do(func() {
		b.crowd.measuring = false
		v.latency, v.tokens = b.crowd.latency[0], b.crowd.tokens
	})
	v.length = time.Since(began)
	if v.gateway, err = b.gateway.usage(); err != nil {
		return v, err
	}
	if v.feeder, err = b.feeder.usage(); err != nil {
		return v, err
	}
	end, err := ownUsage()
	v.gateway.CPU -= before.CPU
	v.feeder.CPU -= feeder.CPU
	v.garbage = v.gateway.Collected - before.Collected
	v.generator = end.CPU - own.CPU
	return v, err
}

// finish lets every stream end, checks that each is whole, closes all clients,
// and waits for the gateway to hold no more than before them.
func (b *bench) finish(streams int) error {
	var u usage
	if err := b.feeder.ask("finish", &u); err != nil {
		return err
	}
	if err := b.until("complete streams", func() bool { return b.crowd.completed == streams }); err != nil {
		return err
	}
	return b.leave()
}

// leave closes what is open and waits for the baseline.
func (b *bench) leave() error {
	b.crowd.do(func() {
		for _, c := range b.crowd.clients {
			b.crowd.close(c)
		}
	})
	for end := time.Now().Add(15 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		u, err := b.gateway.usage()
		if err != nil {
			return err
		}
		if u.Files <= b.baseline.Files && u.Goroutines <= b.baseline.Goroutines {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("the gateway held %d descriptors and %d goroutines before its clients and %d and %d after them",
				b.baseline.Files, b.baseline.Goroutines, u.Files, u.Goroutines)
		}
	}
}

// settle is how long the streams run before they are measured.
const settle = 2 * time.Second

// steady measures streams at one rate.
func steady(s settings, r *report, sc scenario) (err error) {
	b, err := setUp(s, roleCoordinator)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.tearDown()) }()
	prompt := fmt.Sprintf("%d 0", sc.rate)
	if err := b.fill(sc.kind, sc.streams, func(int) (string, int, int) { return prompt, 0, 0 }); err != nil {
		return err
	}
	time.Sleep(settle)
	v, err := b.measure(s.window)
	if err != nil {
		return err
	}
	if s.heap != "" {
		var ok bool
		if err := b.gateway.ask("heap", &ok); err != nil {
			return err
		}
	}
	r.steady(sc, v, b.baseline)
	return b.finish(sc.streams)
}

// Clients of churn ask for a few tokens; half of them leave in the middle.
const (
	churnTokens = 8
	churnRate   = 20
	churnStay   = time.Second
)

// churn opens and closes sockets at a fixed pace.
func churn(s settings, r *report, sc scenario) (err error) {
	b, err := setUp(s, roleCoordinator)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.tearDown()) }()
	var queue []*client
	var whole, opened int
	b.crowd.ended = func(_ *client, err error) {
		if err == nil {
			whole++
		}
	}
	before, began := b.baseline, time.Now()
	for time.Since(began) < s.churn {
		due := int(time.Since(began).Seconds() * float64(sc.streams))
		b.crowd.do(func() {
			for ; opened < due && err == nil; opened++ {
				c := &client{prompt: fmt.Sprintf("%d 0", churnRate), tokens: churnTokens}
				if opened%2 == 1 {
					c.tokens = endless
				}
				queue = append(queue, c)
				err = b.crowd.open(c, 0)
			}
			queue = b.turnOver(queue)
			err = errors.Join(append([]error{err}, b.crowd.problems...)...)
		})
		if err != nil {
			return err
		}
		time.Sleep(2 * time.Millisecond)
	}
	length := time.Since(began)
	u, err := b.gateway.usage()
	if err != nil {
		return err
	}
	u.CPU -= before.CPU
	if err := b.leave(); err != nil {
		return err
	}
	after, err := b.gateway.usage()
	r.churn(sc, u, length, opened, whole, b.baseline, after)
	return err
}

// turnOver lets clients ask that have opened, and those leave that have stayed
// long enough, and returns the others. It runs in the crowd's goroutine.
func (b *bench) turnOver(queue []*client) []*client {
	at := now()
	for _, c := range queue {
		if c.phase == idle {
			if err := b.crowd.ask(c); err != nil {
				b.crowd.drop(c, err)
			}
		}
	}
	for len(queue) > 0 && at-queue[0].began > int64(churnStay) && queue[0].phase > idle {
		c := queue[0]
		if c.phase == complete {
			_ = c.write(closeFrame)
		}
		b.crowd.close(c)
		queue = queue[1:]
	}
	return queue
}
