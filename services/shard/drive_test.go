package shard

import (
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/shard/driver"
)

// TestPrefixOverShards: a question that was asked before is answered alike, the
// coordinator hears how much of it was not computed again, and tenants share
// nothing.
func TestPrefixOverShards(t *testing.T) {
	b := newBench(t, 2)
	boss := b.boss("boss")
	p := b.plan(7, b.nodes...)
	boss.install(p, b.nodes...)
	drive, results := boss.streams(p, b.nodes[0], b.nodes[1])
	a := newAnswers(3)[2]
	a.most = 10
	want := alone(a.seed, a.prompt, a.most)
	for attempt, c := range []struct {
		salt   string
		cached int32
	}{{"a", 0}, {"a", 64}, {"b", 0}, {"b", 64}} {
		m := a.submit(0)
		m.GetSubmit().Open.Attempt, m.GetSubmit().Open.PrefixSalt = uint32(attempt+1), []byte(c.salt)
		if err := drive.Send(m); err != nil {
			t.Fatal(err)
		}
		var got []int32
		for end := pb.Finish(0); end == 0; {
			m, err := results.Recv()
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range m.Result.Sampled {
				got, end = append(got, s.Ids...), s.Finish
			}
			commit := &pb.Commit{Attempt: uint32(attempt + 1), Length: int32(len(a.prompt) + len(got))}
			if err := drive.Send(&pb.DriveRequest{Message: &pb.DriveRequest_Commit{Commit: commit}}); err != nil {
				t.Fatal(err)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("attempt %d: got %v, alone %v", attempt+1, got, want)
		}
		cached := int32(-1)
		for closed := false; !closed; {
			m, err := drive.Recv()
			if err != nil {
				t.Fatal(err)
			}
			if p := m.GetPrefilled(); p != nil {
				cached = p.Cached
			}
			closed = m.GetClosed() != nil
		}
		if cached != c.cached {
			t.Errorf("attempt %d: %d positions cached, want %d", attempt+1, cached, c.cached)
		}
	}
}

// TestSchedules: what a client wishes reaches the driver.
func TestSchedules(t *testing.T) {
	for _, c := range []struct {
		wish *pb.Scheduling
		want driver.Schedule
	}{
		{nil, driver.Schedule{}},
		{&pb.Scheduling{Adaptive: proto.Bool(true), Prediction: proto.Bool(true)}, driver.Schedule{}},
		{&pb.Scheduling{Adaptive: proto.Bool(false), Chunk: 100}, driver.Schedule{Fixed: true, Chunk: 100}},
		{&pb.Scheduling{Prediction: proto.Bool(false), Chunk: 1 << 20}, driver.Schedule{NoDrafts: true, Chunk: 2048}},
		{&pb.Scheduling{LowLatency: proto.Bool(true)}, driver.Schedule{Class: driver.ClassLatency}},
		{&pb.Scheduling{LowLatency: proto.Bool(false)}, driver.Schedule{Class: driver.ClassThroughput}},
	} {
		if got := scheduleOf(c.wish); got != c.want {
			t.Errorf("%v becomes %+v, want %+v", c.wish, got, c.want)
		}
	}
}
