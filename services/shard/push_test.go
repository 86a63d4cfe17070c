package shard

import (
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/shoal-llm/shoal/internal/pki"
	"github.com/shoal-llm/shoal/internal/wire"
	"github.com/shoal-llm/shoal/pkg/frame"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// push opens a Push stream to stage 1 as the node before it.
func push(b *bench, as *pki.Identity, n *node, epoch uint64) pb.ShardService_PushClient {
	ctx := metadata.AppendToOutgoingContext(b.ctx, keyEpoch, fmt.Sprint(epoch), keyPipeline, "4", keyStage, "1")
	stream, err := b.dial(as, n).Push(ctx)
	if err != nil {
		b.t.Fatal(err)
	}
	return stream
}

// step makes the frame of a step for stage 1: one row of one session.
func step(n uint64) *frame.Frame {
	f := &frame.Frame{Epoch: 3, Pipeline: 4, Step: n, DType: frame.DTypeF32}
	if n == 1 {
		f.Ops = []frame.Op{{Open: &frame.Open{Attempt: 1}}}
	}
	f.Spans = []frame.Span{{Attempt: 1, Start: int32(n - 1), Tokens: []int32{2}}}
	f.Rows = row(nil, 0, int32(n-1), 2)
	return f
}

// pushBench is a bench whose stage 0 is the test itself.
func pushBench(t *testing.T) (*bench, *pki.Identity, *boss) {
	b := newBench(t, 1)
	boss := b.boss("boss")
	me := &node{id: "before", addr: "127.0.0.1:1"}
	boss.install(b.plan(3, me, b.nodes[0]), b.nodes[0])
	return b, b.identity("before", pki.Shard), boss
}

// TestFrameLog: a repeat is dropped, a gap asks for a replay, and nothing is
// computed twice or skipped.
func TestFrameLog(t *testing.T) {
	b, me, boss := pushBench(t)
	results, err := b.dial(boss.identity, b.nodes[0]).Results(b.ctx, &pb.ResultsRequest{Epoch: 3, Pipeline: 4})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := results.Header(); err != nil {
		t.Fatal(err)
	}
	stream := push(b, me, b.nodes[0], 3)
	send := func(steps ...uint64) {
		for _, n := range steps {
			if err := stream.SendMsg(&wire.Push{Frame: step(n)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	send(1, 1, 2, 1, 5, 6)
	for {
		m, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if m.ReplayFrom != 0 {
			if m.ReplayFrom != 3 || m.TakenStep != 2 {
				t.Errorf("after steps 1, 2 and 5: %v", m)
			}
			break
		}
	}
	send(3, 4, 5, 6)
	for want := uint64(1); want <= 6; want++ {
		m, err := results.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if m.Result.Step != want {
			t.Errorf("result of step %d, expected %d", m.Result.Step, want)
		}
	}
}

// TestPushRefused: frames of a lower epoch, of a stranger, and with the wrong
// activations.
func TestPushRefused(t *testing.T) {
	b, me, _ := pushBench(t)
	_, err := push(b, me, b.nodes[0], 2).Recv()
	wantCode(t, "lower epoch", err, codes.FailedPrecondition, "epoch 2 is over")
	_, err = push(b, me, b.nodes[0], 99).Recv()
	wantCode(t, "forged epoch", err, codes.FailedPrecondition, "epoch 99 is unknown")
	_, err = push(b, b.identity("other", pki.Shard), b.nodes[0], 3).Recv()
	wantCode(t, "another node", err, codes.PermissionDenied, "from node before only")

	stream := push(b, me, b.nodes[0], 3)
	f := step(1)
	f.Rows = f.Rows[:len(f.Rows)-4]
	if err := stream.SendMsg(&wire.Push{Frame: f}); err != nil {
		t.Fatal(err)
	}
	for err = nil; err == nil; {
		_, err = stream.Recv()
	}
	wantCode(t, "short activations", err, codes.InvalidArgument, "bytes of activations")
}

// TestBackPressure: while the device stands still, a stage takes what it may
// hold and no more.
func TestBackPressure(t *testing.T) {
	b, me, _ := pushBench(t)
	b.nodes[0].backend.hold()
	stream := push(b, me, b.nodes[0], 3)
	const frames = 8 * takenEvery
	for n := uint64(1); n <= frames; n++ {
		if err := stream.SendMsg(&wire.Push{Frame: step(n)}); err != nil {
			t.Fatal(err)
		}
	}
	most := uint64(frame.MaxPending + 4) // in the queue, and on the device
	taken := uint64(0)
	for taken < most {
		m, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if taken = m.TakenStep; taken > most {
			t.Errorf("%d frames taken", taken)
		}
	}
	b.nodes[0].backend.resume()
	for taken < frames {
		m, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		taken = m.TakenStep
	}
}
