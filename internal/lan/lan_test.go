package lan

import (
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestWhatIsAnnouncedIsReadBack(t *testing.T) {
	for _, p := range []Place{
		{Cluster: "655d8e784ce0cf92", Gossip: "10.0.0.2:7946", Join: "10.0.0.2:7701"},
		{Cluster: "example.org", Gossip: "10.0.0.2:7946"},
	} {
		got, err := parse(append(p.text(), "color=blue"))
		if err != nil || got != p {
			t.Errorf("%+v is read as %+v: %v", p, got, err)
		}
		// Cluster id and addresses, and nothing else.
		if text := strings.Join(p.text(), " "); strings.Count(text, "=") > 3 {
			t.Errorf("it says %q", text)
		}
	}
}

func TestLiesAreNotTaken(t *testing.T) {
	for _, fields := range [][]string{
		nil, {"cluster=a"}, {"gossip=10.0.0.2:7946"},
		{"cluster=", "gossip=10.0.0.2:7946"}, {"cluster=a b", "gossip=10.0.0.2:7946"},
		{"cluster=" + strings.Repeat("a", 300), "gossip=10.0.0.2:7946"},
		{"cluster=a", "gossip=head.local:7946"}, {"cluster=a", "gossip=0.0.0.0:7946"},
		{"cluster=a", "gossip=10.0.0.2:0"}, {"cluster=a", "gossip=224.0.0.251:5353"},
		{"cluster=a", "gossip=10.0.0.2:7946", "join=x"},
	} {
		if p, err := parse(fields); err == nil {
			t.Errorf("%q is read as %+v", fields, p)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("cluster=a\ngossip=10.0.0.2:7946\njoin=10.0.0.2:7701")
	f.Fuzz(func(t *testing.T, text string) {
		if p, err := parse(strings.Split(text, "\n")); err == nil {
			if again, err := parse(p.text()); err != nil || again != p {
				t.Errorf("%+v is read back as %+v: %v", p, again, err)
			}
		}
	})
}

// TestNoNetworkOfThatAddress: the error names it. (Networks are tried with network
// namespaces, in internal/systemtest.)
func TestNoNetworkOfThatAddress(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	const nowhere = "192.0.2.77"
	if _, err := Find(t.Context(), nowhere, "", time.Millisecond, log); err == nil || !strings.Contains(err.Error(), nowhere) {
		t.Errorf("find: %v", err)
	}
	if err := Announce(t.Context(), nowhere, Place{Cluster: "a", Gossip: nowhere + ":1"}, log); err == nil || !strings.Contains(err.Error(), nowhere) {
		t.Errorf("announce: %v", err)
	}
	if err := Announce(t.Context(), nowhere, Place{}, log); err == nil {
		t.Error("nothing is announced")
	}
}
