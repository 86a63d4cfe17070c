package gateway

import (
	"context"
	"encoding/json"
	"net/http"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/coder/websocket"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// The cluster API: one document, as an answer to GET /v1/cluster, and kept true
// over the WebSocket /v1/cluster/stream.

const (
	boardEvery = 500 * time.Millisecond // between two deltas
	boardAge   = 400 * time.Millisecond // of the coordinator's word, at most
	boardQueue = 4                      // frames that wait for one watcher
)

// clusterReport is the document. Nodes and models are objects by name, so that a
// merge patch can change one of them. Nothing in it is null; plan is absent while
// there is none.
type clusterReport struct {
	V           int                   `json:"v"` // of this schema; members are only ever added
	TimeMs      int64                 `json:"timeMs"`
	Cluster     string                `json:"cluster"`
	Coordinator string                `json:"coordinator"`
	Epoch       uint64                `json:"epoch"`
	Ready       bool                  `json:"ready"`
	Reason      string                `json:"reason"` // why it is not
	Nodes       map[string]nodeReport `json:"nodes"`
	Models      map[string]modelFacts `json:"models"`
	Plan        *planReport           `json:"plan,omitempty"` // the first of pipelines
	Pipelines   []pipelineReport      `json:"pipelines,omitempty"`
	Spares      []stageReport         `json:"spares,omitempty"` // whose weights are held in reserve
	Explanation string                `json:"explanation"`      // why the plan is what it is, in sentences
	Loads       []loadReport          `json:"loads,omitempty"`  // of stages that are not ready

	Links map[string]map[string]linkReport `json:"links,omitempty"` // measured, by from and to

	Sessions sessionReport `json:"sessions"`
	Totals   totalReport   `json:"totals"`
	Rates    rateReport    `json:"rates"`
	Gateway  gatewayReport `json:"gateway"`
	Events   []eventReport `json:"events"` // the last few, oldest first
}

type nodeReport struct {
	Address string         `json:"address"`
	State   string         `json:"state"` // joining, ready, lost, refused
	Reason  string         `json:"reason"`
	Aside   string         `json:"aside"` // why it is given nothing; empty when it may be used
	Version string         `json:"version"`
	Devices []deviceReport `json:"devices"`
	Check   *checkReport   `json:"check,omitempty"` // absent while it has said nothing
}

// checkReport is what a node knows of the bytes of its weights by having read them back.
type checkReport struct {
	Model      string `json:"model"`
	State      string `json:"state"`     // unverified, verified, damaged
	DoneBytes  uint64 `json:"doneBytes"` // of those that are read back now
	TotalBytes uint64 `json:"totalBytes"`
	Note       string `json:"note,omitempty"` // what is damaged and what to do, or why it stays unverified
}

type deviceReport struct {
	Index         uint32   `json:"index"`
	Kind          string   `json:"kind"`
	Name          string   `json:"name"`
	NumericsClass string   `json:"numericsClass"`
	MemoryBytes   uint64   `json:"memoryBytes"`
	Threads       uint32   `json:"threads"`
	NUMANodes     uint32   `json:"numaNodes"`   // of the machine; 0 is unknown
	OnNUMANodes   []uint32 `json:"onNumaNodes"` // those that the threads may run on

	Speed *deviceSpeedReport `json:"speed,omitempty"` // absent while nothing was measured
}

// planReport is the pipeline in force.
type planReport struct {
	Stages  []stageReport `json:"stages"`
	Context uint32        `json:"context"` // positions of a session
	Pages   uint32        `json:"pages"`   // of the KV cache, on every stage
	Slots   uint32        `json:"slots"`   // sessions at once
	Rows    uint32        `json:"rows"`    // of a step
}

type stageReport struct {
	Node          string `json:"node"`
	Device        uint32 `json:"device"`
	First         uint32 `json:"first"` // layers [first, end)
	End           uint32 `json:"end"`
	Embed         bool   `json:"embed"`
	Head          bool   `json:"head"`
	NumericsClass string `json:"numericsClass"`
}

// loadReport is how far the loading of a stage is.
type loadReport struct {
	Node       string  `json:"node"`
	Epoch      uint64  `json:"epoch"` // of the pipeline
	Pipeline   uint32  `json:"pipeline"`
	Stage      uint32  `json:"stage"`
	Phase      string  `json:"phase"`     // fetch, verify, load, failed
	DoneBytes  uint64  `json:"doneBytes"` // of the phase
	TotalBytes uint64  `json:"totalBytes"`
	Rate       float64 `json:"rate"`                 // bytes a second of late
	EtaSeconds float64 `json:"etaSeconds,omitempty"` // at that rate; absent while it is unknown
	Note       string  `json:"note,omitempty"`       // what it waits for, or why it failed
}

func loadReportOf(l *pb.LoadInfo) loadReport {
	r := loadReport{
		Node: l.GetNode(), Epoch: l.GetEpoch(), Pipeline: l.GetPipeline(), Stage: l.GetStage(), Phase: l.GetPhase(),
		DoneBytes: l.GetDoneBytes(), TotalBytes: l.GetTotalBytes(), Rate: l.GetRate(), Note: l.GetNote(),
	}
	if r.Rate > 0 && r.TotalBytes > r.DoneBytes {
		r.EtaSeconds = float64(r.TotalBytes-r.DoneBytes) / r.Rate
	}
	return r
}

type sessionReport struct {
	Running uint32 `json:"running"`
	Waiting uint32 `json:"waiting"`
}

// totalReport counts since the coordinator started.
type totalReport struct {
	Requests        uint64 `json:"requests"`
	PromptTokens    uint64 `json:"promptTokens"`
	GeneratedTokens uint64 `json:"generatedTokens"`
	Failed          uint64 `json:"failed"`
}

// rateReport is per second, over the last seconds.
type rateReport struct {
	Requests        float64 `json:"requests"`
	PromptTokens    float64 `json:"promptTokens"`
	GeneratedTokens float64 `json:"generatedTokens"`
}

// gatewayReport is about the gateway that answers.
type gatewayReport struct {
	Sockets   int64 `json:"sockets"`
	Resumable int   `json:"resumable"` // answers that may be resumed here
}

type eventReport struct {
	Number uint64 `json:"number"`
	TimeMs int64  `json:"timeMs"`
	Kind   string `json:"kind"`
	Node   string `json:"node"`
	Text   string `json:"text"`
}

// clusterReport serves GET /v1/cluster.
func (g *Gateway) clusterReport(w http.ResponseWriter, r *http.Request) {
	state, rates, err := g.cluster.within(r.Context(), boardAge)
	if err != nil {
		errNoCoordinator.write(w)
		return
	}
	writeJSON(w, http.StatusOK, g.reportOf(state, rates))
}

// report is the document as it is now, also while no coordinator answers.
func (g *Gateway) report(ctx context.Context) *clusterReport {
	state, rates, err := g.cluster.within(ctx, boardAge)
	if err != nil {
		state = &pb.ClusterResponse{Reason: "no coordinator answers"}
	}
	return g.reportOf(state, rates)
}

func (g *Gateway) reportOf(s *pb.ClusterResponse, rates rateReport) *clusterReport {
	t := s.GetTotals()
	r := &clusterReport{
		V: 1, TimeMs: time.Now().UnixMilli(), Cluster: s.GetCluster(), Coordinator: s.GetCoordinator(),
		Epoch: s.GetEpoch(), Ready: s.GetReady(), Reason: s.GetReason(),
		Nodes: map[string]nodeReport{}, Models: map[string]modelFacts{}, Plan: planReportOf(s.GetPipeline()),
		Pipelines: pipelineReports(s.GetPipelines()), Explanation: s.GetExplanation(), Links: linkReports(s.GetLinks()),
		Sessions: sessionReport{s.GetRunning(), s.GetWaiting()},
		Totals:   totalReport{t.GetRequests(), t.GetPromptTokens(), t.GetGeneratedTokens(), t.GetFailed()},
		Rates:    rates,
		Gateway:  gatewayReport{g.sockets.inside.Load(), g.shelf.size()},
		Events:   []eventReport{},
	}
	for _, spare := range s.GetSpares() {
		r.Spares = append(r.Spares, stageReportOf(spare))
	}
	for _, l := range s.GetLoads() {
		r.Loads = append(r.Loads, loadReportOf(l))
	}
	for _, n := range s.GetNodes() {
		r.Nodes[n.GetNode()] = nodeReportOf(n)
	}
	for _, m := range s.GetModels() {
		r.Models[m.GetName()] = cardOf(m).Shoal
	}
	for _, e := range s.GetEvents() {
		r.Events = append(r.Events, eventReport{e.GetNumber(), e.GetTimeMs(), e.GetKind(), e.GetNode(), e.GetText()})
	}
	return r
}

func nodeReportOf(n *pb.NodeInfo) nodeReport {
	r := nodeReport{
		Address: n.GetAddress(), State: n.GetState(), Reason: n.GetReason(), Aside: n.GetAside(), Version: n.GetVersion(),
		Devices: []deviceReport{},
	}
	if c := n.GetCheck(); c != nil {
		r.Check = &checkReport{c.GetModel(), c.GetState(), c.GetDoneBytes(), c.GetTotalBytes(), c.GetNote()}
	}
	for _, d := range n.GetDevices() {
		r.Devices = append(r.Devices, deviceReport{
			d.GetIndex(), d.GetKind(), d.GetName(), d.GetNumericsClass(), d.GetMemoryBytes(), d.GetThreads(),
			d.GetNumaNodes(), append([]uint32{}, d.GetOnNumaNodes()...), // never null
			deviceSpeedOf(n, d.GetIndex()),
		})
	}
	return r
}

func planReportOf(p *pb.Pipeline) *planReport {
	if p == nil {
		return nil
	}
	r := &planReport{Context: p.GetContext(), Pages: p.GetPages(), Slots: p.GetSlots(), Rows: p.GetRows(), Stages: []stageReport{}}
	for _, s := range p.GetStages() {
		r.Stages = append(r.Stages, stageReportOf(s))
	}
	return r
}

func stageReportOf(s *pb.Stage) stageReport {
	return stageReport{s.GetNode(), s.GetDevice(), s.GetFirst(), s.GetEnd(), s.GetEmbed(), s.GetHead(), s.GetNumericsClass()}
}

// boardFrame is a frame of /v1/cluster/stream: first a snapshot, then deltas
// whose seq grows by one. A watcher that is too slow gets a snapshot again.
type boardFrame struct {
	V       int            `json:"v"`
	Type    string         `json:"type"` // snapshot, delta
	Seq     uint64         `json:"seq"`
	Cluster map[string]any `json:"cluster,omitempty"` // of a snapshot: the document
	Patch   map[string]any `json:"patch,omitempty"`   // of a delta: a JSON Merge Patch (RFC 7396) to it
}

// board makes the document once for all watchers, and only while there are any.
type board struct {
	wakeup chan struct{} // holds a token after the first watcher came

	mu       sync.Mutex // guards following
	watchers map[*watcher]bool
	document map[string]any
	seq      uint64
}

// watcher is one socket that follows the board.
type watcher struct {
	frames chan []byte
	behind bool // frames were dropped: a snapshot is due; the board's lock guards it
}

func newBoard() *board {
	return &board{wakeup: make(chan struct{}, 1), watchers: map[*watcher]bool{}}
}

// Run publishes the document until ctx ends.
func (b *board) Run(ctx context.Context, report func(context.Context) *clusterReport) error {
	ticker := time.NewTicker(boardEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-b.wakeup:
		case <-ticker.C:
		}
		if b.watched() {
			b.publish(asObject(report(ctx)))
		}
	}
}

