package arch

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// leastVersions are the first versions without a known hole that matters here.
var leastVersions = map[string]string{
	"google.golang.org/grpc":          "v1.79.3", // CVE-2026-33186: paths without a slash evaded rules by method
	"github.com/hashicorp/memberlist": "v0.7.0",  // bounds on packed and claimed sizes
	"golang.org/x/net":                "v0.23.0", // CVE-2023-45288: endless CONTINUATION frames
}

// TestVersionsAreNotKnownToBeBroken: go.mod asks for no version below the least.
func TestVersionsAreNotKnownToBeBroken(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	required := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^\s*(?:require )?([a-z][^\s()]+) (v\d[^\s]*)`).FindAllStringSubmatch(string(text), -1) {
		required[m[1]] = m[2]
	}
	for module, least := range leastVersions {
		have, ok := required[module]
		if !ok {
			t.Errorf("%s is not required any more: drop its row", module)
		} else if below(t, have, least) {
			t.Errorf("%s %s: %s is the first version without a known hole", module, have, least)
		}
	}
}

// below compares two versions vMAJOR.MINOR.PATCH, whatever follows.
func below(t *testing.T, a, b string) bool {
	t.Helper()
	x, y := numbers(t, a), numbers(t, b)
	for i := range x {
		if x[i] != y[i] {
			return x[i] < y[i]
		}
	}
	return false
}

func numbers(t *testing.T, version string) (out [3]int) {
	t.Helper()
	core, _, _ := strings.Cut(strings.TrimPrefix(version, "v"), "-")
	parts := strings.Split(core, ".")
	if len(parts) != len(out) {
		t.Fatalf("version %s: want three numbers", version)
	}
	for i, p := range parts {
		n, err := strconv.Atoi(p)
		if err != nil {
			t.Fatalf("version %s: %v", version, err)
		}
		out[i] = n
	}
	return out
}

// TestVersionsCompare: numbers are compared as such, most significant first.
func TestVersionsCompare(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{{"v1.9.0", "v1.10.0", true}, {"v1.10.0", "v1.9.0", false}, {"v2.0.0", "v1.9.9", false}, {"v1.2.3", "v1.2.3", false}, {"v0.0.0-20200101", "v0.0.1", true}} {
		if got := below(t, c.a, c.b); got != c.want {
			t.Errorf("%s below %s is %v", c.a, c.b, got)
		}
	}
}
