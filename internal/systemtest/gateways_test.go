package systemtest

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/shoal-llm/shoal/internal/measure"
)

// roamer is a client of the rich protocol with several gateways: when the one that it
// has is lost, it goes on at the next one.
type roamer struct {
	urls []string
	key  string
	at   int // of urls
}

// roamFor is how long a roamer looks for a gateway.
const roamFor = 30 * time.Second

// richFrame is what a roamer reads.
type richFrame struct {
	Type, Text, Code, Message, Reason, Refused, Fingerprint string

	Seq    uint64
	Tokens int
	Notes  []string
}

// classMove is a change of the numerics class that an answer was told of.
type classMove struct {
	fingerprint string
	notes       []string
	at          int // bytes of text before
}

// progressOf is how far an answer has come.
type progressOf struct {
	id      string
	request object
	heard   bool // something of the answer
	seq     uint64
	text    strings.Builder
	resumed int

	fingerprint string // of what began it
	moves       []classMove
}

var errRichEnd = errors.New("the answer has ended")

// ask reads an answer to its end, wherever it goes on, and calls each for every frame with
// tokens. Token numbers without a gap or a repeat are what it insists on.
func (r *roamer) ask(ctx context.Context, request object, each func()) (*progressOf, error) {
	p := &progressOf{id: rand.Text(), request: request}
	lost := time.Time{}
	for {
		before := p.seq
		err := r.session(ctx, p, each)
		if errors.Is(err, errRichEnd) {
			return p, nil
		}
		var final *finalError
		if errors.As(err, &final) || ctx.Err() != nil {
			return p, err
		}
		if lost.IsZero() || p.seq > before {
			lost = time.Now()
		}
		if time.Since(lost) > roamFor {
			return p, fmt.Errorf("no gateway goes on with it: %w", err)
		}
		p.resumed++
		r.at = (r.at + 1) % len(r.urls)
		pauseFor(ctx, 50*time.Millisecond)
	}
}

// finalError is one that no other gateway mends.
type finalError struct{ text string }

func (e *finalError) Error() string { return e.text }

// session has the answer at one gateway until that is lost or the answer ends.
func (r *roamer) session(ctx context.Context, p *progressOf, each func()) error {
	conn, _, err := websocket.Dial(ctx, "ws"+strings.TrimPrefix(r.urls[r.at], "http")+"/streaming", &websocket.DialOptions{
		HTTPHeader: http.Header{"Authorization": {"Bearer " + r.key}}, Subprotocols: []string{"shoal.v1.json"},
	})
	if err != nil {
		return err
	}
	defer conn.CloseNow()
	m := object{"v": 1, "type": "resume", "id": p.id, "after_seq": p.seq}
	if !p.heard && p.resumed == 0 {
		m = p.generate()
	}
	for {
		data, err := json.Marshal(m)
		if err != nil {
			return err
		}
		if err := conn.Write(ctx, websocket.MessageText, data); err != nil {
			return err
		}
		again, err := p.read(ctx, conn, each)
		if !again {
			return err
		}
		m = p.generate() // no gateway got so far as to hand it on
	}
}

func (p *progressOf) generate() object {
	m := object{"v": 1, "type": "generate", "id": p.id, "resumable": true}
	for k, v := range p.request {
		m[k] = v
	}
	return m
}

