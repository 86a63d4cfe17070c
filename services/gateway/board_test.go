package gateway

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/google/go-cmp/cmp"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

func clusterState() *pb.ClusterResponse {
	return &pb.ClusterResponse{
		Cluster: "c1", Coordinator: "ada", Epoch: 257, Ready: true, Running: 2, Waiting: 1,
		Models: []*pb.ModelInfo{{Name: "tiny", State: "ready", Precision: "int8", Context: 2048, Layers: 8, Parameters: 7, Stages: []string{"ada/0 [0..8) embed head"}}},
		Nodes: []*pb.NodeInfo{
			{Node: "ada", Address: "10.0.0.1:7700", State: "ready", Version: "1", Devices: []*pb.Device{{Kind: "cpu", Name: "a cpu", MemoryBytes: 1 << 30, Threads: 2, NumaNodes: 2, OnNumaNodes: []uint32{1}}},
				Speeds: []*pb.DeviceSpeed{{PassSeconds: .1, TurnSeconds: .2, Bandwidth: 3e9, Shapes: []*pb.ShapeSpeed{{Shape: "layer", Fixed: .4, Row: .5, Key: .6}}}}},
			{Node: "bob", State: "lost", Reason: "gone", Aside: "drained"},
		},
		Pipeline: &pb.Pipeline{Context: 2048, Pages: 64, Slots: 4, Rows: 256, Stages: []*pb.Stage{{Node: "ada", End: 8, Embed: true, Head: true, NumericsClass: "f32"}}},
		Pipelines: []*pb.PipelineInfo{
			{
				Pipeline: &pb.Pipeline{Id: 1, Epoch: 256, Context: 2048, Stages: []*pb.Stage{{Node: "ada", End: 8}}}, State: "ready",
				Running: 2, FreePages: 60, Fingerprint: "f00d", Speed: &pb.PipelineSpeed{
					Token: .01, TokenMeasured: .02, FirstToken: .5, Prompt: 512, Back: .001, Rate: 200, Streams: 8,
					Stages: []*pb.StageSpeed{{Decode: .01, DecodeMeasured: .02, Prefill: .2, Hop: .003, Bytes: 10, BytesMeasured: 12, WeightBytes: 6, PageBytes: 2, Assumed: true}},
				},
				Memory: []*pb.StageMemory{
					{Measured: true, Weights: 3 << 20, Caches: 1 << 20, Buffers: 2 << 20, Halves: 8 << 20},
					{Gpu: true, Weights: 1 << 20, Caches: 1 << 20, Halves: 4 << 20},
				},
			},
			{Pipeline: &pb.Pipeline{Id: 2}, State: "loading"},
		},
		Spares:      []*pb.Stage{{Node: "bob", First: 4, End: 8}},
		Links:       []*pb.LinkSpeed{{From: "ada", To: "bob", DelaySeconds: .001, Rate: 1e8}, {From: "bob", To: "ada", DelaySeconds: .002, Rate: 2e8}},
		Explanation: "One machine is fastest.",
		Loads: []*pb.LoadInfo{
			{Node: "ada", Epoch: 256, Pipeline: 2, Phase: "fetch", DoneBytes: 25, TotalBytes: 100, Rate: 25},
			{Node: "bob", Epoch: 256, Pipeline: 2, Stage: 1, Phase: "failed", Note: "no room"},
		},

		Totals: &pb.Totals{Requests: 10, PromptTokens: 100, GeneratedTokens: 1000, Failed: 1},
		Events: []*pb.ClusterEvent{{Number: 1, TimeMs: 5, Kind: "node_joined", Node: "ada"}},
	}
}

