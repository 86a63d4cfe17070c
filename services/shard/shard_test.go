package shard

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/shoal-llm/shoal/internal/pki"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// generate drives sessions to their ends, and returns when all slots are free
// again.
func generate(t *testing.T, drive pb.ShardService_DriveClient, results pb.ShardService_ResultsClient, answers []*answer) {
	t.Helper()
	for slot, a := range answers {
		if err := drive.Send(a.submit(slot)); err != nil {
			t.Fatal(err)
		}
	}
	unfinished := len(answers)
	for unfinished > 0 {
		m, err := results.Recv()
		if err != nil {
			t.Fatalf("results: %v", err)
		}
		for _, s := range m.Result.Sampled {
			a := answers[s.Slot]
			a.got = append(a.got, s.Ids...)
			if s.Finish != 0 {
				unfinished--
			}
			if err := drive.Send(commit(int(s.Slot), len(a.prompt)+len(a.got))); err != nil {
				t.Fatal(err)
			}
		}
	}
	for closed := 0; closed < len(answers); {
		m, err := drive.Recv()
		if err != nil {
			t.Fatalf("drive: %v", err)
		}
		if c := m.GetClosed(); c != nil {
			closed++
			if c.Reason != "finished" {
				t.Errorf("session of slot %d closed: %v", c.Slot, c)
			}
		}
	}
}

// TestSessionsOverShards: over real mTLS connections, sessions on one, two and
// three shards, and two stages on one node, get the answers they get alone.
func TestSessionsOverShards(t *testing.T) {
	for name, layout := range map[string][]int{
		"one": {0}, "two": {0, 1}, "three": {0, 1, 2}, "one node twice": {0, 0}, "there and back": {0, 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, slices.Max(layout)+1)
			var nodes []*node
			for _, i := range layout {
				nodes = append(nodes, b.nodes[i])
			}
			boss := b.boss("boss")
			p := b.plan(7, nodes...)
			boss.install(p, b.nodes...)
			drive, results := boss.streams(p, nodes[0], nodes[len(nodes)-1])
			answers := newAnswers(8)
			generate(t, drive, results, answers)
			for i, a := range answers {
				if want := alone(a.seed, a.prompt, a.most); !slices.Equal(a.got, want) {
					t.Errorf("session %d got %v, alone %v", i, a.got, want)
				}
			}
		})
	}
}

// TestLostShard: whichever shard of three goes away while sessions run, the
// coordinator hears of it on every stream it has, within two seconds.
func TestLostShard(t *testing.T) {
	for i := range 6 {
		lost, how := i/2, []string{"stopped", "killed"}[i%2]
		t.Run(fmt.Sprint("stage ", lost, " ", how), func(t *testing.T) {
			b := newBench(t, 3)
			boss := b.boss("boss")
			p := b.plan(1, b.nodes...)
			boss.install(p, b.nodes...)
			drive, results := boss.streams(p, b.nodes[0], b.nodes[2])
			a := &answer{prompt: []int32{1, 2, 3}, seed: 5, most: 200}
			if err := drive.Send(a.submit(0)); err != nil {
				t.Fatal(err)
			}
			if _, err := results.Recv(); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			if how == "killed" {
				b.nodes[lost].sever()
			} else {
				b.nodes[lost].kill()
			}
			reason := faultOf(drive)
			for {
				if _, err := results.Recv(); err != nil {
					break
				}
			}
			if d := time.Since(began); d > 2*time.Second {
				t.Errorf("heard after %v", d)
			}
			if lost > 0 && !strings.Contains(reason, "lost") {
				t.Errorf("fault says %q", reason)
			}
		})
	}
}

// faultOf receives until the stream has ended and returns why.
func faultOf(drive pb.ShardService_DriveClient) string {
	reason := ""
	for {
		m, err := drive.Recv()
		if err != nil {
			if reason == "" {
				reason = status.Convert(err).Message()
			}
			return reason
		}
		if f := m.GetFaulted(); f != nil {
			reason = f.Reason
		}
	}
}