// read takes frames in until the socket or the answer ends. again: the answer is unknown
// because it was never begun.
func (p *progressOf) read(ctx context.Context, conn *websocket.Conn, each func()) (again bool, err error) {
	for {
		_, data, err := conn.Read(ctx)
		if err != nil {
			return false, err
		}
		var f richFrame
		if err := json.Unmarshal(data, &f); err != nil {
			return false, &finalError{fmt.Sprintf("read %s: %v", data, err)}
		}
		switch f.Type {
		case "accepted":
			if !p.heard {
				p.fingerprint = f.Fingerprint
			}
			p.heard = true
		case "progress":
			if f.Fingerprint != "" {
				p.moves = append(p.moves, classMove{f.Fingerprint, f.Notes, p.text.Len()})
			}
		case "token":
			n := max(1, f.Tokens)
			if p.seq+uint64(n) != f.Seq {
				return false, &finalError{fmt.Sprintf("%d tokens up to %d after token %d", n, f.Seq, p.seq)}
			}
			p.seq = f.Seq
			p.text.WriteString(f.Text)
			each()
		case "complete":
			p.text.WriteString(f.Text)
			return false, errRichEnd
		case "stopped":
			return false, &finalError{"stopped: " + f.Reason}
		case "error":
			switch {
			case f.Code == "unknown_generation" && !p.heard:
				return true, nil
			case f.Code == "no_coordinator", f.Code == "draining", f.Code == "server_draining", f.Code == "service_unavailable":
				return false, errors.New(f.Message)
			}
			return false, &finalError{f.Code + ": " + f.Message}
		}
	}
}

// roamerRequest is what the i-th roamer asks for.
func roamerRequest(i int) object {
	return object{
		"prompt": fmt.Sprintf("Tell me story number %d.", i), "maxTokens": chaosTokens, "temperature": []float64{0, 0.8}[i%2], "seed": i + 1,
		"logitBias": object{"0": -100, "2": -100},
	}
}

// startGateways runs the services of the compose file with a second gateway.
func startGateways(ctx context.Context, t *testing.T) (c *system, urls []string) {
	c = prepareCluster(ctx, t)
	c.nodes["coordinator"].args = append(c.nodes["coordinator"].args, "--steady=200ms", "--max-losses=0")
	second := *c.nodes["gateway"]
	listen, grpc := freeAddr(t), freeAddr(t)
	second.name, second.grpc, second.gossip, second.admin = "gateway-2", freeAddr(t), freeAddr(t), freeAddr(t)
	second.args = append(slices.Clone(second.args), "--node-id=gateway-2", "--listen="+listen, "--grpc-listen="+grpc,
		"--gossip-addr="+second.gossip, "--grpc-addr="+second.grpc, "--admin-addr="+second.admin)
	second.public = []string{listen, grpc}
	c.nodes["gateway-2"] = &second
	for _, name := range append(slices.Clone(services), "gateway-2") {
		c.start(t, name)
	}
	c.waitHealthy(ctx, t, append(slices.Clone(services), "gateway-2")...)
	return c, []string{c.url, "http://" + listen}
}

// crowd are roamers that ask again and again, and what came of it.
type crowd struct {
	stop    chan struct{}
	clients sync.WaitGroup
	tokens  []atomic.Int64
	answers atomic.Int64
	failed  atomic.Int64
	resumed atomic.Int64
}

// startCrowd has n roamers ask; each answer must be the undisturbed one.
func startCrowd(ctx context.Context, t *testing.T, c *system, urls []string, n int) *crowd {
	w := &crowd{stop: make(chan struct{}), tokens: make([]atomic.Int64, n)}
	want := make([]string, n)
	for i := range want {
		r := &roamer{urls: urls, key: c.key}
		p, err := r.ask(ctx, roamerRequest(i), func() {})
		if err != nil || p.resumed > 0 {
			t.Fatalf("roamer %d, undisturbed: %v, resumed %d times", i, err, p.resumed)
		}
		want[i] = p.text.String()
	}
	for i := range n {
		w.clients.Go(func() {
			r := &roamer{urls: urls, key: c.key, at: i % len(urls)}
			for {
				select {
				case <-w.stop:
					return
				default:
				}
				p, err := r.ask(ctx, roamerRequest(i), func() { w.tokens[i].Add(1) })
				w.answers.Add(1)
				w.resumed.Add(int64(p.resumed))
				if err != nil || p.text.String() != want[i] {
					w.failed.Add(1)
					t.Errorf("roamer %d at token %d, resumed %d times: %v\n%.200q, want\n%.200q", i, p.seq, p.resumed, err, p.text.String(), want[i])
				}
			}
		})
	}
	return w
}

