package token_test

import (
	"strings"
	"testing"

	"github.com/shoal-llm/shoal/pkg/token"
	"pgregory.net/rapid"
)

func TestStopMatcherReleasesTextBeforeTheStop(t *testing.T) {
	for _, c := range []struct {
		stops  []string
		pieces string // cut at |
		want   string // what each piece releases, then Flush
		stop   bool
	}{
		{[]string{"STOP"}, "hello|world", "hello|world|", false},
		{[]string{"STOP"}, "a ST|OP b|c", "a |||", true},
		{[]string{"STOP"}, "a ST|ART", "a |START|", false},
		{[]string{"STOP"}, "a ST", "a |ST", false},
		{[]string{"aab"}, "aa|a|ab", "|a|a|", true},
		{[]string{"\n\n", "###"}, "x\n|#|##", "x|\n||", true},
		{[]string{"abc", "b"}, "a|b|c", "|a||", true},
		{[]string{"bc", "abc"}, "xabc", "x|", true},
		{[]string{""}, "abc", "abc|", false},
		{nil, "abc", "abc|", false},
		{[]string{"é"}, "caf|é!", "caf||", true},
	} {
		m := token.NewStopMatcher(c.stops)
		var got []string
		stopped := false
		for piece := range strings.SplitSeq(c.pieces, "|") {
			var out string
			out, stopped = m.Push(piece)
			got = append(got, out)
		}
		got = append(got, m.Flush())
		if line := strings.Join(got, "|"); line != c.want || stopped != c.stop {
			t.Errorf("stops %q, pieces %q: released %q, stopped %v; want %q, %v", c.stops, c.pieces, line, stopped, c.want, c.stop)
		}
	}
}

// firstStop is the definition, on the whole text.
func firstStop(text string, stops []string) (string, bool) {
	for end := range len(text) + 1 {
		longest := 0
		for _, s := range stops {
			if strings.HasSuffix(text[:end], s) {
				longest = max(longest, len(s))
			}
		}
		if longest > 0 {
			return text[:end-longest], true
		}
	}
	return text, false
}

func TestStopMatcherDoesNotDependOnPieces(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		short := rapid.StringMatching(`[ab]{1,4}`)
		stops := rapid.SliceOfN(short, 0, 3).Draw(t, "stops")
		pieces := rapid.SliceOfN(rapid.StringMatching(`[abc]{0,5}`), 0, 8).Draw(t, "pieces")
		want, wantStop := firstStop(strings.Join(pieces, ""), stops)
		m := token.NewStopMatcher(stops)
		var got strings.Builder
		stopped := false
		for _, p := range pieces {
			out, stop := m.Push(p)
			got.WriteString(out)
			stopped = stopped || stop
			if !strings.HasPrefix(want, got.String()) {
				t.Fatalf("released %q, which is not the beginning of %q", got.String(), want)
			}
		}
		got.WriteString(m.Flush())
		if got.String() != want || stopped != wantStop {
			t.Fatalf("stops %q, pieces %q: %q, %v; want %q, %v", stops, pieces, got.String(), stopped, want, wantStop)
		}
	})
}