// The schema is a promise: this is every member of it.
func TestClusterReport(t *testing.T) {
	f := serve(t)
	f.report(t, clusterState())
	var got frame
	for deadline := time.Now().Add(patience); got["cluster"] != "c1"; time.Sleep(10 * time.Millisecond) {
		status, _, body := f.do(t, "GET", "/v1/cluster", "")
		if status != 200 || time.Now().After(deadline) {
			t.Fatalf("status %d, %s", status, body)
		}
		got = nil
		if err := json.Unmarshal([]byte(body), &got); err != nil {
			t.Fatal(err)
		}
	}
	if ms := got["timeMs"].(float64); ms < 1e12 {
		t.Errorf("timeMs %v", ms)
	}
	delete(got, "timeMs")
	delete(got, "rates")
	want := frame{
		"v": 1., "cluster": "c1", "coordinator": "ada", "epoch": 257., "ready": true, "reason": "",
		"nodes": map[string]any{
			"ada": map[string]any{"address": "10.0.0.1:7700", "state": "ready", "reason": "", "aside": "", "version": "1", "devices": []any{
				map[string]any{"index": 0., "kind": "cpu", "name": "a cpu", "numericsClass": "", "memoryBytes": float64(1 << 30), "threads": 2.,
					"numaNodes": 2., "onNumaNodes": []any{1.},
					"speed": map[string]any{"passSeconds": .1, "turnSeconds": .2, "bytesPerSecond": 3e9, "shapes": map[string]any{
						"layer": map[string]any{"fixedSeconds": .4, "rowSeconds": .5, "keySeconds": .6},
					}}},
			}},
			"bob": map[string]any{"address": "", "state": "lost", "reason": "gone", "aside": "drained", "version": "", "devices": []any{}},
		},
		"models": map[string]any{"tiny": map[string]any{
			"state": "ready", "precision": "int8", "context": 2048., "layers": 8., "stages": []any{"ada/0 [0..8) embed head"},
			"fingerprint": "", "architecture": "", "tensor_types": map[string]any{}, "parameters": 7., "aliases": []any{}, "picture_rows": 0.,
		}},
		"plan": map[string]any{"context": 2048., "pages": 64., "slots": 4., "rows": 256., "stages": []any{
			map[string]any{"node": "ada", "device": 0., "first": 0., "end": 8., "embed": true, "head": true, "numericsClass": "f32"},
		}},
		"pipelines": []any{
			map[string]any{
				"id": 1., "epoch": 256., "state": "ready", "running": 2., "freePages": 60., "fingerprint": "f00d",
				"plan": map[string]any{"context": 2048., "pages": 0., "slots": 0., "rows": 0., "stages": []any{
					map[string]any{"node": "ada", "device": 0., "first": 0., "end": 8., "embed": false, "head": false, "numericsClass": ""},
				}},
				"speed": map[string]any{
					"tokenSeconds": .01, "tokenSecondsMeasured": .02, "firstTokenSeconds": .5, "promptTokens": 512., "backSeconds": .001,
					"tokensPerSecond": 200., "streams": 8., "stages": []any{map[string]any{
						"decodeSeconds": .01, "decodeSecondsMeasured": .02, "prefillSeconds": .2, "hopSeconds": .003,
						"bytes": 10., "bytesMeasured": 12., "weightBytes": 6., "pageBytes": 2., "assumed": true,
					}},
				},
				"memory": map[string]any{
					"peakWebGPUBufferMB": 2., "peakCPUBufferMB": 6., "kvCacheMB": 2., "modelWeightsMB": 4., "totalEstimatedMB": 8., "originalFP16MB": 12., "memoryReductionPercent": 50.,
					"stages": []any{
						map[string]any{"peakWebGPUBufferMB": 0., "peakCPUBufferMB": 6., "kvCacheMB": 1., "modelWeightsMB": 3., "totalEstimatedMB": 6., "originalFP16MB": 8., "memoryReductionPercent": 50., "measured": true},
						map[string]any{"peakWebGPUBufferMB": 2., "peakCPUBufferMB": 0., "kvCacheMB": 1., "modelWeightsMB": 1., "totalEstimatedMB": 2., "originalFP16MB": 4., "memoryReductionPercent": 50., "measured": false},
					},
				},
			},
			map[string]any{
				"id": 2., "epoch": 0., "state": "loading", "running": 0., "freePages": 0., "fingerprint": "",
				"plan": map[string]any{"context": 0., "pages": 0., "slots": 0., "rows": 0., "stages": []any{}},
			},
		},
		"spares": []any{map[string]any{"node": "bob", "device": 0., "first": 4., "end": 8., "embed": false, "head": false, "numericsClass": ""}},
		"links": map[string]any{
			"ada": map[string]any{"bob": map[string]any{"delaySeconds": .001, "bytesPerSecond": 1e8}},
			"bob": map[string]any{"ada": map[string]any{"delaySeconds": .002, "bytesPerSecond": 2e8}},
		},
		"explanation": "One machine is fastest.",
		"loads": []any{
			map[string]any{"node": "ada", "epoch": 256., "pipeline": 2., "stage": 0., "phase": "fetch", "doneBytes": 25., "totalBytes": 100., "rate": 25., "etaSeconds": 3.},
			map[string]any{"node": "bob", "epoch": 256., "pipeline": 2., "stage": 1., "phase": "failed", "doneBytes": 0., "totalBytes": 0., "rate": 0., "note": "no room"},
		},
		"sessions": map[string]any{"running": 2., "waiting": 1.},
		"totals":   map[string]any{"requests": 10., "promptTokens": 100., "generatedTokens": 1000., "failed": 1.},
		"gateway":  map[string]any{"sockets": 0., "resumable": 0.},
		"events":   []any{map[string]any{"number": 1., "timeMs": 5., "kind": "node_joined", "node": "ada", "text": ""}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Snapshot and deltas together are the document.
func TestClusterStream(t *testing.T) {
	t.Parallel()
	f := serve(t)
	conn, _, err := websocket.Dial(t.Context(), f.url+"/v1/cluster/stream", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.CloseNow() })
	p := &pageSocket{t, conn}
	first := p.read()
	if first["type"] != "snapshot" || first["v"] != 1. {
		t.Fatalf("the first frame is %v", first)
	}
	document, seq := first["cluster"].(map[string]any), first["seq"].(float64)
	f.report(t, clusterState())
	for end := time.Now().Add(patience); document["cluster"] != "c1"; {
		got := p.read()
		seq++
		if got["type"] != "delta" || got["seq"] != seq || time.Now().After(end) {
			t.Fatalf("got %v, want delta %v", got, seq)
		}
		document = applyPatch(document, got["patch"].(map[string]any))
	}
	want := asObject(f.reportOf(clusterState(), rateReport{}))
	for _, name := range []string{"timeMs", "rates", "gateway"} {
		delete(want, name)
		delete(document, name)
	}
	if diff := cmp.Diff(want, document); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	f.stop()
	p.wantClose(websocket.StatusGoingAway)
}

// applyPatch is RFC 7396, section 2.
func applyPatch(target map[string]any, patch map[string]any) map[string]any {
	out := map[string]any{}
	for k, v := range target {
		out[k] = v
	}
	for k, v := range patch {
		inner, ok := v.(map[string]any)
		switch {
		case v == nil:
			delete(out, k)
		case ok:
			before, _ := out[k].(map[string]any)
			out[k] = applyPatch(before, inner)
		default:
			out[k] = v
		}
	}
	return out
}

// A patch turns one document into the other, whatever they are.
func TestMergePatch(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	var object func(depth int) map[string]any
	object = func(depth int) map[string]any {
		o := map[string]any{}
		for range rng.IntN(5) {
			name := fmt.Sprint("k", rng.IntN(4))
			switch n := rng.IntN(4); {
			case n == 0 && depth > 0:
				o[name] = object(depth - 1)
			case n == 1:
				o[name] = []any{float64(rng.IntN(2))}
			default:
				o[name] = float64(rng.IntN(3))
			}
		}
		return o
	}
	for range 2000 {
		from, to := object(3), object(3)
		if diff := cmp.Diff(to, applyPatch(from, mergePatch(from, to))); diff != "" {
			t.Fatalf("from %v to %v by %v (-want +got):\n%s", from, to, mergePatch(from, to), diff)
		}
		if p := mergePatch(to, to); len(p) != 0 {
			t.Fatalf("nothing changed, but the patch is %v", p)
		}
	}
}

// A watcher that is behind gets a snapshot, and then deltas again.
func TestBoardResyncs(t *testing.T) {
	b := newBoard()
	w := b.watch()
	for i := range boardQueue + 3 {
		b.publish(map[string]any{"n": float64(i)})
	}
	kind := func() (string, uint64) {
		var f boardFrame
		if err := json.Unmarshal(<-w.frames, &f); err != nil {
			t.Fatal(err)
		}
		return f.Type, f.Seq
	}
	for i := range boardQueue {
		want := "delta"
		if i == 0 {
			want = "snapshot"
		}
		if got, seq := kind(); got != want || seq != uint64(i+1) {
			t.Errorf("frame %d is %s %d", i, got, seq)
		}
	}
	b.publish(map[string]any{"n": 100.})
	if got, seq := kind(); got != "snapshot" || seq != boardQueue+4 {
		t.Errorf("after frames were dropped: %s %d", got, seq)
	}
	b.publish(map[string]any{"n": 101.})
	if got, seq := kind(); got != "delta" || seq != boardQueue+5 {
		t.Errorf("then: %s %d", got, seq)
	}
	b.unwatch(w)
	if b.watched() {
		t.Error("still watched")
	}
}

func TestMeter(t *testing.T) {
	var m meter
	at := time.Unix(0, 0)
	for i := range uint64(20) { // two requests and ten tokens a second
		m.add(at.Add(time.Duration(i)*time.Second), &pb.Totals{Requests: 2 * i, GeneratedTokens: 10 * i, PromptTokens: 100 * i})
	}
	if diff := cmp.Diff(rateReport{2, 100, 10}, m.rates()); diff != "" {
		t.Error(diff)
	}
	if len(m.samples) > 8 {
		t.Errorf("%d samples are kept", len(m.samples))
	}
	m.add(at.Add(21*time.Second), &pb.Totals{Requests: 1})
	if m.rates() != (rateReport{}) {
		t.Errorf("after a new start: %v", m.rates())
	}
}
