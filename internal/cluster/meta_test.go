package cluster

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/shoal-llm/shoal/internal/pki"
	shoalv1 "github.com/shoal-llm/shoal/proto/shoal/v1"
)

var here = netip.MustParseAddr("127.0.0.1")

func TestMetaRoundTrip(t *testing.T) {
	want := facts()
	raw, err := want.encode("a")
	if err != nil {
		t.Fatal(err)
	}
	got, err := decodeMeta("a", here, raw)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestMetaFitsOrIsRefused(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := facts()
		m.Roles = pki.AnyRole()
		m.GRPCAddr = rapid.StringMatching(`[a-z]{1,253}`).Draw(t, "host") + ":7700"
		m.Devices = make([]Device, rapid.IntRange(0, 20).Draw(t, "devices"))
		for i := range m.Devices {
			m.Devices[i] = Device{Backend: "webgpu", Name: rapid.StringN(0, 80, -1).Draw(t, "name"), UsableBytes: 1 << 40}
		}
		raw, err := m.encode("node")
		if err != nil {
			if !strings.Contains(err.Error(), "do not fit") {
				t.Fatal(err)
			}
			return
		}
		if len(raw) > MaxMetaBytes {
			t.Fatalf("%d bytes", len(raw))
		}
		got, err := decodeMeta("node", here, raw)
		if err != nil {
			t.Fatal(err)
		}
		for i, d := range got.Devices {
			if !strings.HasPrefix(m.Devices[i].Name, d.Name) || d.UsableBytes != 1<<40 {
				t.Fatalf("device %d is %+v, was %+v", i, d, m.Devices[i])
			}
		}
	})
}

func TestDecodeMetaRefusesLies(t *testing.T) {
	far := netip.MustParseAddr("10.0.0.9")
	good := func() *shoalv1.NodeMeta {
		return &shoalv1.NodeMeta{NodeId: "a", Roles: []string{"shard"}, GrpcAddr: "10.0.0.9:7700", Fingerprint: make([]byte, 32)}
	}
	for want, lie := range map[string]func(*shoalv1.NodeMeta){
		"":                func(*shoalv1.NodeMeta) {},
		"node id is":      func(m *shoalv1.NodeMeta) { m.NodeId = "b" },
		"no role":         func(m *shoalv1.NodeMeta) { m.Roles = nil },
		"want 64":         func(m *shoalv1.NodeMeta) { m.Fingerprint = m.Fingerprint[:31] },
		"want host:port":  func(m *shoalv1.NodeMeta) { m.GrpcAddr = "10.0.0.9" },
		"reaches nobody":  func(m *shoalv1.NodeMeta) { m.GrpcAddr = "[::]:7700" },
		"has no port":     func(m *shoalv1.NodeMeta) { m.GrpcAddr = "10.0.0.9:99999" },
		"is this machine": func(m *shoalv1.NodeMeta) { m.GrpcAddr = "127.0.0.1:7700" },
		"not believable":  func(m *shoalv1.NodeMeta) { m.Devices = []*shoalv1.DeviceSummary{{UsableBytes: 1 << 60}} },
		"at most 512":     func(m *shoalv1.NodeMeta) { m.Version = strings.Repeat("v", 500) },
		"cannot be read":  nil,
	} {
		raw := []byte{0xff, 0xff}
		if lie != nil {
			m := good()
			lie(m)
			var err error
			if raw, err = proto.Marshal(m); err != nil {
				t.Fatal(err)
			}
		}
		_, err := decodeMeta("a", far, raw)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("error %v, want one that says %q", err, want)
		}
	}
}

func FuzzDecodeMeta(f *testing.F) {
	raw, err := facts().encode("a")
	if err != nil {
		f.Fatal(err)
	}
	f.Add("a", raw)
	f.Add("", []byte{0xff})
	f.Fuzz(func(t *testing.T, name string, raw []byte) {
		m, err := decodeMeta(name, here, raw)
		if err != nil {
			return
		}
		if err := pki.CheckNodeID(name); err != nil {
			t.Fatalf("admitted: %v", err)
		}
		again, err := m.encode(name)
		if err != nil {
			return // a spelling that only fitted before
		}
		if _, err := decodeMeta(name, here, again); err != nil {
			t.Fatalf("what was admitted is refused when it is sent on: %v", err)
		}
	})
}
