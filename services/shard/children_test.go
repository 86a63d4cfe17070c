package shard

import (
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/shoal-llm/shoal/internal/pki"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// TestChildren: a coordinator hears of the children that there are when it comes,
// and of every change after that.
func TestChildren(t *testing.T) {
	b := newBench(t, 1)
	n := b.nodes[0]
	child := func(name string, state pb.ChildState, reason string) *pb.Child {
		return &pb.Child{Node: name, State: state, Reason: reason, Device: &pb.Device{Name: "a GPU"}}
	}
	n.shard.Announce(child("shard-0.gpu0", pb.ChildState_CHILD_STATE_STARTING, ""))
	n.shard.Announce(child("shard-0.gpu0", pb.ChildState_CHILD_STATE_READY, ""))
	n.shard.Announce(child("shard-0.gpu1", pb.ChildState_CHILD_STATE_REFUSED, "it is wrong"))
	control := b.boss("boss").lease(n)
	heard := func() string {
		t.Helper()
		for {
			m, err := control.Recv()
			if err != nil {
				t.Fatal(err)
			}
			if c := m.GetChild(); c != nil {
				return fmt.Sprintln(c.Node, c.State, c.Reason)
			}
		}
	}
	got := []string{heard(), heard()}
	slices.Sort(got)
	want := []string{"shard-0.gpu0 CHILD_STATE_READY \n", "shard-0.gpu1 CHILD_STATE_REFUSED it is wrong\n"}
	if !slices.Equal(got, want) {
		t.Errorf("a new coordinator hears %q, want %q", got, want)
	}
	n.shard.Announce(child("shard-0.gpu0", pb.ChildState_CHILD_STATE_LOST, "it ended"))
	if got, want := heard(), "shard-0.gpu0 CHILD_STATE_LOST it ended\n"; got != want {
		t.Errorf("then it hears %q, want %q", got, want)
	}
	_, why := n.shard.Ready()
	if why["shard-0.gpu0"] != "lost: it ended" || why["shard-0.gpu1"] != "refused: it is wrong" {
		t.Errorf("health says %v", why)
	}
}

// TestNoDevice: a shard has a device, or children that have.
func TestNoDevice(t *testing.T) {
	b := newBench(t, 0)
	for _, children := range []bool{false, true} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		_, err = New(Config{}, Deps{
			Identity: b.identity("bare", pki.Shard), Listener: l, Children: children, Open: fakeModel, Log: slog.New(slog.DiscardHandler),
		})
		if (err == nil) != children || err != nil && !strings.Contains(err.Error(), "no device") {
			t.Errorf("children %v: %v", children, err)
		}
	}
}

// TestLostDeviceEndsShard: a pass that says that the device is gone ends the
// pipeline, and the shard itself: its process is started again.
func TestLostDeviceEndsShard(t *testing.T) {
	b := newBench(t, 2)
	boss := b.boss("boss")
	p := b.plan(1, b.nodes...)
	boss.install(p, b.nodes...)
	drive, _ := boss.streams(p, b.nodes[0], b.nodes[1])
	b.nodes[1].backend.lost.Store(true)
	if err := drive.Send(newAnswers(1)[0].submit(0)); err != nil {
		t.Fatal(err)
	}
	if reason := faultOf(drive); !strings.Contains(reason, "lost") {
		t.Errorf("fault says %q", reason)
	}
	select {
	case <-b.nodes[1].ended:
	case <-b.ctx.Done():
		t.Error("the shard goes on without its device")
	}
}