// TestDeviceFailure ends the pipeline with the device's own words.
func TestDeviceFailure(t *testing.T) {
	b := newBench(t, 2)
	boss := b.boss("boss")
	p := b.plan(1, b.nodes...)
	boss.install(p, b.nodes...)
	drive, _ := boss.streams(p, b.nodes[0], b.nodes[1])
	b.nodes[1].backend.fail.Store(true)
	if err := drive.Send(newAnswers(1)[0].submit(0)); err != nil {
		t.Fatal(err)
	}
	if reason := faultOf(drive); !strings.Contains(reason, "the device is gone") {
		t.Errorf("fault says %q", reason)
	}
}

// TestLastWord: a shard that is stopped says so to its coordinator; one that fails
// does not, for a request may be the cause.
func TestLastWord(t *testing.T) {
	for name, stopped := range map[string]bool{"stopped": true, "failed": false} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, 1)
			boss := b.boss("boss")
			p := b.plan(1, b.nodes[0])
			boss.install(p, b.nodes[0])
			drive, _ := boss.streams(p, b.nodes[0], b.nodes[0])
			if stopped {
				go b.nodes[0].kill()
			} else {
				b.nodes[0].backend.lost.Store(true)
				if err := drive.Send(newAnswers(1)[0].submit(0)); err != nil {
					t.Fatal(err)
				}
			}
			said := false
			for {
				m, err := boss.controls[b.nodes[0].id].Recv()
				if err != nil {
					break
				}
				said = said || m.GetLeaving().GetReason() == "the shard is stopping"
			}
			if said != stopped {
				t.Errorf("it says that it leaves: %v", said)
			}
		})
	}
}

// TestHaltAndDeadline: a stopped session and one whose time is up are closed
// with the reason, while the device still works on them.
func TestHaltAndDeadline(t *testing.T) {
	b := newBench(t, 1)
	boss := b.boss("boss")
	p := b.plan(1, b.nodes...)
	boss.install(p, b.nodes...)
	drive, _ := boss.streams(p, b.nodes[0], b.nodes[0])
	b.nodes[0].backend.hold()
	late := newAnswers(2)[1].submit(1)
	late.GetSubmit().Open.DeadlineMs = time.Now().Add(20 * time.Millisecond).UnixMilli()
	halt := &pb.DriveRequest{Message: &pb.DriveRequest_Halt{Halt: &pb.Halt{Slot: 0, Attempt: 1}}}
	bad := newAnswers(1)[0].submit(2)
	bad.GetSubmit().Tokens = []int32{fakeVocab}
	for _, m := range []*pb.DriveRequest{newAnswers(1)[0].submit(0), late, bad, halt} {
		if err := drive.Send(m); err != nil {
			t.Fatal(err)
		}
	}
	want := map[uint32]string{0: "halted", 1: "deadline", 2: "refused"}
	for len(want) > 0 {
		m, err := drive.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if c := m.GetClosed(); c != nil {
			if want[c.Slot] != c.Reason {
				t.Errorf("slot %d closed: %q, want %q", c.Slot, c.Reason, want[c.Slot])
			}
			delete(want, c.Slot)
			if c.Slot == 2 { // without commits, nobody gets to an end of its own
				b.nodes[0].backend.resume()
			}
		}
	}
}

func wantCode(t *testing.T, what string, err error, code codes.Code, words string) {
	t.Helper()
	if status.Code(err) != code || !strings.Contains(fmt.Sprint(err), words) {
		t.Errorf("%s: %v, want %v with %q", what, err, code, words)
	}
}