func (b *board) watched() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.watchers) > 0
}

func (b *board) watch() *watcher {
	w := &watcher{frames: make(chan []byte, boardQueue), behind: true}
	b.mu.Lock()
	b.watchers[w] = true
	b.mu.Unlock()
	signal(b.wakeup)
	return w
}

func (b *board) unwatch(w *watcher) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.watchers, w)
}

// publish gives every watcher what has changed, or everything. Encoding cannot
// fail: the document came from JSON.
func (b *board) publish(document map[string]any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	patch := mergePatch(b.document, document)
	b.document = document
	b.seq++
	delta, _ := json.Marshal(boardFrame{V: 1, Type: "delta", Seq: b.seq, Patch: patch})
	var snapshot []byte
	for w := range b.watchers {
		frame := delta
		if w.behind {
			if snapshot == nil {
				snapshot, _ = json.Marshal(boardFrame{V: 1, Type: "snapshot", Seq: b.seq, Cluster: document})
			}
			frame = snapshot
		}
		select {
		case w.frames <- frame:
			w.behind = false
		default:
			w.behind = true
		}
	}
}

// asObject turns a document into what its JSON says.
func asObject(doc *clusterReport) map[string]any {
	data, err := json.Marshal(doc)
	object := map[string]any{}
	if err == nil {
		err = json.Unmarshal(data, &object)
	}
	if err != nil {
		panic("gateway: the cluster report is no JSON object: " + err.Error())
	}
	return object
}