// flow waits until every roamer has got some more tokens.
func (w *crowd) flow(ctx context.Context, t *testing.T) {
	t.Helper()
	for i := range w.tokens {
		from := w.tokens[i].Load()
		eventually(ctx, t, fmt.Sprintf("roamer %d gets no tokens", i), func() error {
			if n := w.tokens[i].Load() - from; n < 3 && !t.Failed() {
				return fmt.Errorf("%d frames", n)
			}
			return nil
		})
	}
}

func (w *crowd) end() {
	close(w.stop)
	w.clients.Wait()
}

// TestGatewayKills kills gateways under clients that resume: no answer has a gap or a
// repeat, and each is the undisturbed one. SHOAL_CHAOS_GATEWAYS says how often.
func TestGatewayKills(t *testing.T) {
	kills := howMany(t, "SHOAL_CHAOS_GATEWAYS", "make chaos-gateways")
	ctx := within(t, 2*time.Minute+time.Duration(kills)*10*time.Second)
	c, urls := startGateways(ctx, t)
	w := startCrowd(ctx, t, c, urls, 6)
	for i := range kills {
		w.flow(ctx, t)
		name := []string{"gateway", "gateway-2"}[i%2]
		c.nodes[name].kill()
		c.start(t, name)
		c.waitHealthy(ctx, t, name)
		if t.Failed() {
			break
		}
	}
	w.end()
	t.Logf("%d gateways killed; %d of %d answers failed, resumed %d times", kills, w.failed.Load(), w.answers.Load(), w.resumed.Load())
	if w.resumed.Load() == 0 {
		t.Error("no answer was resumed: nothing was tested")
	}
	saveChaos(t, "make chaos-gateways",
		measure.Figure{Name: "gateway_kills", Unit: "gateways killed, accumulated", Value: float64(kills)},
		measure.Figure{Name: "gateway_kills_gaps", Unit: "answers of resuming clients that failed, accumulated", Value: float64(w.failed.Load())},
		measure.Figure{Name: "gateway_kills_resumed", Unit: "times that an answer went on at another gateway, accumulated", Value: float64(w.resumed.Load())})
}

// TestRollingRestart ends every process in turn, as an upgrade does (SIGTERM), and starts
// it again, under clients that resume: none fails. SHOAL_CHAOS_ROLLS says how often.
func TestRollingRestart(t *testing.T) {
	rolls := howMany(t, "SHOAL_CHAOS_ROLLS", "make chaos-rolling")
	ctx := within(t, 2*time.Minute+time.Duration(rolls)*2*time.Minute)
	c, urls := startGateways(ctx, t)
	w := startCrowd(ctx, t, c, urls, 6)
	restarts := 0
	for range rolls {
		for _, name := range append(slices.Clone(services), "gateway-2") {
			w.flow(ctx, t)
			c.nodes[name].signal(t, syscall.SIGTERM)
			if code := c.nodes[name].exitCode(ctx, t); code != 0 {
				t.Errorf("%s ends with code %d", name, code)
			}
			c.start(t, name)
			c.waitHealthy(ctx, t, name)
			restarts++
		}
		if t.Failed() {
			break
		}
	}
	w.end()
	t.Logf("%d restarts; %d of %d answers failed, resumed %d times", restarts, w.failed.Load(), w.answers.Load(), w.resumed.Load())
	saveChaos(t, "make chaos-rolling",
		measure.Figure{Name: "rolling_restarts", Unit: "processes restarted, accumulated", Value: float64(restarts)},
		measure.Figure{Name: "rolling_failed", Unit: "answers of resuming clients that failed, accumulated", Value: float64(w.failed.Load())})
}

// saveChaos adds counts to the file of figures, if one is wanted.
func saveChaos(t *testing.T, command string, counts ...measure.Figure) {
	t.Helper()
	file := os.Getenv("SHOAL_CHAOS_SAVE")
	if file == "" {
		return
	}
	for i := range counts {
		counts[i].Machine, counts[i].Command = fmt.Sprintf("%d threads", runtime.NumCPU()), command
	}
	if err := measure.Add(file, counts); err != nil {
		t.Error(err)
	}
}