// TestWhoMayCall: no certificate, another cluster's, and the wrong role are
// refused, and so are peers that cannot work together.
func TestWhoMayCall(t *testing.T) {
	b := newBench(t, 1)
	n := b.nodes[0]
	hello := func(id *pki.Identity) *pb.HelloRequest {
		return &pb.HelloRequest{ProtocolMin: 1, ProtocolMax: 1, Cluster: id.ClusterID(), Node: id.NodeID()}
	}

	conn, err := grpc.NewClient("passthrough:///"+n.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	boss := b.identity("boss", pki.Coordinator)
	_, err = pb.NewShardServiceClient(conn).Hello(b.ctx, hello(boss))
	wantCode(t, "plain text", err, codes.Unavailable, "")

	stranger, err := pki.New(pki.NewSecret(), pki.Node{ID: "stranger", Roles: []pki.Role{pki.Coordinator}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.dial(stranger, n).Hello(b.ctx, hello(stranger))
	wantCode(t, "another cluster", err, codes.Unavailable, "")

	gateway := b.identity("gate", pki.Gateway)
	_, err = b.dial(gateway, n).Hello(b.ctx, hello(gateway))
	wantCode(t, "a gateway's hello", err, codes.PermissionDenied, "may not call")
	peer := b.identity("peer", pki.Shard)
	control, err := b.dial(peer, n).Control(b.ctx)
	if err == nil {
		_, err = control.Recv()
	}
	wantCode(t, "a shard's control", err, codes.PermissionDenied, "may not call")

	client := b.dial(boss, n)
	h, err := client.Hello(b.ctx, hello(boss))
	if err != nil || h.Protocol != 1 || h.Node != n.id || h.KernelSet != "k1" || len(h.Devices) != 1 || h.Devices[0].Kind != "fake" {
		t.Fatalf("hello: %v, %v", h, err)
	}
	if d := h.GetDevices()[0]; d.NumaNodes != 2 || !slices.Equal(d.OnNumaNodes, []uint32{1}) {
		t.Errorf("memory nodes of %v", d)
	}
	for what, c := range map[string]struct {
		change func(*pb.HelloRequest)
		words  string
	}{
		"protocol": {func(r *pb.HelloRequest) { r.ProtocolMin, r.ProtocolMax = 2, 3 }, "protocol 2 to 3"},
		"cluster":  {func(r *pb.HelloRequest) { r.Cluster = "other" }, `cluster "other"`},
		"name":     {func(r *pb.HelloRequest) { r.Node = "other" }, "has the certificate of"},
	} {
		r := hello(boss)
		c.change(r)
		_, err := client.Hello(b.ctx, r)
		wantCode(t, what, err, codes.FailedPrecondition, c.words)
	}
}

// TestPlansRefused: what a shard says to coordinators and plans it cannot obey.
func TestPlansRefused(t *testing.T) {
	b := newBench(t, 1)
	n := b.nodes[0]
	refusal := func(c pb.ShardService_ControlClient) string {
		t.Helper()
		for {
			m, err := c.Recv()
			if err != nil {
				t.Fatalf("no refusal: %v", err)
			}
			if r := m.GetRefused(); r != nil {
				return r.Reason
			}
		}
	}
	boss := b.boss("boss")
	boss.install(b.plan(5, n), n)
	if r := refusal(b.boss("rival").lease(n)); !strings.Contains(r, "coordinator boss holds the lease") {
		t.Errorf("a rival hears %q", r)
	}
	for name, c := range map[string]struct {
		change func(*pb.Plan)
		words  string
	}{
		"lower epoch": {func(p *pb.Plan) { p.Epoch = 4 }, "epoch 4 is over"},
		"same epoch":  {func(p *pb.Plan) { p.Epoch, p.Pipelines[0].Slots = 5, 1 }, "epoch 5 is that of another plan"},
		"gap":         {func(p *pb.Plan) { p.Pipelines[0].Stages[0].First = 1 }, "begins with layer 1"},
		"short":       {func(p *pb.Plan) { p.Pipelines[0].Stages[0].End, p.Pipelines[0].Stages[0].Head = 5, false }, "layers from 5 on are missing"},
		"too long":    {func(p *pb.Plan) { p.Pipelines[0].Stages[0].End = 7 }, "layers [0, 7) of 6"},
		"overlap":     {func(p *pb.Plan) { p.Pipelines[0].Stages = append(p.Pipelines[0].Stages, p.Pipelines[0].Stages[0]) }, "expected 6"},
		"twice":       {func(p *pb.Plan) { p.Pipelines = append(p.Pipelines, p.Pipelines[0]) }, "is there twice"},
		"device":      {func(p *pb.Plan) { p.Pipelines[0].Stages[0].Device = 9 }, "device 9 of 1"},
		"slots":       {func(p *pb.Plan) { p.Pipelines[0].Slots = 1 << 20 }, "slots"},
		"author":      {func(p *pb.Plan) { p.Coordinator = "rival" }, `of coordinator "rival"`},
	} {
		t.Run(name, func(t *testing.T) {
			boss.lease(n) // the refusal has ended the stream
			p := b.plan(6, n)
			c.change(p)
			boss.send(n, p)
			if r := refusal(boss.controls[n.id]); !strings.Contains(r, c.words) {
				t.Errorf("refused with %q, want %q", r, c.words)
			}
		})
	}
	boss.lease(n)
	epoch := uint64(100)
	for name, c := range map[string]struct {
		change func(*pb.Plan)
		words  string
	}{
		"no model":      {func(p *pb.Plan) { p.Model.Name = "other" }, "no such model"},
		"another model": {func(p *pb.Plan) { p.Model.Digest[0] = 9 }, "another file than the coordinator's"},
	} {
		epoch++
		p := b.plan(epoch, n)
		c.change(p)
		boss.send(n, p)
		if why := boss.failure(n, p.Epoch); !strings.Contains(why, c.words) {
			t.Errorf("%s: failed with %q, want %q", name, why, c.words)
		}
	}
}

// failure waits until a stage of the plan has failed.
func (b *boss) failure(n *node, epoch uint64) string {
	b.t.Helper()
	for {
		m, err := b.controls[n.id].Recv()
		if err != nil {
			b.t.Fatal(err)
		}
		if st := m.GetStage(); st.GetEpoch() == epoch && st.GetState() == pb.LoadState_LOAD_STATE_FAILED {
			return st.Error
		}
	}
}

// TestNewPlanEndsOld: streams of the old epoch end, and its number opens nothing
// any more.
func TestNewPlanEndsOld(t *testing.T) {
	b := newBench(t, 2)
	boss := b.boss("boss")
	old := b.plan(1, b.nodes...)
	boss.install(old, b.nodes...)
	drive, _ := boss.streams(old, b.nodes[0], b.nodes[1])
	p := b.plan(2, b.nodes...)
	boss.install(p, b.nodes...)
	if reason := faultOf(drive); !strings.Contains(reason, "epoch 1") && !strings.Contains(reason, "epoch 2 replaced") {
		t.Errorf("the old driver said %q", reason)
	}
	results, err := b.dial(boss.identity, b.nodes[1]).Results(b.ctx, &pb.ResultsRequest{Epoch: 1, Pipeline: 4})
	if err == nil {
		_, err = results.Recv()
	}
	wantCode(t, "results of an old epoch", err, codes.FailedPrecondition, "epoch 1 is over")

	answers := newAnswers(2)
	d, r := boss.streams(p, b.nodes[0], b.nodes[1])
	generate(t, d, r, answers)
	if want := alone(answers[1].seed, answers[1].prompt, answers[1].most); !slices.Equal(answers[1].got, want) {
		t.Errorf("on the new plan: %v, alone %v", answers[1].got, want)
	}
}

// TestKernelSets: a hop refuses a neighbour with other kernels by name.
func TestKernelSets(t *testing.T) {
	b := newBench(t, 1)
	b.nodes = append(b.nodes, b.start("odd", "k2"))
	boss := b.boss("boss")
	p := b.plan(1, b.nodes...)
	boss.install(p, b.nodes...)
	drive, _ := boss.streams(p, b.nodes[0], b.nodes[1])
	if reason := faultOf(drive); !strings.Contains(reason, `kernel set "k2"`) {
		t.Errorf("fault says %q", reason)
	}
}

// TestBeat: every heartbeat is answered with its number.
func TestBeat(t *testing.T) {
	b := newBench(t, 1)
	ctx, cancel := context.WithCancel(b.ctx)
	defer cancel()
	stream, err := b.dial(b.identity("boss", pki.Coordinator), b.nodes[0]).Beat(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for n := uint64(1); n < 4; n++ {
		if err := stream.Send(&pb.BeatRequest{Sequence: n}); err != nil {
			t.Fatal(err)
		}
		if m, err := stream.Recv(); err != nil || m.Sequence != n {
			t.Errorf("beat %d: %v, %v", n, m, err)
		}
	}
}