// mergePatch returns the JSON Merge Patch that turns from into to.
func mergePatch(from, to map[string]any) map[string]any {
	patch := map[string]any{}
	for name := range from {
		if _, ok := to[name]; !ok {
			patch[name] = nil
		}
	}
	for name, value := range to {
		old, had := from[name]
		if had && reflect.DeepEqual(old, value) {
			continue
		}
		before, wasObject := old.(map[string]any)
		after, isObject := value.(map[string]any)
		if wasObject && isObject {
			patch[name] = mergePatch(before, after)
		} else {
			patch[name] = value
		}
	}
	return patch
}

// clusterStream serves the WebSocket /v1/cluster/stream. It reads nothing but
// the close.
func (g *Gateway) clusterStream(w http.ResponseWriter, r *http.Request) {
	offered := slices.DeleteFunc(offeredProtocols(r), func(p string) bool { return p != richProtocol })
	if len(offered) == 0 && len(offeredProtocols(r)) > 0 {
		p := &problem{code: codeInvalid, param: "Sec-WebSocket-Protocol", message: "None of the offered subprotocols is known; this address speaks " + richProtocol + "."}
		p.write(w)
		return
	}
	if g.isDraining() {
		errDraining.write(w)
		return
	}
	g.socket(w, r, richProtocol, g.showBoard)
}

