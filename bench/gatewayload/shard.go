//go:build linux

package main

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/shoal-llm/shoal/internal/pki"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// instantShard answers as a shard does that computes in no time: the first id
// of a session at once, the others at shardRate a second, as far as the
// coordinator lets it run ahead.
type instantShard struct {
	pb.UnimplementedShardServiceServer
	node    string
	id      *pki.Identity
	sampled chan *pb.Sampled // to the one stream of results
}

const (
	shardName = "load-shard"
	shardRate = 8 // tokens a second of each session
)

func newInstantShard(id *pki.Identity) *instantShard {
	return &instantShard{node: shardName, id: id, sampled: make(chan *pb.Sampled, 4096)}
}

// Hello introduces one device with all the memory there is.
func (f *instantShard) Hello(context.Context, *pb.HelloRequest) (*pb.HelloResponse, error) {
	return &pb.HelloResponse{Protocol: 1, Cluster: f.id.ClusterID(), Node: f.node, Version: "load",
		Devices: []*pb.Device{{MemoryBytes: 1 << 40, NumericsClass: "load"}}}, nil
}

// Beat answers heartbeats.
func (f *instantShard) Beat(stream pb.ShardService_BeatServer) error {
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		if err := stream.Send(&pb.BeatResponse{Sequence: m.Sequence}); err != nil {
			return err
		}
	}
}

// Control reports every stage of a plan as ready.
func (f *instantShard) Control(stream pb.ShardService_ControlServer) error {
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		p := m.GetPlan()
		if p == nil {
			continue
		}
		for i := range p.Pipelines[0].Stages {
			for _, state := range []pb.LoadState{pb.LoadState_LOAD_STATE_LOADING, pb.LoadState_LOAD_STATE_READY} {
				out := &pb.StageState{Epoch: p.Epoch, Stage: uint32(i), State: state}
				if err := stream.Send(&pb.ControlResponse{Message: &pb.ControlResponse_Stage{Stage: out}}); err != nil {
					return err
				}
			}
		}
	}
}

// Results sends what sessions have sampled, all that waits in one step.
func (f *instantShard) Results(req *pb.ResultsRequest, stream pb.ShardService_ResultsServer) error {
	if err := stream.SendHeader(nil); err != nil {
		return err
	}
	for step := uint64(1); ; step++ {
		r := &pb.StepResult{PlanEpoch: req.Epoch, Step: step}
		select {
		case <-stream.Context().Done():
			return stream.Context().Err()
		case s := <-f.sampled:
			r.Sampled = append(r.Sampled, s)
		}
		for waiting := len(f.sampled); waiting > 0; waiting-- {
			r.Sampled = append(r.Sampled, <-f.sampled)
		}
		if err := stream.Send(&pb.ResultsResponse{Result: r}); err != nil {
			return err
		}
	}
}

// Drive runs the sessions that a coordinator submits.
func (f *instantShard) Drive(stream pb.ShardService_DriveServer) error {
	d := &instantDriver{shard: f, stream: stream, sessions: map[uint32]*instantSession{}}
	defer d.work.Wait()
	defer func() {
		for _, s := range d.sessions {
			close(s.halted)
		}
	}()
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		d.take(m)
	}
}

// instantDriver is the sessions of one Drive stream.
type instantDriver struct {
	shard    *instantShard
	stream   grpc.BidiStreamingServer[pb.DriveRequest, pb.DriveResponse]
	sessions map[uint32]*instantSession // by attempt
	work     sync.WaitGroup
	sending  sync.Mutex
}

type instantSession struct {
	*pb.Submit
	committed chan int32    // holds the newest length
	halted    chan struct{} // closed when it must end
}

func (d *instantDriver) take(m *pb.DriveRequest) {
	switch m := m.Message.(type) {
	case *pb.DriveRequest_Submit:
		s := &instantSession{m.Submit, make(chan int32, 1), make(chan struct{})}
		d.sessions[m.Submit.Open.Attempt] = s
		d.work.Go(func() { d.run(s) })
	case *pb.DriveRequest_Commit:
		if s := d.sessions[m.Commit.Attempt]; s != nil {
			select { // the newest replaces what was not seen
			case <-s.committed:
			default:
			}
			s.committed <- m.Commit.Length
		}
	case *pb.DriveRequest_Halt:
		if s := d.sessions[m.Halt.Attempt]; s != nil {
			close(s.halted)
			delete(d.sessions, m.Halt.Attempt)
		}
	}
}

// run samples until the session ends or is halted, and then closes the slot.
func (d *instantDriver) run(s *instantSession) {
	open, length := s.Open, int32(len(s.Tokens))
	d.reply(&pb.DriveResponse{Message: &pb.DriveResponse_Prefilled{Prefilled: &pb.Prefilled{
		Slot: open.Slot, Attempt: open.Attempt, Done: length, Total: length,
	}}})
	clock := time.NewTicker(time.Second / shardRate)
	defer clock.Stop()
	committed := length
	for end := open.AnswerStart + open.Sampling.MaxTokens; ; length++ {
		for length >= committed+int32(s.Ahead) { // no credit
			select {
			case committed = <-s.committed:
			case <-s.halted:
				d.close(open)
				return
			}
		}
		r := &pb.Sampled{Slot: open.Slot, Attempt: open.Attempt, Position: length, Ids: []int32{1}}
		if length+1 >= end {
			r.Finish = pb.Finish_FINISH_LENGTH
		}
		d.shard.sampled <- r
		if length+1 >= end {
			break
		}
		select {
		case <-clock.C:
		case <-s.halted:
			d.close(open)
			return
		}
	}
	d.close(open)
}

func (d *instantDriver) close(open *pb.OpenSession) {
	d.reply(&pb.DriveResponse{Message: &pb.DriveResponse_Closed{Closed: &pb.Closed{Slot: open.Slot, Attempt: open.Attempt}}})
}

func (d *instantDriver) reply(m *pb.DriveResponse) {
	d.sending.Lock()
	defer d.sending.Unlock()
	_ = d.stream.Send(m) // a broken stream shows at Recv
}
