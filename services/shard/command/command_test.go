package command

import (
	"errors"
	"strings"
	"testing"
	"time"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// planOf is a plan of one stage for each pipeline, which has its epoch.
func planOf(coordinator string, epoch uint64, pipelines ...uint64) *pb.Plan {
	p := &pb.Plan{Epoch: epoch, Coordinator: coordinator, Model: &pb.Model{Name: "m", Digest: make([]byte, 32), Layers: 1}}
	for i, e := range pipelines {
		p.Pipelines = append(p.Pipelines, &pb.Pipeline{
			Id: uint32(i), Epoch: e, Pages: 1, Slots: 1, Rows: 1, Lanes: 1, Context: 1,
			Stages: []*pb.Stage{{Node: "a", Address: "a:1", End: 1, Embed: true, Head: true}},
		})
	}
	return p
}

func lend(coordinator string) *pb.Lease { return &pb.Lease{Coordinator: coordinator} }

// TestPlansAreFenced: a plan comes from who holds the lease and is newer than all
// before; pipelines that both have go on.
func TestPlansAreFenced(t *testing.T) {
	now := time.Unix(1000, 0)
	var m Machine
	install := func(coordinator string, p *pb.Plan) (bool, map[Key]bool, string) {
		t.Helper()
		if r := m.Check(coordinator, p); r != nil {
			return false, nil, r.Reason
		}
		news, stay, r := m.Install(coordinator, p, now)
		return news, stay, r.GetReason()
	}
	if _, _, why := install("c", planOf("c", 0x101, 0x101)); !strings.Contains(why, "lease") {
		t.Errorf("without a lease: %q", why)
	}
	if r := m.Grant("c", lend("c"), now); r != nil {
		t.Fatal(r.Reason)
	}
	if r := m.Grant("d", lend("d"), now); r == nil {
		t.Error("two have the lease")
	}
	if _, _, why := install("c", planOf("d", 0x101, 0x101)); !strings.Contains(why, `coordinator "d"`) {
		t.Errorf("another's plan: %q", why)
	}
	if news, stay, why := install("c", planOf("c", 0x201, 0x201, 0x201)); !news || len(stay) > 0 || why != "" {
		t.Errorf("the first plan: %t, %v, %q", news, stay, why)
	}
	if news, _, why := install("c", planOf("c", 0x201, 0x201, 0x201)); news || why != "" {
		t.Errorf("the same plan again: %t, %q", news, why)
	}
	if _, _, why := install("c", planOf("c", 0x201, 0x201)); !strings.Contains(why, "another plan") {
		t.Errorf("another plan of that epoch: %q", why)
	}
	if _, _, why := install("c", planOf("c", 0x101, 0x101)); !strings.Contains(why, "is over") {
		t.Errorf("an older plan: %q", why)
	}
	news, stay, why := install("c", planOf("c", 0x301, 0x201, 0x301))
	if !news || len(stay) != 1 || !stay[Key{0x201, 0}] || why != "" || m.Epoch() != 0x301 {
		t.Errorf("a newer plan: %t, %v, %q", news, stay, why)
	}
	m.End(errors.New("it stops"))
	if _, _, why := install("c", planOf("c", 0x401, 0x401)); why != "it stops" {
		t.Errorf("in the end: %q", why)
	}
}