func (g *Gateway) showBoard(ctx context.Context, conn *websocket.Conn, _ *line) {
	ctx, cancel := context.WithCancel(conn.CloseRead(ctx))
	defer cancel()
	me := g.board.watch()
	defer g.board.unwatch(me)
	for {
		select {
		case <-ctx.Done():
			return
		case <-g.draining.done:
			conn.Close(websocket.StatusGoingAway, drainText)
			return
		case frame := <-me.frames:
			write, done := context.WithTimeout(ctx, g.config.Limits.WriteTimeout)
			err := conn.Write(write, websocket.MessageText, frame)
			done()
			if err != nil {
				return
			}
		}
	}
}

// meter makes rates of totals.
type meter struct{ samples []reading }

type reading struct {
	at     time.Time
	totals *pb.Totals
}

// meterSpan is the time over which rates are measured.
const meterSpan = 5 * time.Second

// add notes totals. A coordinator that started anew starts the meter anew.
func (m *meter) add(at time.Time, t *pb.Totals) {
	if n := len(m.samples); n > 0 && t.GetRequests() < m.samples[n-1].totals.GetRequests() {
		m.samples = nil
	}
	m.samples = append(m.samples, reading{at, t})
	for len(m.samples) > 2 && at.Sub(m.samples[1].at) >= meterSpan {
		m.samples = m.samples[1:]
	}
}

func (m *meter) rates() rateReport {
	if len(m.samples) < 2 {
		return rateReport{}
	}
	first, last := m.samples[0], m.samples[len(m.samples)-1]
	seconds := last.at.Sub(first.at).Seconds()
	if seconds <= 0 {
		return rateReport{}
	}
	per := func(of func(*pb.Totals) uint64) float64 {
		return float64(of(last.totals)-of(first.totals)) / seconds
	}
	return rateReport{per((*pb.Totals).GetRequests), per((*pb.Totals).GetPromptTokens), per((*pb.Totals).GetGeneratedTokens)}
}
